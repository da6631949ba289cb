"""How well the events of a run agree with ground truth: detection, texts, times, windows' seams, confidence.

Ground truth comes in the layout of ActivityNet's JSON; predictions are rows of an event log, or anything with the same
fields. An event is found where a prediction of its kind overlaps it enough (tIoU), one prediction for one event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.groundtruth import Truth
from pipeline.matching import Spans, match, tiou
from pipeline.plan import SECOND_US

LEVELS = (0.5, 0.75)
#: The tIoU thresholds over which ActivityNet averages mAP.
MAP_LEVELS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
BINS = 10


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says happens."""

    start_us: int
    end_us: int
    kind: str
    text: str = ""
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """Of one kind, or of all, at one tIoU threshold."""

    truths: int
    predictions: int
    matched: int

    @property
    def precision(self) -> float:
        return self.matched / self.predictions if self.predictions else 0.0

    @property
    def recall(self) -> float:
        return self.matched / self.truths if self.truths else 0.0

    @property
    def f1(self) -> float:
        total = self.truths + self.predictions
        return 2 * self.matched / total if total else 0.0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "precision": self.precision, "recall": self.recall, "f1": self.f1}


@dataclass(frozen=True, slots=True)
class Spread:
    """Absolute errors in seconds of matched events; None where there are none."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Seams:
    """Events that meet a place where two windows overlap (or touch): how many there are, how many of them no prediction
    matches, and how many predictions say again what another one says. `lost_elsewhere`: share of all other events that
    is not matched, to compare `lost` / `truths` with.
    """

    truths: int
    lost: int
    doubled: int
    lost_elsewhere: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of a confidence in [low, high), the last including 1."""

    low: float
    high: float
    predictions: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Scores:
    """All figures. `detection[level][kind]`, with kind "" for all kinds together. Texts, errors and calibration are of
    the matches at the first level. `average_precision[level][kind]`; `mean_ap` is ActivityNet's average mAP, None
    where there is no truth. `calibration_error` (ECE) and `bins` are empty for predictions without confidence.
    """

    videos: int
    detection: Mapping[float, Mapping[str, Detection]]
    exact_text: float | None
    start_error_s: Spread
    end_error_s: Spread
    average_precision: Mapping[float, Mapping[str, float]]
    mean_ap: float | None
    seams: Seams | None
    calibration_error: float | None
    bins: Sequence[Bin] = field(default_factory=tuple)

    def f1(self, level: float = LEVELS[0], kind: str = "") -> float:
        return self.detection[level][kind].f1 if kind in self.detection[level] else 0.0

    def as_json(self) -> dict[str, Any]:
        """Everything, JSON-serialisable."""
        plain = asdict(self)
        plain["detection"] = {
            str(level): {kind or "all": d.as_json() for kind, d in kinds.items()}
            for level, kinds in self.detection.items()
        }
        plain["average_precision"] = {str(level): dict(kinds) for level, kinds in self.average_precision.items()}
        return plain


def evaluate(
    truth: Mapping[str, Sequence[Truth]],
    predicted: Mapping[str, Sequence[Prediction]],
    windows: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    moments: Mapping[str, int] | None = None,
) -> Scores:
    """Score `predicted` against `truth`, both by video; a video without predictions has none of its events found.

    `windows`: the spans that the model saw at once, by video, for errors at their seams. `moments`: kinds that have a
    time but no length (a cut), and how long (µs) both sides are taken to be, around their start, when they are
    compared: of two spans of length L that are d apart the tIoU is (L - d) / (L + d).

    Raises UsageError where predictions are of videos that `truth` does not know.
    """
    if unknown := sorted(set(predicted) - set(truth)):
        raise UsageError(f"there is no ground truth for {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}")
    moments = moments or {}
    pairs = [
        _Compared(truths, predicted.get(video, ()), moments, (windows or {}).get(video, ()))
        for video, truths in truth.items()
    ]
    matches = [pair.matches(LEVELS[0]) for pair in pairs]
    together = [(p.truths[i], p.predictions[j]) for p, found in zip(pairs, matches, strict=True) for i, j in found]
    told = [(t, s) for t, s in together if t.text]
    long = [(t, s) for t, s in together if t.kind not in moments]
    precision = {level: _average_precisions(pairs, level) for level in MAP_LEVELS}
    means = [float(np.mean(list(kinds.values()))) for kinds in precision.values() if kinds]
    error, bins = _calibration(pairs, matches)
    return Scores(
        videos=len(truth),
        detection={level: _detection(pairs, level) for level in LEVELS},
        exact_text=sum(t.text == s.text for t, s in told) / len(told) if told else None,
        start_error_s=_spread([abs(t.start_us - s.start_us) for t, s in together]),
        end_error_s=_spread([abs(t.end_us - s.end_us) for t, s in long]),
        average_precision=precision,
        mean_ap=sum(means) / len(means) if means else None,
        seams=_seams(pairs, matches) if windows else None,
        calibration_error=error,
        bins=bins,
    )


