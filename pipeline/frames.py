"""Decoded frames with their times: the only form in which pixels travel between the rooms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Frames of one span of one video, RGB, upright, square pixels.

    `pixels` uint8 [T, H, W, 3]; `time_us` int64 [T], strictly increasing: each frame's own presentation time on the
    video's timeline; `end_us` int64 [T]: when the next presented frame (sampled or not) replaces it, so that
    `[time_us[i], end_us[i])` is the span that frame i was on screen. `time_us[0]` can lie before the span asked for:
    the frame *at* a time is the last one presented at or before it. `lost_us`: spans that could not be decoded.
    """

    pixels: npt.NDArray[np.uint8]
    time_us: npt.NDArray[np.int64]
    end_us: npt.NDArray[np.int64]
    lost_us: tuple[tuple[int, int], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.time_us)

    @property
    def frame_bytes(self) -> int:
        return int(self.pixels.nbytes)
