"""The sound of a clip: every sound track's packets that begin in the span, or encoded anew where the container asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import av
from av.container import OutputContainer

from pipeline.decode import DecodeLimits
from pipeline.decode.media import open_media, translated
from pipeline.decode.timeline import Timeline
from pipeline.plan import SECOND_US
from pipeline.video import Video

_BACK_US = SECOND_US  # sound before the span that a seek may land in
_PACKETS_PAST = 200  # of every track, in a row, after the span: tracks need not be interleaved well


class Sound:
    """Reads the video's file a second time. `close` it."""

    def __init__(self, container: OutputContainer, video: Video, start_us: int, end_us: int) -> None:
        self._video, self._start_us, self._end_us = video, start_us, end_us
        self._stack = ExitStack()
        try:
            self._input = self._stack.enter_context(open_media(video.uri, DecodeLimits(), video.size_bytes))
            self._tracks = {s.index: _Track(container, s) for s in self._input.streams.audio if s.codec_context}
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def packets(self) -> Iterator[tuple[float, av.Packet]]:
        """(when it is heard, microseconds of the clip; packet), ascending."""
        past = 0
        for packet in self._read() if self._tracks else ():
            track = self._tracks[packet.stream.index]
            line = Timeline(packet.stream.time_base, self._video.offset_us)
            at_us = line.us(packet.pts or 0)
            past = past + 1 if at_us >= self._end_us else 0
            if past > _PACKETS_PAST:
                break
            if self._start_us <= at_us < self._end_us:
                zero = line.last_pts(self._start_us)
                for out in track.take(packet, zero):
                    yield float((out.dts or 0) * out.time_base) * SECOND_US, out
        for track in self._tracks.values():
            for out in track.finish():
                yield float(self._end_us - self._start_us), out

    def _read(self) -> Iterator[av.Packet]:
        with translated(self._video.uri):
            if self._start_us > _BACK_US:
                self._input.seek(self._start_us - _BACK_US + self._video.offset_us)
            packets = self._input.demux([s for s in self._input.streams.audio if s.index in self._tracks])
            while True:
                try:
                    packet = next(packets, None)
                except av.error.FFmpegError:  # the file breaks off here: the sound does too
                    return
                if packet is None:
                    return
                if packet.size and packet.pts is not None and not packet.is_discard:
                    yield packet


class _Track:
    def __init__(self, container: OutputContainer, stream: av.AudioStream) -> None:
        self._input = stream
        self._copied = stream.codec_context.codec.name in container.supported_codecs
        if self._copied:
            out: object = container.add_stream_from_template(stream, opaque=True)
        else:
            name = "libopus" if container.format.name == "webm" else "aac"
            out = container.add_stream(name, rate=48_000, layout="stereo")
        assert isinstance(out, av.AudioStream)
        self._out = out

    def take(self, packet: av.Packet, zero: int) -> list[av.Packet]:
        """What is written for a packet; `zero`: where the clip begins, in ticks of the track."""
        if not self._copied:
            found = []
            try:
                frames = self._input.codec_context.decode(packet)
            except av.error.FFmpegError:
                return []
            for frame in frames:
                frame.pts = max(0, (frame.pts or 0) - zero)
                found += self._out.encode(frame)
            return found
        packet.pts = packet.pts - zero  # type: ignore[operator]
        packet.dts = packet.pts
        packet.stream = self._out
        return [packet]

    def finish(self) -> list[av.Packet]:
        return [] if self._copied or not self._out.codec_context.is_open else self._out.encode(None)
