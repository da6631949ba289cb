"""Between a stream's own time stamps and microseconds on the video's timeline, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from pipeline.plan import SECOND_US


@dataclass(frozen=True, slots=True)
class Timeline:
    """`time_base`: seconds per tick of the stream. `offset_us`: subtracted from its rounded times."""

    time_base: Fraction
    offset_us: int

    def us(self, pts: int) -> int:
        """The time of `pts`: rounded to the nearest microsecond, halves away from zero, less the offset."""
        twice = 2 * SECOND_US * self.time_base.numerator * abs(pts)
        den = self.time_base.denominator
        rounded = (twice + den) // (2 * den)
        return (rounded if pts >= 0 else -rounded) - self.offset_us

    def last_pts(self, us: int) -> int:
        """The largest pts with `self.us(pts) <= us`."""
        raw = us + self.offset_us
        pts = (Fraction(2 * raw + 1, 2 * SECOND_US) / self.time_base).__floor__()
        return pts if self.us(pts) <= us else pts - 1

    def ticks(self, us: int) -> int:
        """A span of microseconds in ticks, rounded down."""
        return int(Fraction(us, SECOND_US) / self.time_base)
