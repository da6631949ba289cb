"""Scores against brute force, against figures worked out by hand, and against AP computed by its definition."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.evaluate import LEVELS, MAP_LEVELS, Prediction, evaluate
from pipeline.groundtruth import Truth, read_truth
from pipeline.matching import assign, match, tiou

S = 1_000_000

spans = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda s: (s[0], s[0] + s[1]))
kinds = st.sampled_from(["move", "text"])
texts = st.sampled_from(["a", "b"])
confidences = st.one_of(st.none(), st.integers(0, 100).map(lambda c: c / 100))
truths = st.lists(st.builds(lambda s, k, t: Truth(*s, k, t), spans, kinds, texts), max_size=5)
predictions = st.lists(
    st.builds(lambda s, k, t, c: Prediction(*s, k, t, c), spans, kinds, texts, confidences), max_size=5
)


def iou(a: Any, b: Any) -> float:
    """Of two events, from the definition: seconds in both over seconds in either, counted one by one."""
    both = set(range(a.start_us, a.end_us)) & set(range(b.start_us, b.end_us))
    either = set(range(a.start_us, a.end_us)) | set(range(b.start_us, b.end_us))
    return len(both) / len(either)


def best_matching(true: list[Truth], said: list[Prediction], level: float) -> tuple[int, int, float]:
    """Most pairs, then most equal texts, then most overlap, by trying every way to pair them."""
    best = (0, 0, 0.0)
    padded = [*range(len(said)), *[None] * len(true)]
    for choice in set(permutations(padded, len(true))):
        pairs = [(t, said[j]) for t, j in zip(true, choice, strict=True) if j is not None]
        pairs = [(t, s) for t, s in pairs if t.kind == s.kind and iou(t, s) >= level]
        value = (len(pairs), sum(t.text == s.text for t, s in pairs), sum(iou(t, s) for t, s in pairs))
        best = max(best, value)
    return best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(lambda s, k, t: Truth(*s, k, t), spans, kinds, texts), max_size=4), predictions)
def test_matching_is_the_best_of_all(true: list[Truth], said: list[Prediction]) -> None:
    for level in LEVELS:
        scores = evaluate({"v": true}, {"v": said})
        pairs, alike, _ = best_matching(true, said, level)
        assert scores.detection[level][""].matched == pairs
        if level == LEVELS[0]:
            assert scores.exact_text == (pytest.approx(alike / pairs) if pairs else None)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_matching_takes_the_most_overlap_among_equals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    overlap = rng.random((rng.integers(0, 5), rng.integers(0, 5)))
    alike = rng.random(overlap.shape) < 0.3
    rows, columns = overlap.shape
    best = (0, 0, 0.0)
    for choice in set(permutations([*range(columns), *[None] * rows], rows)):
        pairs = [(i, j) for i, j in enumerate(choice) if j is not None and overlap[i, j] >= 0.4]
        best = max(best, (len(pairs), sum(alike[p] for p in pairs), sum(overlap[p] for p in pairs)))
    found = match(overlap, 0.4, alike)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
    assert (len(found), sum(alike[p] for p in found)) == best[:2]
    assert sum(overlap[p] for p in found) == pytest.approx(best[2])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 2))
def test_assignment_is_the_cheapest(seed: int, rows: int, more: int) -> None:
    cost = np.random.default_rng(seed).normal(size=(rows, rows + more))
    chosen = assign(cost)
    assert len(set(chosen)) == rows
    cheapest = min(sum(cost[i, j] for i, j in enumerate(p)) for p in permutations(range(rows + more), rows))
    assert sum(cost[i, j] for i, j in enumerate(chosen)) == pytest.approx(cheapest)


def test_many_predictions_of_one_event_are_matched_once_and_quickly() -> None:
    true = [Truth(i * S, (i + 40) * S, "move") for i in range(60)]
    said = [Prediction(i * S // 10, i * S // 10 + 40 * S, "move") for i in range(600)]
    found = evaluate({"v": true}, {"v": said}).detection[0.75][""]
    assert (found.truths, found.predictions, found.matched) == (60, 600, 60)


@settings(deadline=None)
@given(spans, spans)
def test_overlap_is_symmetric_and_right(a: tuple[int, int], b: tuple[int, int]) -> None:
    found = tiou(np.array([a]), np.array([b]))[0, 0]
    assert found == tiou(np.array([b]), np.array([a]))[0, 0] == pytest.approx(iou(Truth(*a, ""), Truth(*b, "")))


def average_precision(true: list[tuple[str, Truth]], said: list[tuple[str, Prediction]], level: float) -> float:
    """One kind's AP as the ActivityNet challenge defines it, step by step (no two confidences equal)."""
    free = list(true)
    hits, points = 0, []
    for n, (video, s) in enumerate(sorted(said, key=lambda p: -(p[1].confidence or 0)), 1):
        near = sorted((x for x in free if x[0] == video), key=lambda x: -iou(x[1], s))
        if near and iou(near[0][1], s) >= level:
            free.remove(near[0])
            hits += 1
        points.append((hits / len(true), hits / n))
    area = before = 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[i:])
        before = recall
    return area