class _Compared:
    """Truths and predictions of one video, kind by kind."""

    def __init__(
        self,
        truths: Sequence[Truth],
        predictions: Sequence[Prediction],
        moments: Mapping[str, int],
        windows: Sequence[tuple[int, int]],
    ) -> None:
        self.truths, self.predictions, self.windows = truths, predictions, sorted(windows)
        self.true_of, self.said_of = _by_kind(truths), _by_kind(predictions)
        self._true_spans, self._said_spans = _spans(truths, moments), _spans(predictions, moments)

    @property
    def kinds(self) -> set[str]:
        return set(self.true_of) | set(self.said_of)

    def overlap(self, kind: str) -> npt.NDArray[np.float64]:
        """tIoU of the truths of a kind with its predictions."""
        true, said = self.true_of.get(kind, []), self.said_of.get(kind, [])
        return tiou(self._true_spans[true], self._said_spans[said])

    def matches(self, level: float) -> list[tuple[int, int]]:
        """Indices of truths and predictions that belong together."""
        found = []
        for kind in sorted(set(self.true_of) & set(self.said_of)):
            true, said = self.true_of[kind], self.said_of[kind]
            alike = np.array([[self.truths[i].text == self.predictions[j].text for j in said] for i in true])
            found += [(true[i], said[j]) for i, j in match(self.overlap(kind), level, alike)]
        return found


