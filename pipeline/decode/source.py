"""Packets of one stream in decoding order, beginning at a point from which decoding comes out right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.container import InputContainer

from pipeline.decode.bitstream import H264, Inspector, inspector
from pipeline.decode.limits import DecodeLimits
from pipeline.decode.media import open_media, select_stream
from pipeline.decode.timeline import Timeline
from pipeline.plan import SECOND_US
from pipeline.video import Video

_STEADY = 24  # steps of the same length after which a jump before an entry point counts as a hole
READ_FROM_START_US = 4 * SECOND_US  # nearer to the start than this, seeking is not worth its doubts


@dataclass(slots=True, eq=False)
class Entry:
    """A packet with what is known of its picture. `shown`: a player presents it (no edit list hides it).

    `orphan`: it may depend on pictures before the point where reading began.
    `after_gap`: pictures between it and the packet before are missing from the file.
    """

    packet: av.Packet
    pts: int | None
    dts: int | None
    size: int
    entry: bool
    disposable: bool
    shown: bool
    orphan: bool = False
    after_gap: bool = False


@dataclass(slots=True)
class PacketSource:
    """Reads the stream that `video` names; owns its container until `close`.

    After reading to its end, `broken` says what stopped the demuxer before the end of the file, if anything did.
    """

    video: Video
    limits: DecodeLimits
    stream: av.VideoStream = field(init=False)
    timeline: Timeline = field(init=False)
    broken: str | None = field(init=False, default=None)
    _container: InputContainer = field(init=False)
    _stack: ExitStack = field(init=False, default_factory=ExitStack)
    _moved: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._container = self._stack.enter_context(open_media(self.video.uri, self.limits, self.video.size_bytes))
        self.stream = select_stream(self._container, self.video)
        context = self.stream.codec_context
        self.limits.check_picture(self.video.uri, context.width, context.height)
        self.timeline = Timeline(self.stream.time_base or Fraction(1, SECOND_US), self.video.offset_us)

    def close(self) -> None:
        self._stack.close()

    def inspector(self) -> Inspector:
        context = self.stream.codec_context
        return inspector(context.codec.canonical_name, context.extradata)

    def key_after(self, pts: int) -> int | None:
        """The time stamp of the last key packet at or before `pts`, from the container's index where it has one."""
        index = self.stream.index_entries
        found = index.search_timestamp(pts) if len(index) else -1
        return index[found].timestamp if found >= 0 else None

    def timed(self, formats: frozenset[str]) -> bool:
        """Whether the container is one of `formats` (libav's short names)."""
        return not formats.isdisjoint(self._container.format.name.split(","))

    def first_video(self) -> int:
        """The index of the container's first video stream."""
        return min(stream.index for stream in self._container.streams.video)

    def read(self, at_pts: int) -> Iterator[Entry]:
        """Entries from an entry point at or before `at_pts`, or from the start of the stream.

        Every picture at or after `at_pts` in presentation order follows. Pictures that may depend on what lies before
        the entry point are marked as orphans.
        """
        second = self.timeline.ticks(SECOND_US)
        start = self.timeline.last_pts(0)
        back = 0
        while at_pts - back > start + READ_FROM_START_US // SECOND_US * second:
            entries = self._from(at_pts - back)
            first = next(entries, None)
            if first is not None and first.pts is not None and first.pts <= at_pts:
                yield first
                yield from entries
                return
            back = 4 * back or 2 * second
        yield from self._from(None)

    def _from(self, target: int | None) -> Iterator[Entry]:
        """Entries after a seek to `target`, the first one an entry point; or (None) all from the stream's start."""
        if not self._seek(target):
            return
        inspect = self.inspector()
        parameters = _Parameters(self._in_band(), complete=target is None)
        first: Entry | None = None
        clock = _Clock(inspect)
        holes_show = not self.timed(frozenset({"mov", "mp4"}))  # their index lists every picture
        for packet in self._packets():
            found = inspect.picture(packet)
            entry = found.entry and parameters.known(found.parameters)
            item = Entry(packet, packet.pts, packet.dts, packet.size, entry, found.disposable, not packet.is_discard)
            if first is not None:
                item.orphan = item.pts is not None and first.pts is not None and item.pts < first.pts
            elif entry:
                first = item
            elif target is not None:
                continue
            else:
                item.orphan = True
            item.after_gap = holes_show and clock.misses_before(packet, entry)
            yield item

    def _seek(self, target: int | None) -> bool:
        if target is None:
            if self._moved:  # seeking to the very start is not reliable in every format; opening again is
                self._stack.close()
                self._open()
        else:
            try:
                self._container.seek(target, stream=self.stream)
            except av.error.FFmpegError:
                return False
        self._moved = True
        return True

    def _packets(self) -> Iterator[av.Packet]:
        self.broken = None
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.MemoryError:  # not the file's fault
                raise
            except av.error.FFmpegError as error:
                self.broken = error.strerror
                return
            if packet is None:
                return
            if packet.size:
                yield packet

    def _in_band(self) -> bool:
        """Whether the stream carries its parameter sets among its pictures rather than in the container's header."""
        context = self.stream.codec_context
        if context.codec.canonical_name not in ("h264", "hevc"):
            return False
        return (context.extradata or b"")[:1] != b"\1" or context.codec_tag in ("avc3", "hev1", "dvhe")


class _Clock:
    """Finds holes in the file: where time jumps, and something else says that a picture is missing.

    A jump alone may be a picture that stays; a mark of the container alone may be the seam of two recordings.
    """

    def __init__(self, inspect: Inspector) -> None:
        self._inspect = inspect
        self._before: av.Packet | None = None
        self._last_pts: int | None = None  # the latest in presentation order
        self._steady = 0  # steps in a row of the one length that the packets say their pictures last
        self._length = 0

    def misses_before(self, packet: av.Packet, entry: bool) -> bool:
        before, self._before = self._before, packet
        if packet.pts is None:
            return False
        last_pts, self._last_pts = self._last_pts, max(packet.pts, self._last_pts or packet.pts)
        if before is None or last_pts is None or before.dts is None or packet.dts is None or not before.duration:
            return False
        # Matroska has no decoding times, and what libav puts in their place shows a hole too late.
        length = before.duration
        step = packet.dts - before.dts
        leap = packet.pts - last_pts if entry else step
        steady = self._steady
        self._steady = steady + 1 if abs(step - length) <= 1 and abs(length - self._length) <= 1 else 0
        self._length = length
        if 2 * leap <= 3 * length + 2:
            return False
        if before.is_corrupt or packet.is_corrupt:
            return True
        if entry:
            return steady >= _STEADY and leap >= 3 * length
        return isinstance(self._inspect, H264) and self._inspect.misses_between(before, packet)


class _Parameters:
    """Whether a decoder that starts at a key picture has the parameter sets that the picture needs."""

    def __init__(self, in_band: bool, complete: bool) -> None:
        self._needed = in_band and not complete  # what came before the place sought is unknown
        self._first = b""

    def known(self, carried: bytes) -> bool:
        if not carried:
            return not self._needed
        self._first = self._first or carried
        if carried != self._first:
            self._needed = True  # from now on the headers differ from those that the decoder began with
        return True