@settings(max_examples=80, deadline=None)
@given(truths, truths, predictions, predictions, st.randoms())
def test_average_precision_by_its_definition(
    a: list[Truth], b: list[Truth], p: list[Prediction], q: list[Prediction], random: Any
) -> None:
    ranks = random.sample(range(1, 100), len(p) + len(q))
    p = [Prediction(e.start_us, e.end_us, e.kind, e.text, ranks.pop() / 100) for e in p]
    q = [Prediction(e.start_us, e.end_us, e.kind, e.text, ranks.pop() / 100) for e in q]
    scores = evaluate({"a": a, "b": b}, {"a": p, "b": q})
    means = []
    for level in MAP_LEVELS:
        wanted = {}
        for kind in {e.kind for e in (*a, *b)}:
            true = [(v, e) for v, es in (("a", a), ("b", b)) for e in es if e.kind == kind]
            said = [(v, e) for v, es in (("a", p), ("b", q)) for e in es if e.kind == kind]
            wanted[kind] = average_precision(true, said, level)
        assert scores.average_precision[level] == pytest.approx(wanted)
        means += [sum(wanted.values()) / len(wanted)] if wanted else []
    assert scores.mean_ap == (pytest.approx(sum(means) / len(means)) if means else None)


@settings(max_examples=50, deadline=None)
@given(truths, predictions, st.randoms())
def test_scores_do_not_depend_on_the_order(true: list[Truth], said: list[Prediction], random: Any) -> None:
    before = evaluate({"v": true}, {"v": said})
    shuffled = said.copy()
    random.shuffle(shuffled)
    after = evaluate({"v": true}, {"v": shuffled})
    assert after.detection == before.detection
    assert after.mean_ap == (pytest.approx(before.mean_ap) if before.mean_ap is not None else None)


@settings(deadline=None)
@given(truths)
def test_the_truth_scores_full_marks(true: list[Truth]) -> None:
    said = [Prediction(e.start_us, e.end_us, e.kind, e.text, 1.0) for e in true]
    scores = evaluate({"v": true}, {"v": said}, {"v": [(0, 20), (15, 50)]})
    for level in LEVELS:
        assert scores.f1(level) == (1.0 if true else 0.0)
    if true:
        assert (scores.exact_text, scores.mean_ap, scores.calibration_error) == (1.0, pytest.approx(1.0), 0.0)
        assert scores.start_error_s.p95 == scores.end_error_s.p95 == 0.0
        assert scores.seams is not None and scores.seams.lost == scores.seams.doubled == 0


