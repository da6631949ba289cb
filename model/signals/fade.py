"""Fades: a picture sinks into one single colour (fade_out) or rises from it (fade_in)."""

from __future__ import annotations

from model.signals.measures import Measures
from model.signals.mixture import Mixture
from model.signals.thresholds import Thresholds


def fade_kind(measures: Measures, fit: Mixture, thresholds: Thresholds) -> str | None:
    """fade_out, fade_in, or None for a mixture that is no fade."""
    if fit.residual > thresholds.mixture_residual:
        return None
    if is_faded(measures, fit.last, fit.first, thresholds):
        return "fade_out"
    return "fade_in" if is_faded(measures, fit.first, fit.last, thresholds) else None


def is_faded(measures: Measures, pale: int, full: int, thresholds: Thresholds) -> bool:
    """Whether frame `pale` is what is left of frame `full`: nothing but a colour, or, where the fade's far end was not
    sampled, the same picture with little contrast. (A dark other shot also has little contrast.)"""
    contrast = measures.contrast
    if contrast[pale] >= thresholds.fade_contrast * contrast[full]:
        return False
    if contrast[pale] <= thresholds.fade_flat:
        return True
    return measures.correlation(pale, full) >= thresholds.fade_likeness
