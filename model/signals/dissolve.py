"""Dissolves: one shot melts into the next."""

from __future__ import annotations

from math import isnan

from model.signals.measures import Measures
from model.signals.mixture import Mixture
from model.signals.thresholds import Thresholds


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
    if (
        fit.residual <= thresholds.dissolve_residual
        and measures.histogram_distance(fit.first, fit.last) >= thresholds.dissolve_recolour
        and measures.correlation(fit.first, fit.last) < thresholds.dissolve_correlation
    ):
        return True
    return dip and kept <= thresholds.dissolve_alike and fit.residual <= thresholds.mixture_residual
