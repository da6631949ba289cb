"""When a frame must be read: its text-like regions differ from those of the last frame read.

Reading costs a hundred times more than looking whether strokes changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.signals.thresholds import Thresholds
from pipeline.frames import Frames

CELL = 8  # px: about the height of the smallest text that is read


@dataclass(frozen=True, eq=False)
class Strokes:
    """What the change test compares: `luma` uint8 [H, W]; `strong` bool [h, w]: cells of `CELL` px with strokes."""

    luma: npt.NDArray[np.uint8]
    strong: npt.NDArray[np.bool_]


def strokes(picture: npt.NDArray[np.uint8], thresholds: Thresholds) -> Strokes:
    luma = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    edges = np.asarray(cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), np.uint8)
    return Strokes(luma, cell_means(edges) >= thresholds.stroke_edge)


def cell_means(plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = plane.shape
    cells = max(1, width // CELL), max(1, height // CELL)
    return np.asarray(cv2.resize(plane, cells, interpolation=cv2.INTER_AREA), np.uint8)


def changed_cells(a: Strokes, b: Strokes, thresholds: Thresholds) -> int:
    """How many cells with strokes in either picture differ."""
    differs = cell_means(np.asarray(cv2.absdiff(a.luma, b.luma), np.uint8)) >= thresholds.stroke_change
    return int((differs & (a.strong | b.strong)).sum())


def frames_to_read(frames: Frames, thresholds: Thresholds) -> list[int]:
    """Indices of the frames to read. A change is read at once while changes are rare; where the picture changes all
    the time, reads come at a steady pace (a token bucket)."""
    chosen: list[int] = []
    last: Strokes | None = None
    tokens, when = thresholds.read_burst, int(frames.time_us[0])
    for i, picture in enumerate(frames.pixels):
        now = int(frames.time_us[i])
        tokens = min(thresholds.read_burst, tokens + (now - when) / thresholds.read_interval_us)
        when = now
        seen = strokes(picture, thresholds)
        if last is not None and changed_cells(last, seen, thresholds) < thresholds.stroke_cells:
            continue
        if last is None and not seen.strong.any():
            continue
        if tokens >= 1:
            tokens -= 1
            last = seen
            chosen.append(i)
    return chosen
