"""The sound of a segment as AAC frames that follow those of the segment before without a seam.

AAC codes overlapping blocks of 1024 samples. All segments of a video share one grid of blocks that begins at its zero;
each is encoded with a few blocks before it, which are thrown away, so that the encoder is in step where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer

from pipeline.decode import DecodeLimits
from pipeline.decode.media import open_media, translated
from pipeline.decode.timeline import Timeline
from pipeline.plan import SECOND_US
from pipeline.video import Video

RATE, BLOCK = 48_000, 1024
WARM = 4  # blocks that are encoded before the first one that counts
_BACK_US = SECOND_US // 2  # sound before the span that a seek may land in
_PACKETS_PAST = 200  # in a row, after the span: tracks need not be interleaved well


class SegmentSound:
    """The first sound track of a video, stereo; silence where it has none there."""

    def __init__(self, container: OutputContainer, video: Video, start_us: int, end_us: int) -> None:
        self._video = video
        self._start, end = (Fraction(t * RATE, SECOND_US) for t in (start_us, end_us))
        self._blocks = range(-(-self._start // BLOCK), -(-end // BLOCK))
        self._stream = container.add_stream("aac", rate=RATE, layout="stereo")

    def packets(self) -> Iterator[av.Packet]:
        """Times count from the start of the segment."""
        first = self._blocks.start - WARM
        samples = self._samples(first * BLOCK, (self._blocks.stop + 1) * BLOCK)
        for packet in self._encoded(samples):
            at = first * BLOCK + round(Fraction(packet.pts or 0) * packet.time_base * RATE)
            if at // BLOCK in self._blocks:
                packet.pts = packet.dts = max(0, round(at - self._start))
                packet.time_base, packet.duration = Fraction(1, RATE), BLOCK
                packet.stream = self._stream
                yield packet

    def _encoded(self, samples: np.ndarray) -> Iterator[av.Packet]:
        for at in range(0, samples.shape[1], BLOCK):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, at : at + BLOCK]), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
            yield from self._stream.encode(frame)
        yield from self._stream.encode(None)

    def _samples(self, first: int, stop: int) -> np.ndarray:
        """float32 [2, stop - first], by the sample's place on the video's timeline."""
        found = np.zeros((2, stop - first), np.float32)
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=RATE)
        following: int | None = None
        for frame, at_us in self._frames(first * SECOND_US // RATE, stop * SECOND_US // RATE):
            for part in resampler.resample(frame):
                here = round(at_us * RATE / SECOND_US)
                # Times are rounded: only where they really jump does the sound.
                at = here if following is None or abs(here - following) > BLOCK else following
                values = part.to_ndarray()
                following = at + values.shape[1]
                low, high = max(at, first), min(following, stop)
                if low < high:
                    found[:, low - first : high - first] = values[:, low - at : high - at]
                at_us += values.shape[1] * SECOND_US // RATE
        return found

    def _frames(self, start_us: int, end_us: int) -> Iterator[tuple[av.AudioFrame, int]]:
        """(frame, when it is heard) for those that touch the span, ascending."""
        past = 0
        with open_media(self._video.uri, DecodeLimits(), self._video.size_bytes) as source:
            stream = next((s for s in source.streams.audio if s.codec_context is not None), None)
            if stream is None:
                return
            with translated(self._video.uri):
                if start_us > _BACK_US:
                    source.seek(start_us - _BACK_US + self._video.offset_us)
            for packet in _whole(source.demux(stream)):
                line = Timeline(packet.time_base, self._video.offset_us)
                past = past + 1 if packet.pts is not None and line.us(packet.pts) >= end_us else 0
                if past > _PACKETS_PAST:
                    return
                try:
                    frames = stream.codec_context.decode(packet)
                except av.error.FFmpegError:  # a damaged packet is silent
                    continue
                for frame in frames:
                    if frame.pts is None or frame.time_base is None:
                        continue
                    at_us = Timeline(frame.time_base, self._video.offset_us).us(frame.pts)
                    if start_us - _BACK_US < at_us < end_us:
                        yield frame, at_us


def _whole(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Packets as far as the file goes."""
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            return
        if packet is None:
            return
        yield packet
