"""Cuts: from one frame to the next the picture is another one, and no motion explains it."""

from __future__ import annotations

from math import isnan

import numpy as np
import numpy.typing as npt

from model.signals.measures import Measures
from model.signals.mixture import Mixture
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent
from pipeline.plan import SECOND_US


def cuts(measures: Measures, gradual: list[Mixture], thresholds: Thresholds) -> list[tuple[int, WindowEvent]]:
    """(index of the new shot's first frame, event) of every cut outside the gradual transitions."""
    kept = persistences(measures, thresholds)
    inside = {i for fit in gradual for i in range(fit.first + 1, fit.last + 1)}
    found = []
    for i in range(1, len(measures)):
        if i in inside:
            continue
        margin = cut_margin(measures, kept, i, thresholds)
        if margin > 0 and not is_flash(measures, i, thresholds):
            found.append((i, cut_event(measures, i, margin)))
    return found


def persistences(measures: Measures, thresholds: Thresholds) -> npt.NDArray[np.float64]:
    """float64 [T]: what frame i keeps of the one before; 1 where the thumbnails already agree; NaN without texture."""
    kept = np.ones(len(measures))
    for i in range(1, len(measures)):
        if measures.thumb_distance(i - 1, i) >= thresholds.cut_thumb:
            kept[i] = measures.persistence(i - 1, i)
    return kept


def cut_margin(measures: Measures, kept: npt.NDArray[np.float64], i: int, thresholds: Thresholds) -> float:
    """How far beyond the thresholds the step to frame i is; positive for a cut."""
    if isnan(kept[i]):
        return measures.thumb_distance(i - 1, i) / thresholds.cut_flat - 1
    limit = thresholds.cut_persistence + thresholds.cut_colour * measures.histogram_distance(i - 1, i)
    fall = usual(measures, kept, i) - float(kept[i])
    unlike = min(limit - float(kept[i]), fall - thresholds.cut_drop)
    recoloured = measures.histogram_distance(i - 1, i) - thresholds.cut_recolour
    jump = min(thresholds.jump_persistence - float(kept[i]), fall - thresholds.jump_drop)
    return max(unlike, jump, recoloured)


def usual(measures: Measures, kept: npt.NDArray[np.float64], i: int) -> float:
    """What steps near frame i keep: the median of the second before it or of the second after, whichever is less (a
    still shot may be followed by a fast one)."""
    since = measures.time_us - measures.time_us[i]
    sides = []
    for side in ((since < 0) & (since >= -SECOND_US), (since > 0) & (since <= SECOND_US)):
        side[0] = False  # nothing leads into the first frame
        if np.any(~np.isnan(kept[side])):
            sides.append(float(np.nanmedian(kept[side])))
    return min(sides, default=1.0)


def is_flash(measures: Measures, i: int, thresholds: Thresholds) -> bool:
    """Whether the step to frame i leads into or out of a flash: lighter for a moment, the same picture either side."""
    light = measures.brightness
    time_us = measures.time_us
    if light[i] - light[i - 1] >= thresholds.flash_rise:  # into: does the picture before come back soon?
        later = [j for j in range(i + 1, len(measures)) if time_us[j] - time_us[i] <= thresholds.flash_max_us]
        return any(same_place(measures, i - 1, j, thresholds) for j in later)
    if light[i - 1] - light[i] >= thresholds.flash_rise:  # out of: was this picture there shortly before?
        earlier = [j for j in range(i - 2, -1, -1) if time_us[i] - time_us[j + 1] <= thresholds.flash_max_us]
        return any(same_place(measures, j, i, thresholds) for j in earlier)
    return False


def same_place(measures: Measures, i: int, j: int, thresholds: Thresholds) -> bool:
    if measures.thumb_distance(i, j) < thresholds.cut_thumb:
        return True
    return abs(measures.brightness[i] - measures.brightness[j]) < thresholds.flash_rise and (
        measures.persistence(i, j) > thresholds.flash_persistence
    )


def cut_event(measures: Measures, i: int, margin: float) -> WindowEvent:
    """A moment: the time of the new shot's first sampled frame. The cut lies at most `uncertainty_us` before it."""
    gap = int(measures.time_us[i] - measures.end_us[i - 1])
    at = max(0, int(measures.time_us[i]))
    return WindowEvent(
        start_us=at,
        end_us=at,
        kind="cut",
        text="cut",
        confidence=round(min(1.0, 0.5 + 2.5 * margin), 3),
        evidence_us=(int(measures.time_us[i - 1]), int(measures.time_us[i])),
        attributes={"uncertainty_us": gap} if gap > 0 else {},
    )
