"""From frames that show something to events with a start, an end and how sure these are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.signals.measures import Measures
from pipeline.event import WindowEvent


def runs(flags: Sequence[bool] | npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, last) of every run of true values."""
    first = None
    for i, flag in enumerate([*flags, False]):
        if flag and first is None:
            first = i
        elif not flag and first is not None:
            yield first, i - 1
            first = None


def span_event(
    measures: Measures, first: int, last: int, kind: str, text: str, confidence: float, **attributes: Any
) -> WindowEvent:
    """The event that frames `first..last` show: from the first one's time to when the last one leaves the screen.

    Where a boundary lies between two samples, `start_uncertainty_us` (the event began at most this much earlier) and
    `end_uncertainty_us` (it lasted at most this much longer) say so.
    """
    time_us, end_us = measures.time_us, measures.end_us
    before = int(time_us[first] - end_us[first - 1]) if first > 0 else 0
    after = int(time_us[last + 1] - end_us[last]) if last + 1 < len(measures) else 0
    if before > 0:
        attributes["start_uncertainty_us"] = before
    if after > 0:
        attributes["end_uncertainty_us"] = after
    return WindowEvent(
        start_us=max(0, int(time_us[first])),
        end_us=int(end_us[last]),
        kind=kind,
        text=text,
        confidence=round(min(1.0, max(0.0, confidence)), 3),
        evidence_us=tuple(sorted({int(time_us[i]) for i in (first, (first + last) // 2, last)})),
        attributes=attributes,
        continues_before=first == 0,
        continues_after=last == len(measures) - 1,
    )
