"""Fades and dissolves of a window: the mixtures that are one or the other, none overlapping."""

from __future__ import annotations

from model.signals.dissolve import is_dissolve
from model.signals.fade import fade_kind
from model.signals.measures import Measures
from model.signals.mixture import Mixture, apart, mixtures
from model.signals.spans import span_event
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent

TEXTS = {"dissolve": "dissolve", "fade_out": "fade out", "fade_in": "fade in"}


def gradual_transitions(measures: Measures, thresholds: Thresholds) -> list[tuple[Mixture, WindowEvent]]:
    """The widest first: what lies within a dissolve may look like a fade of its own."""
    taken: list[Mixture] = []
    found = []
    for fit in mixtures(measures, thresholds):
        if not apart(fit, taken):
            continue
        kind = fade_kind(measures, fit, thresholds)
        if kind is None and is_dissolve(measures, fit, thresholds):
            kind = "dissolve"
        if kind is not None:
            taken.append(fit)
            found.append((fit, span_event(measures, fit.first, fit.last, kind, TEXTS[kind], 1 - fit.residual)))
    return found
