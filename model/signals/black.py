"""Black stretches: nothing to see, whatever the grain (ffmpeg's blackdetect, with a peak so that captions count)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.signals.measures import Measures
from model.signals.spans import runs, span_event
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent


def black_frames(measures: Measures, thresholds: Thresholds) -> npt.NDArray[np.bool_]:
    """bool [T]."""
    luma = measures.luma.reshape(len(measures), -1)
    dark = (luma <= thresholds.black_luma).mean(axis=1) >= thresholds.black_share
    return dark & (luma.max(axis=1) <= thresholds.black_peak)


def black_events(measures: Measures, black: npt.NDArray[np.bool_], thresholds: Thresholds) -> list[WindowEvent]:
    found = []
    for first, last in runs(black):
        brightest = float(measures.luma[first : last + 1].mean(axis=(1, 2)).max())
        sure = 1.0 - 0.5 * brightest / thresholds.black_luma
        found.append(span_event(measures, first, last, "black", "black picture", sure))
    return found
