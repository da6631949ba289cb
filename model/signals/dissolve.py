"""Dissolves: one shot melts into the next."""

from __future__ import annotations

from math import isnan

from model.signals.measures import Measures
from model.signals.mixture import Mixture, apart
from model.signals.spans import span_event
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent


def dissolves(
    measures: Measures, candidates: list[Mixture], taken: list[Mixture], thresholds: Thresholds
) -> list[tuple[Mixture, WindowEvent]]:
    """The widest dissolves that overlap neither each other nor the fades in `taken`."""
    taken = list(taken)
    found = []
    for fit in candidates:
        if not apart(fit, taken):
            continue
        kept = measures.persistence(fit.first, fit.last)
        if isnan(kept) or kept > thresholds.dissolve_persistence:
            continue
        taken.append(fit)
        found.append((fit, span_event(measures, fit.first, fit.last, "dissolve", "dissolve", 1 - fit.residual)))
    return found