def test_errors_in_seconds_and_texts() -> None:
    true = [Truth(10 * S, 14 * S, "move", "left"), Truth(20 * S, 24 * S, "move", "up"), Truth(30 * S, 31 * S, "move")]
    said = [Prediction(10 * S + S // 2, 14 * S, "move", "left"), Prediction(20 * S, 25 * S, "move", "down")]
    scores = evaluate({"v": true}, {"v": said})
    found = scores.detection[0.5]["move"]
    assert (found.precision, found.recall, found.f1) == (1.0, pytest.approx(2 / 3), pytest.approx(0.8))
    assert scores.exact_text == 0.5
    assert (scores.start_error_s.p50, scores.end_error_s.p50) == (0.25, 0.5)
    assert scores.start_error_s.p95 == pytest.approx(0.475)
    assert scores.calibration_error is None and scores.seams is None


def test_moments_are_compared_as_spans_around_their_start() -> None:
    true = [Truth(10 * S, 10 * S + 40_000, "cut", "cut")]
    near = [Prediction(10 * S + 300_000, 10 * S + 400_000, "cut", "cut")]
    assert evaluate({"v": true}, {"v": near}).f1() == 0.0
    scores = evaluate({"v": true}, {"v": near}, moments={"cut": S})
    assert (scores.f1(0.5), scores.f1(0.75)) == (1.0, 0.0)  # (1 - 0.3) / (1 + 0.3) = 0.54
    assert scores.start_error_s.p50 == pytest.approx(0.3)
    assert scores.end_error_s.p50 is None


def test_seams_count_what_is_lost_and_said_twice() -> None:
    windows = {"v": [(0, 10 * S), (8 * S, 18 * S), (18 * S, 28 * S)]}
    true = [
        Truth(1 * S, 3 * S, "move"),  # within a window: found
        Truth(4 * S, 6 * S, "move"),  # within a window: lost
        Truth(7 * S, 9 * S, "move"),  # in the overlap: said twice
        Truth(8 * S, 10 * S, "turn"),  # in the overlap: lost
        Truth(17 * S, 19 * S, "move"),  # across windows that touch: found
        Truth(18 * S, 20 * S, "turn"),  # from there on, within one window: lost
    ]
    said = [
        Prediction(1 * S, 3 * S, "move"),
        Prediction(7 * S, 9 * S, "move"),
        Prediction(8 * S, 9 * S, "move"),  # the same again
        Prediction(11 * S, 12 * S, "move"),  # wrong, but at no seam
        Prediction(17 * S, 19 * S, "move"),
    ]
    seams = evaluate({"v": true}, {"v": said}, windows).seams
    assert seams is not None
    assert (seams.truths, seams.lost, seams.doubled, seams.lost_elsewhere) == (3, 1, 1, 2 / 3)


def test_calibration() -> None:
    true = [Truth(i * S, (i + 1) * S, "move") for i in range(0, 20, 2)]
    said = [Prediction(e.start_us, e.end_us, "move", "", 0.95) for e in true[:4]]
    said += [Prediction(e.start_us + S, e.end_us + S, "move", "", 0.95) for e in true[:4]]  # half of them wrong
    said += [Prediction(e.start_us, e.end_us, "move", "", 0.55) for e in true[4:6]]
    scores = evaluate({"v": true}, {"v": said})
    assert [(b.low, b.predictions, b.right) for b in scores.bins] == [(0.5, 2, 1.0), (0.9, 8, 0.5)]
    assert scores.calibration_error == pytest.approx((2 * 0.45 + 8 * 0.45) / 10)


def test_videos_without_predictions_count_and_unknown_ones_are_refused() -> None:
    true = {"a": [Truth(0, S, "move")], "b": [Truth(0, S, "move")]}
    scores = evaluate(true, {"a": [Prediction(0, S, "move", "", 1.0)]})
    assert (scores.detection[0.5][""].recall, scores.mean_ap) == (0.5, 0.5)
    with pytest.raises(UsageError, match="no ground truth for c"):
        evaluate(true, {"c": []})


def test_truth_is_read_from_activitynet_json(tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    database = {
        "one": {"subset": "validation", "duration": 9, "annotations": [{"segment": [1, 2.5], "label": "Surfing"}]},
        "two": {"subset": "testing", "annotations": [
            {"segment": [1.0, 2.0], "label": "text", "text": "EXIT", "start_us": 1_000_001, "end_us": 2_000_003}
        ]},
    }  # fmt: skip
    file.write_text(json.dumps({"version": "1", "database": database}))
    assert read_truth(file) == {
        "one": [Truth(S, 2_500_000, "Surfing")],
        "two": [Truth(1_000_001, 2_000_003, "text", "EXIT")],
    }
    assert list(read_truth(file, "testing")) == ["two"]
    with pytest.raises(UsageError, match="no video of subset 'training'"):
        read_truth(file, "training")


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("[1", "not JSON"),
        ("[]", "database"),
        ('{"database": {"v": {}}}', "video 'v' has no list"),
        ('{"database": {"v": {"annotations": [{"segment": [2, 1], "label": "x"}]}}}', "not after the second"),
        ('{"database": {"v": {"annotations": [{"segment": [0, 1e400], "label": "x"}]}}}', "segment"),
        ('{"database": {"v": {"annotations": [{"segment": [0, NaN], "label": "x"}]}}}', "segment"),
        ('{"database": {"v": {"annotations": [{"segment": [0, 1]}]}}}', "label"),
        ('{"database": {"v": {"annotations": [7]}}}', "segment"),
    ],
)
def test_bad_truth_is_one_clear_error(tmp_path: Path, content: str, wrong: str) -> None:
    file = tmp_path / "truth.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=wrong) as caught:
        read_truth(file)
    assert str(file) in str(caught.value)


def test_missing_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        read_truth(tmp_path / "none.json")
