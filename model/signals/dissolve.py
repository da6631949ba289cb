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
        if not is_dissolve(measures, fit, thresholds):
            continue
        taken.append(fit)
        found.append((fit, span_event(measures, fit.first, fit.last, "dissolve", "dissolve", 1 - fit.residual)))
    return found


def is_dissolve(measures: Measures, fit: Mixture, thresholds: Thresholds) -> bool:
    """Whether two places mix. Mixing two pictures halves their contrast, which a slow pan (whose pictures also lie near
    a line) does not; and motion within the shots makes the fit worse, the places no more alike."""
    kept = measures.persistence(fit.first, fit.last)
    if isnan(kept):
        return False
    ends = min(measures.contrast[fit.first], measures.contrast[fit.last])
    dip = float(measures.contrast[fit.first + 1 : fit.last].min()) < thresholds.dissolve_dip * float(ends)
    if kept <= thresholds.dissolve_persistence:
        return dip or fit.residual <= thresholds.mixture_residual
    return dip and kept <= thresholds.dissolve_alike and fit.residual <= thresholds.mixture_residual
