"""Sending batches of packets to libavcodec and getting the wanted pictures back."""

from __future__ import annotations

import av
import numpy as np
import numpy.typing as npt

from pipeline.decode.limits import DecodeLimits
from pipeline.decode.pictures import Converter
from pipeline.decode.schedule import Batch, Pick
from pipeline.decode.source import Entry, PacketSource

_REORDERED = 64  # a picture comes out at most this many packets after its own, or not at all


def prepare(source: PacketSource, limits: DecodeLimits) -> av.VideoCodecContext:
    """The stream's codec context, set to one thread and to the limits, not yet opened."""
    context = source.stream.codec_context
    if not context.is_open:
        context.thread_count = 1
        context.options = {**context.options, "max_pixels": str(limits.max_pixels)}
    return context


class Decoder:
    """One single-threaded decoder. Whatever is decoded after damage, up to the next entry point, counts as lost."""

    def __init__(self, context: av.VideoCodecContext, converter: Converter) -> None:
        self._context, self._convert = context, converter
        self._reset()

    def _reset(self) -> None:
        self._number = 0  # of packets sent since the reset
        self._sent: dict[int, int] = {}  # pts -> number, of packets whose picture has not come out
        self._alone: set[int] = set()  # pts of pictures whose damage harms no other: disposable ones and orphans
        self._orphans: set[int] = set()
        self._waiting: dict[int, Pick] = {}
        self._held: list[tuple[int, Pick, npt.NDArray[np.uint8]]] = []  # decoded; an earlier picture may prove damaged
        self._damaged: int | None = None  # number of the first damaged packet
        self._head: int | None = None  # pts of the entry point that decoding began with

    def run(self, batch: Batch) -> None:
        """Sends a batch. Its picks are answered in this call or in a later one."""
        if batch.fresh:
            self.finish()
        for entry in batch.entries:
            if entry.entry and self._damaged is not None:
                self.finish()  # an entry point heals
            pts = entry.pts
            assert pts is not None
            if self._number == 0 and entry.entry:
                self._head = pts
            self._number += 1
            pick = batch.picks.get(pts) if entry.shown else None
            if pick is not None:
                self._waiting[pts] = pick
            self._sent[pts] = self._number
            orphan = entry.orphan or (self._head is not None and pts < self._head)
            if orphan:
                self._orphans.add(pts)
            if orphan or entry.disposable:
                self._alone.add(pts)
            if self._damaged is None:
                self._send(entry)
            self._release()

    def _send(self, entry: Entry) -> None:
        if entry.after_gap and not entry.entry:
            self._damaged = self._number
        try:
            frames = self._context.decode(entry.packet)
        except av.error.MemoryError:  # not the file's fault
            raise
        except av.error.FFmpegError:
            self._spoil(entry.pts)  # type: ignore[arg-type]
            return
        for frame in frames:
            self._receive(frame)

    def _receive(self, frame: av.VideoFrame) -> None:
        pts = frame.pts
        if pts is None:
            return
        if frame.is_corrupt:
            self._spoil(pts)
            return
        number = self._sent.pop(pts, None)
        pick = self._waiting.pop(pts, None)
        if pick is None:
            return
        try:
            self._held.append((number or self._number, pick, self._convert(frame)))
        except av.error.FFmpegError:  # a format that libswscale does not take
            pick.state = "lost"

    def _spoil(self, pts: int) -> None:
        """The picture at `pts` is damaged, and with it all that may refer to it."""
        number = self._sent.pop(pts, None)
        if pts in self._waiting:
            self._waiting.pop(pts).state = "lost"
        if number is not None and pts not in self._alone:
            self._damaged = min(self._damaged or number, number)

    def _release(self, everything: bool = False) -> None:
        """Answers the picks whose every predecessor in decoding order has come out, sound or damaged."""
        if self._held:
            earliest = min((n for n in self._sent.values() if n > self._number - _REORDERED), default=self._number + 1)
            kept = []
            for number, pick, pixels in self._held:
                if self._damaged is not None and number >= self._damaged:
                    pick.state = "lost"
                elif number < earliest or everything:
                    pick.pixels, pick.state = pixels, "good"
                else:
                    kept.append((number, pick, pixels))
            self._held = kept
        if self._damaged is not None and self._waiting:
            for pts in [p for p in self._waiting if self._sent.get(p, self._damaged) >= self._damaged]:
                self._waiting.pop(pts).state = "lost"

    def finish(self) -> None:
        """Gets out what the decoder holds back, answers every pick, and resets the decoder."""
        if self._number:
            try:
                for frame in self._context.decode(None):
                    self._receive(frame)
            except av.error.MemoryError:  # not the file's fault
                raise
            except av.error.FFmpegError:
                self._damaged = self._damaged or self._number
            self._release(everything=True)
            for pts, pick in self._waiting.items():
                pick.state = "lost" if pts in self._orphans else "missing"
            self._context.flush_buffers()
        self._reset()
