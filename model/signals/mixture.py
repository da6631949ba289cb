"""Gradual transitions: stretches whose pictures are mixtures of their first and their last one.

In a dissolve every picture between is (1 - a) first + a last with a rising from 0 to 1, and in a fade one of the two is
a single colour. Fitted by least squares on thumbnails, where motion and grain have mostly gone (the production model of
Hampapur, Jain and Weymouth, "Digital video segmentation", ACM Multimedia 1994).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.signals.measures import Measures
from model.signals.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Mixture:
    """Frames `first` (the last pure picture before) .. `last` (the first pure one after); `residual`: the worst of the
    frames between, as a share of the distance of the two ends."""

    first: int
    last: int
    residual: float


def mixtures(measures: Measures, thresholds: Thresholds) -> list[Mixture]:
    """Every stretch of at least three frames that fits, the widest first, then the best fitting."""
    thumbs = measures.thumbs - measures.thumbs.mean()
    gram = (thumbs @ thumbs.T).astype(np.float64)
    least_square = thresholds.mixture_length**2 * thumbs.shape[1]
    found = []
    for s in range(len(measures) - 2):
        for e in range(s + 2, len(measures)):
            if measures.time_us[e] - measures.end_us[s] > thresholds.mixture_max_us:
                break
            square = gram[s, s] + gram[e, e] - 2 * gram[s, e]
            if square < least_square:
                continue
            k = np.arange(s + 1, e)
            part = (gram[k, e] - gram[k, s] - gram[s, e] + gram[s, s]) / square
            if part[0] < thresholds.mixture_least or part[-1] > 1 - thresholds.mixture_least:
                continue
            began, ended = float(measures.end_us[s]), float(measures.time_us[e])
            steady = (measures.time_us[k] - began) / max(1.0, ended - began)
            if np.any(np.diff(part) < 0.02) or np.abs(part - steady).max() > thresholds.mixture_bend:
                continue
            away = gram[k, k] + gram[s, s] - 2 * gram[k, s] - part**2 * square
            residual = float(np.sqrt(np.maximum(away, 0).max() / square))
            limit = thresholds.mixture_moving if len(k) > 1 else thresholds.mixture_residual_lone
            if residual <= limit:
                found.append(Mixture(s, e, residual))
    return sorted(found, key=lambda m: (m.first - m.last, m.residual))


def apart(mixture: Mixture, taken: list[Mixture]) -> bool:
    """Whether `mixture` shares no more than an end with those already taken."""
    return all(mixture.last <= other.first or mixture.first >= other.last for other in taken)
