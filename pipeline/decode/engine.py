"""Answers wanted times of one video, in order and flat memory: by the packets where they tell, else the plain way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.decode.bitstream import H264
from pipeline.decode.limits import DecodeLimits
from pipeline.decode.media import translated
from pipeline.decode.pictures import Converter, sample_aspect
from pipeline.decode.plain import plain_answers
from pipeline.decode.pool import Pool
from pipeline.decode.schedule import Distrust, Pick, Schedule, Times
from pipeline.decode.source import PacketSource
from pipeline.plan import SECOND_US, Sampling
from pipeline.video import Video

#: Codecs of which a packet holds one picture, and whose key packets are points of entry (proved for H.264 and HEVC).
_BY_PACKETS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "prores", "dnxhd"})
#: Containers whose packets carry presentation times.
_TIMED = frozenset({"mov", "mp4", "matroska", "webm", "mpegts", "flv", "ivf", "mxf", "nut"})

#: Where the packets prove wrong, this much is decoded the plain way before they are trusted again.
_DETOUR_US = 20 * SECOND_US
_SECOND_CHANCES = 16


class Answer(NamedTuple):
    """What is shown at `at_us`: the frame presented in `[time_us, end_us)`; `pixels` is None where it was lost."""

    at_us: int
    time_us: int
    end_us: int
    pixels: npt.NDArray[np.uint8] | None


def answers(video: Video, times: Iterator[int], sampling: Sampling, limits: DecodeLimits) -> Iterator[Answer]:
    """An Answer for each wanted time (ascending) at which something is shown.

    Frames come out by the exact same rule whatever time is asked first. Raises VideoError.
    """
    wanted = Times(times)
    if wanted.peek() is None:
        return
    source = PacketSource(video, limits)
    try:
        engine = _Engine(source, wanted, sampling, limits)
        with translated(video.uri):
            for at_us, pick in engine.answers():
                if pick is not None:
                    yield Answer(at_us, pick.time_us, pick.end_us, pick.pixels if pick.state == "good" else None)
    finally:
        source.close()


class _Engine:
    def __init__(self, source: PacketSource, times: Times, sampling: Sampling, limits: DecodeLimits) -> None:
        self._source, self._times, self._sampling, self._limits = source, times, sampling, limits

    def answers(self) -> Iterator[tuple[int, Pick | None]]:
        if self._packets_tell():
            for _ in range(_SECOND_CHANCES):
                yield from self._by_packets()
                if (stuck_us := self._times.peek()) is None:
                    return
                self._times.until_us = stuck_us + _DETOUR_US
                yield from plain_answers(self._source, self._times, self._limits, self._converter())
                self._times.until_us = None
        yield from plain_answers(self._source, self._times, self._limits, self._converter())

    def _by_packets(self) -> Iterator[tuple[int, Pick | None]]:
        """Answers until the times are used up, or until the packets prove wrong; the rest goes back to the times."""
        schedule = Schedule(self._source, self._times, self._tolerance_us(), self._limits.threads > 1)
        pool = Pool(self._source, self._limits, self._converter)
        due = schedule.answers
        try:
            with suppress(Distrust):
                for batch in schedule.batches():
                    pool.submit(batch)
                    while due and _is_settled(due[0][1]):
                        yield due.popleft()
                    if due and due[0][1] is not None and due[0][1].state == "missing":
                        break
            pool.finish()
        finally:
            pool.close()
        while due and _is_settled(due[0][1]):
            yield due.popleft()
        self._times.give_back([t for t, _ in due])

    def _tolerance_us(self) -> int:
        """Below half of the sampling period, so that what is picked does not depend on where decoding began."""
        period_us = int(1_000_000 / self._sampling.fps)
        return max(0, min(self._sampling.tolerance_us, (period_us - 1) // 2))

    def _packets_tell(self) -> bool:
        context = self._source.stream.codec_context
        if context.codec.canonical_name not in _BY_PACKETS or not self._source.timed(_TIMED):
            return False
        inspector = self._source.inspector()
        return not (isinstance(inspector, H264) and inspector.interlaced_possible)

    def _converter(self) -> Converter:
        video = self._source.video
        size = self._sampling.size(video.width, video.height)
        return Converter(size, (video.width, video.height), sample_aspect(self._source.stream))


def _is_settled(pick: Pick | None) -> bool:
    return pick is None or pick.state in ("good", "lost")
