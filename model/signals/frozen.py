"""Frozen stretches: the very same picture again and again (ffmpeg's freezedetect, with a check of every cell)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from model.signals.measures import Measures
from model.signals.spans import span_event
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent

CELL = 8  # px of the small copy


def frozen_events(measures: Measures, empty: npt.NDArray[np.bool_], thresholds: Thresholds) -> list[WindowEvent]:
    """Every frozen stretch, however short at the window's edges: reduce drops those that stay short when stitched.

    `empty` bool [T]: black and blank frames, which are constant but not called frozen.
    """
    found = []
    first = 0
    while first < len(measures):
        last = first
        while (
            last + 1 < len(measures)
            and not empty[last + 1]
            and same_picture(measures, first, last, last + 1, thresholds)
        ):
            last += 1
        if not empty[first]:
            lasted_us = int(measures.end_us[last] - measures.time_us[first])
            at_edge = first == 0 or last == len(measures) - 1
            if lasted_us >= thresholds.frozen_min_us or (at_edge and last > first):
                worst = float(measures.change[first + 1 : last + 1].max(initial=0.0))
                sure = 1.0 - 0.5 * worst / thresholds.frozen_change
                found.append(span_event(measures, first, last, "frozen", "frozen picture", sure))
        first = last + 1
    return found


def same_picture(measures: Measures, first: int, before: int, now: int, thresholds: Thresholds) -> bool:
    """Whether `now` repeats the frame `before` and, so that slow drifts end it, the stretch's `first` one."""
    if measures.change[now] > thresholds.frozen_pulse:
        return False
    if before == first and measures.change[now] > thresholds.frozen_change:
        return False
    after = measures.change[now + 1] if now + 1 < len(measures) else 0.0
    if max(measures.change[now], measures.change[before] if before > first else 0.0) > thresholds.frozen_change < after:
        return False
    for other, factor in ((before, 1), (first, 2)):
        difference = cv2.absdiff(measures.luma[other], measures.luma[now])
        if difference.mean() > factor * thresholds.frozen_pulse:
            return False
        height, width = difference.shape
        cells = max(1, width // CELL), max(1, height // CELL)
        if cv2.resize(difference, cells, interpolation=cv2.INTER_AREA).max() > factor * thresholds.frozen_cell:
            return False
    return True