def _by_kind(events: Sequence[Truth | Prediction]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for i, event in enumerate(events):
        found[event.kind].append(i)
    return dict(found)


def _spans(events: Sequence[Truth | Prediction], moments: Mapping[str, int]) -> Spans:
    spans = np.array([(e.start_us, e.end_us) for e in events], np.int64).reshape(-1, 2)
    for i, e in enumerate(events):
        if e.kind in moments:
            spans[i] = e.start_us - moments[e.kind] // 2, e.start_us - moments[e.kind] // 2 + moments[e.kind]
    return spans


def _detection(pairs: Sequence[_Compared], level: float) -> dict[str, Detection]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for pair in pairs:
        for kind in pair.kinds:
            counts[kind][0] += len(pair.true_of.get(kind, ()))
            counts[kind][1] += len(pair.said_of.get(kind, ()))
        for i, _ in pair.matches(level):
            counts[pair.truths[i].kind][2] += 1
    found = {kind: Detection(*counts[kind]) for kind in sorted(counts)}
    return {"": Detection(*(sum(c[i] for c in counts.values()) for i in range(3))), **found}


def _spread(errors_us: Sequence[int]) -> Spread:
    if not errors_us:
        return Spread(None, None)
    p50, p95 = np.percentile(np.array(errors_us) / SECOND_US, (50, 95))
    return Spread(float(p50), float(p95))


# --- average precision ---


def _average_precisions(pairs: Sequence[_Compared], level: float) -> dict[str, float]:
    """By kind that occurs in the truth, as ActivityNet's evaluation computes it (`eval_detection.py`,
    `compute_average_precision_detection` and `interpolated_prec_rec` of github.com/activitynet/ActivityNet): the most
    confident prediction first takes the truth of its kind and video that it overlaps most of those still free, if by
    `level` or more.

    Predictions of equal confidence (all those without one count as 0) enter the curve together, so that the result
    does not depend on the order in which they come.
    """
    found = {}
    for kind in sorted({kind for pair in pairs for kind in pair.true_of}):
        truths = sum(len(pair.true_of.get(kind, ())) for pair in pairs)
        ranked = []  # (-confidence, -best tIoU, video, number in the video)
        overlaps = [pair.overlap(kind) for pair in pairs]
        for v, pair in enumerate(pairs):
            for j, number in enumerate(pair.said_of.get(kind, ())):
                best = overlaps[v][:, j].max(initial=0.0)
                ranked.append((-_confidence(pair.predictions[number]), -best, v, j))
        ranked.sort()
        taken: set[tuple[int, int]] = set()
        right = np.zeros(len(ranked))
        for n, (_, _, v, j) in enumerate(ranked):
            column = overlaps[v][:, j]
            for i in np.argsort(-column, kind="stable"):
                if column[i] < level:
                    break
                if (v, int(i)) not in taken:
                    taken.add((v, int(i)))
                    right[n] = 1
                    break
        found[kind] = _area(np.array([r[0] for r in ranked]), right, truths)
    return found


def _confidence(prediction: Prediction) -> float:
    return prediction.confidence or 0.0


def _area(ranks: npt.NDArray[np.float64], right: npt.NDArray[np.float64], truths: int) -> float:
    """Area under the interpolated precision-recall curve: precision at a recall is the best at that recall or more."""
    if not len(right):
        return 0.0
    last = np.append(ranks[1:] != ranks[:-1], True)  # of each group of equal rank
    hits = np.cumsum(right)[last]
    said = np.arange(1, len(right) + 1)[last]
    precision = np.maximum.accumulate((hits / said)[::-1])[::-1]
    recall = hits / truths
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


# --- seams ---


def _seams(pairs: Sequence[_Compared], matches: Sequence[Sequence[tuple[int, int]]]) -> Seams:
    count = lost = doubled = elsewhere = lost_elsewhere = 0
    for pair, found in zip(pairs, matches, strict=True):
        edges = [(b[0], max(a[1], b[0])) for a, b in zip(pair.windows, pair.windows[1:], strict=False)]
        of_truth = dict(found)
        said = {j for _, j in found}
        for i, event in enumerate(pair.truths):
            if not _meets(event.start_us, event.end_us, edges):
                elsewhere += 1
                lost_elsewhere += i not in of_truth
                continue
            count += 1
            lost += i not in of_truth
        for j, prediction in enumerate(pair.predictions):
            if j not in said and _meets(prediction.start_us, prediction.end_us, edges):
                doubled += any(_repeats(prediction, pair.truths[i]) for i in of_truth)
    return Seams(count, lost, doubled, lost_elsewhere / elsewhere if elsewhere else None)


def _meets(start_us: int, end_us: int, edges: Iterable[tuple[int, int]]) -> bool:
    """Whether a span reaches into an overlap, or across a place where windows only touch."""
    end_us = max(end_us, start_us + 1)
    return any(start_us < high and low < end_us if low < high else start_us < low < end_us for low, high in edges)


def _repeats(prediction: Prediction, truth: Truth) -> bool:
    """Whether at least half of a prediction lies within an event of its kind (that another prediction matches)."""
    shared = min(prediction.end_us, truth.end_us) - max(prediction.start_us, truth.start_us)
    return prediction.kind == truth.kind and 2 * shared >= max(1, prediction.end_us - prediction.start_us)


# --- calibration ---


def _calibration(
    pairs: Sequence[_Compared], matches: Sequence[Sequence[tuple[int, int]]]
) -> tuple[float | None, tuple[Bin, ...]]:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, eq. 3) over equal bins of confidence, where a
    prediction is right if it is matched."""
    sure: list[tuple[float, bool]] = []
    for pair, found in zip(pairs, matches, strict=True):
        right = {j for _, j in found}
        sure += [(p.confidence, j in right) for j, p in enumerate(pair.predictions) if p.confidence is not None]
    if not sure:
        return None, ()
    confidence, hit = np.array([c for c, _ in sure]), np.array([r for _, r in sure], np.float64)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for b in range(BINS):
        inside = place == b
        if inside.any():
            mean, share = float(confidence[inside].mean()), float(hit[inside].mean())
            bins.append(Bin(b / BINS, (b + 1) / BINS, int(inside.sum()), mean, share))
    error = sum(b.predictions * abs(b.confidence - b.right) for b in bins) / len(sure)
    return error, tuple(bins)
