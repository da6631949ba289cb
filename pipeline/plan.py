"""From a video to the work on it: which times are sampled, what the model sees at once, what one task decodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, sqrt
from typing import Any

from pipeline.video import Video

SECOND_US = 1_000_000

#: Raised whenever the same sampling of the same video gives other pixels; part of a run's configuration.
PIXELS_VERSION = 2


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames are taken and how large they are.

    `fps`: samples per second, on the grid k / fps of the video's own timeline (so that every segment and every window
    of a video samples the same grid). `tolerance_us`: how far a cheaper frame may lie from the wanted time (0: exact).
    The picture is scaled to fit `short_side` px and `max_pixels` (whichever is smaller; never enlarged), both sides
    rounded to a multiple of `multiple` (2 at least). `redact`: what is hidden in them (`pipeline.redact`);
    `redact_identity`: by which detectors, as JSON, so that no process uses others ("": nobody asks).
    """

    fps: Fraction = Fraction(2)
    tolerance_us: int = 0
    short_side: int | None = 224
    max_pixels: int | None = None
    multiple: int = 2
    decoder: str = "pyav"
    redact: tuple[str, ...] = ()
    redact_identity: str = ""

    def times_us(self, start_us: int, end_us: int) -> Iterator[int]:
        """The wanted times in `[start_us, end_us)`: k / fps rounded to the nearest microsecond."""
        k = max(0, ceil(Fraction(2 * start_us - 1, 2 * SECOND_US) * self.fps))
        while (t := round_us(Fraction(k) / self.fps)) < end_us:
            if t >= start_us:
                yield t
            k += 1

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in px of the frames of a video that a player shows at `width` x `height`."""
        scale = 1.0
        if self.short_side is not None:
            scale = min(scale, self.short_side / min(width, height))
        if self.max_pixels is not None:
            scale = min(scale, sqrt(self.max_pixels / (width * height)))
        m = self.multiple
        return max(m, round(width * scale / m) * m), max(m, round(height * scale / m) * m)


def round_us(seconds: Fraction) -> int:
    """Seconds as integer microseconds, nearest, halves away from zero (as libav's av_rescale_q rounds)."""
    x = seconds * SECOND_US
    return int(x + Fraction(1, 2)) if x >= 0 else -int(-x + Fraction(1, 2))


@dataclass(frozen=True, slots=True)
class Window:
    """What the model sees together: `[start_us, end_us)` of one video. `index` counts from 0 within the video."""

    video_id: str
    index: int
    start_us: int
    end_us: int

    def __reduce__(self) -> tuple[Any, ...]:  # windows travel by the thousand: half the time of the default
        return Window, (self.video_id, self.index, self.start_us, self.end_us)


@dataclass(frozen=True, slots=True)
class Windowing:
    """Windows of `length_us`, each beginning `length_us - overlap_us` after the one before; the last may be shorter."""

    length_us: int = 16 * SECOND_US
    overlap_us: int = 1 * SECOND_US

    def count(self, duration_us: int) -> int:
        """How many windows a video of `duration_us` has (0 for an empty one)."""
        if duration_us <= 0:
            return 0
        stride = self.length_us - self.overlap_us
        return max(1, ceil(Fraction(duration_us - self.overlap_us, stride)))

    def window(self, video_id: str, index: int, duration_us: int) -> Window:
        start = index * (self.length_us - self.overlap_us)
        return Window(video_id, index, start, min(start + self.length_us, duration_us))


@dataclass(frozen=True, slots=True)
class Segment:
    """What one decode task reads: windows `[first, last]` of one video, in order."""

    video: Video
    first: int
    last: int


def segments(video: Video, windowing: Windowing, segment_us: int, have: Collection[int] = ()) -> Iterator[Segment]:
    """Cut a video's windows into segments of about `segment_us` each, lazily, without the windows that we `have`."""
    total = windowing.count(video.duration_us)
    per = max(1, segment_us // (windowing.length_us - windowing.overlap_us))
    first = 0
    while first < total:
        if first in have:
            first += 1
            continue
        last = first
        while last + 1 < total and last + 1 - first < per and last + 1 not in have:
            last += 1
        yield Segment(video, first, last)
        first = last + 1
