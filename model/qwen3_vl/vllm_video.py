"""A window's frames as a video for vLLM, in process or served: each with its own time.

vLLM's Qwen3-VL tells a frame's time as its index over the video's rate (`_calculate_timestamps`), so the rate is 1000
and the index the time in milliseconds; it is told not to sample again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.plan import SECOND_US

TICKS = 1000  # a second, of the times that vLLM is told
FEWEST = 2  # frames of a video: Qwen3-VL's processor refuses less than a temporal patch


def as_video(pixels: npt.NDArray[np.uint8], times_us: Sequence[int]) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Frames [T, H, W, 3] at `times_us`, and what says when each was on screen. Of one frame two are made, at the same
    time: so vLLM itself, and `announced_us`, fill up a pair."""
    missing = max(0, FEWEST - len(pixels))
    shown = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)]) if missing else pixels
    indices = [round(t * TICKS / SECOND_US) for t in [*times_us, *[times_us[-1]] * missing]]
    return shown, {
        "fps": float(TICKS),
        "frames_indices": indices,
        "total_num_frames": max(indices[-1] + 1, len(indices)),
        "duration": (indices[-1] + 1) / TICKS,
        "do_sample_frames": False,
    }
