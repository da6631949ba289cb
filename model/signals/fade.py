"""Fades: a picture sinks into one single colour (fade_out) or rises from it (fade_in)."""

from __future__ import annotations

from model.signals.measures import Measures
from model.signals.mixture import Mixture, apart
from model.signals.spans import span_event
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent


def fades(measures: Measures, candidates: list[Mixture], thresholds: Thresholds) -> list[tuple[Mixture, WindowEvent]]:
    """The widest fades that do not overlap. A fade's far end need not be sampled at full depth."""
    taken: list[Mixture] = []
    found = []
    for fit in candidates:
        near, far = measures.contrast[fit.first], measures.contrast[fit.last]
        out = far < thresholds.fade_contrast * near
        if (
            fit.residual <= thresholds.mixture_residual
            and (out or near < thresholds.fade_contrast * far)
            and apart(fit, taken)
        ):
            taken.append(fit)
            kind, text = ("fade_out", "fade out") if out else ("fade_in", "fade in")
            found.append((fit, span_event(measures, fit.first, fit.last, kind, text, 1 - fit.residual)))
    return found
