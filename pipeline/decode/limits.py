"""What a single video may ask of the machine that decodes it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import VideoError
from pipeline.plan import SECOND_US


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Limits that are checked before any pixel of a video is decoded, and the cores that decoding may use.

    `max_side` and `max_pixels`: of one coded picture; beyond them a few kilobytes could ask for gigabytes of memory.
    `max_duration_us`: a header can claim any duration. `threads`: decoders that work in parallel, one per GOP.
    """

    max_side: int = 16_384
    max_pixels: int = 8192 * 8192
    max_duration_us: int = 60 * 24 * 3600 * SECOND_US
    threads: int = 1

    def check_picture(self, uri: str, width: int, height: int) -> None:
        """Raises VideoError (too_large) for a picture beyond the limits."""
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            raise VideoError(
                uri,
                "too_large",
                f"its picture is {width} x {height} px; the limit is {self.max_side} px a side"
                f" and {self.max_pixels:,} px in all",
            )
