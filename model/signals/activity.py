"""How much moves, camera or scene, in levels that do not flicker."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from model.signals.measures import Measures
from model.signals.spans import span_event
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent
from pipeline.plan import SECOND_US

LEVELS = ("still", "low", "moderate", "high")
TEXTS = {"still": "still picture", "low": "low activity", "moderate": "moderate activity", "high": "high activity"}


def activity_events(
    measures: Measures, empty: npt.NDArray[np.bool_], broken: set[int], thresholds: Thresholds
) -> list[WindowEvent]:
    """One event per level held. `empty` bool [T]: frames with nothing to see; `broken`: steps (index of the later
    frame) that cross a transition, and so say nothing of motion."""
    shares = step_shares(measures, empty, broken, thresholds)
    amounts = smoothed(measures, shares)
    levels = held(measures, hysteresis(amounts, thresholds), empty, thresholds)
    found = []
    first = 0
    for i in range(1, len(measures) + 1):
        if i < len(measures) and levels[i] == levels[first]:
            continue
        if levels[first] >= 0:
            level = LEVELS[levels[first]]
            amount = float(np.nanmedian(amounts[first:i]))
            found.append(
                span_event(
                    measures, first, i - 1, "activity", TEXTS[level], sureness(amount, int(levels[first]), thresholds),
                    level=level, share=round(amount, 4),
                )
            )  # fmt: skip
        first = i
    return found


def step_shares(
    measures: Measures, empty: npt.NDArray[np.bool_], broken: set[int], thresholds: Thresholds
) -> npt.NDArray[np.float64]:
    """float64 [T]: share of the picture that would change within half a second, from the step into each frame; NaN
    where a step says nothing. A share a within dt becomes 1 - (1 - a) ** (0.5 s / dt): as if each moment changed other
    places, so that sampling rates compare."""
    shares = np.full(len(measures), np.nan)
    for i in range(1, len(measures)):
        if i in broken or empty[i] or empty[i - 1]:
            continue
        changed = float((cv2.absdiff(measures.luma[i - 1], measures.luma[i]) > thresholds.activity_luma).mean())
        seconds = float(measures.time_us[i] - measures.time_us[i - 1]) / SECOND_US
        shares[i] = 1 - (1 - min(changed, 0.999)) ** (0.5 / seconds)
    return shares


def smoothed(measures: Measures, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [T]: median of the steps within half a second either side of each frame; NaN where there is none."""
    amounts = np.full(len(measures), np.nan)
    for i, t in enumerate(measures.time_us):
        near = shares[np.abs(measures.time_us - t) <= SECOND_US // 2]
        own = shares[i : i + 2]  # the steps into and out of this frame, however far its neighbours are
        near = near if np.any(~np.isnan(near)) else own
        if np.any(~np.isnan(near)):
            amounts[i] = float(np.nanmedian(near))
    return amounts


def hysteresis(amounts: npt.NDArray[np.float64], thresholds: Thresholds) -> npt.NDArray[np.int64]:
    """int64 [T]: index into `LEVELS`, -1 where unknown. A level is left downwards only well below its threshold."""
    rise = np.array(thresholds.activity_levels)
    levels = np.full(len(amounts), -1)
    level = -1
    for i, amount in enumerate(amounts):
        if np.isnan(amount):
            continue
        up = int((amount >= rise).sum())
        down = int((amount >= rise * thresholds.activity_release).sum())
        level = up if level < 0 or up > level else min(level, max(up, down))
        levels[i] = level
    return levels


def held(
    measures: Measures, levels: npt.NDArray[np.int64], empty: npt.NDArray[np.bool_], thresholds: Thresholds
) -> npt.NDArray[np.int64]:
    """Levels with unknown frames filled from their neighbours (not empty ones) and brief ones given to the longer
    neighbour, the briefest first."""
    levels = levels.copy()
    for order in (range(1, len(levels)), range(len(levels) - 2, -1, -1)):
        step = order.step
        for i in order:
            if levels[i] < 0 and not empty[i] and not empty[i - step]:
                levels[i] = levels[i - step]
    ends = np.append(measures.time_us[1:], measures.end_us[-1:])
    while True:
        parts = []
        first = 0
        for i in range(1, len(levels) + 1):
            if i == len(levels) or levels[i] != levels[first]:
                parts.append((int(ends[i - 1] - measures.time_us[first]), first, i - 1))
                first = i
        brief = []
        for n, (lasted, first, last) in enumerate(parts):
            around = [p for p in parts[max(0, n - 1) : n] + parts[n + 1 : n + 2] if levels[p[1]] >= 0]
            if lasted < thresholds.activity_hold_us and levels[first] >= 0 and around:
                brief.append((lasted, first, last, levels[max(around)[1]]))
        if not brief:
            return levels
        _, first, last, level = min(brief)
        levels[first : last + 1] = level


def sureness(amount: float, level: int, thresholds: Thresholds) -> float:
    """0.5 at a level's threshold, towards 1 well inside."""
    rise = thresholds.activity_levels
    above = amount / rise[level - 1] if level > 0 else np.inf
    below = rise[level] / max(amount, 1e-9) if level < len(rise) else np.inf
    return float(1 - 0.5 / max(1.0, min(above, below)))
