"""Reduce against a known truth: cut into windows in any way and put together again, it must be the same truth."""

from __future__ import annotations

import functools
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import OTHER_KINDS, Event, KindRule, WindowEvent, WindowEvents
from pipeline.joining import _likeness
from pipeline.plan import Window, Windowing
from pipeline.reduce import MAX_EVENTS, MAX_EVIDENCE, MAX_KIND, MAX_TEXT, reduce_events

DURATION = 1000
RULES = {"cut": KindRule(point=True, gap_us=5), "scene": KindRule(), "text": KindRule(gap_us=7, min_us=3)}


def _windows(length: int, overlap: int, duration: int = DURATION) -> list[Window]:
    windowing = Windowing(length, overlap)
    return [windowing.window("v", i, duration) for i in range(windowing.count(duration))]


def _seen(window: Window, start: int, end: int, kind: str, text: str) -> WindowEvent | None:
    """What a perfect model says in this window about the truth [start, end)."""
    low, high = max(start, window.start_us), min(end, window.end_us)
    if low >= high:
        return None
    return WindowEvent(
        low - window.start_us,
        high - window.start_us,
        kind,
        text,
        evidence_us=(low - window.start_us,),
        continues_before=start < window.start_us,
        continues_after=end > window.end_us,
    )


@st.composite
def _truth(draw: st.DrawFn) -> list[tuple[int, int, str, str]]:
    """Events of one kind and text lie further apart than the kind's gap; spans are no shorter than its minimum."""
    truth = []
    for kind, gap, least in (("cut", 5, 1), ("scene", 1, 1), ("text", 8, 3)):
        for text in ("a", "b"):
            t = draw(st.integers(0, 300))
            for _ in range(draw(st.integers(0, 4))):
                length = 1 if kind == "cut" else draw(st.integers(least, 300))
                if t + length > DURATION:
                    break
                truth.append((t, t + length, kind, text))
                t += (0 if kind == "cut" else length) + draw(st.integers(gap, 250))
    return sorted(truth)


@given(_truth(), st.integers(1, 1200), st.data(), st.randoms())
@settings(max_examples=300, deadline=None)
def test_windows_cut_from_a_truth_reduce_to_that_truth(truth, length, data, random):  # type: ignore[no-untyped-def]
    overlap = data.draw(st.integers(0, length - 1))
    if (length - overlap) < 20 and length > 40:
        overlap = length - 20  # keeps the number of windows small
    answers = []
    for window in _windows(length, overlap):
        seen = [e for t in truth if (e := _seen(window, *t)) is not None]
        random.shuffle(seen)
        answers.append(WindowEvents(window, tuple(seen)))
    random.shuffle(answers)
    reduced = reduce_events(answers, RULES, DURATION)
    assert [(e.start_us, e.end_us, e.kind, e.text) for e in reduced.events] == truth
    assert not reduced.dropped
    for event in reduced.events:
        touched = [
            w.index for w in _windows(length, overlap) if w.start_us < event.end_us and event.start_us < w.end_us
        ]
        assert (event.window_first, event.window_last) == (touched[0], touched[-1])
        assert all(event.start_us <= t < event.end_us for t in event.evidence_us)


def test_a_span_said_to_go_on_is_joined_across_the_gap_between_samples() -> None:
    """At 1 sample per 4 µs the last frame of a window lies up to 4 µs before its end."""
    first, second = _windows(100, 0, 200)
    answers = [
        WindowEvents(first, (WindowEvent(50, 96, "scene", "a", continues_after=True),)),
        WindowEvents(second, (WindowEvent(4, 30, "scene", "a", continues_before=True),)),
    ]
    (event,) = reduce_events(answers, RULES, 200).events
    assert (event.start_us, event.end_us) == (50, 130)
    unsaid = [
        WindowEvents(a.window, tuple(WindowEvent(e.start_us, e.end_us, e.kind, e.text) for e in a.events))
        for a in answers
    ]
    assert len(reduce_events(unsaid, RULES, 200).events) == 2


def test_going_on_reaches_only_into_the_next_window() -> None:
    windows = _windows(100, 0, 300)
    answers = [
        WindowEvents(windows[0], (WindowEvent(50, 100, "scene", "a", continues_after=True),)),
        WindowEvents(windows[1], ()),
        WindowEvents(windows[2], (WindowEvent(0, 30, "scene", "a", continues_before=True),)),
    ]
    assert len(reduce_events(answers, RULES, 300).events) == 2


def test_the_most_confident_part_speaks_for_the_whole() -> None:
    first, second = _windows(100, 0, 200)
    answers = [
        WindowEvents(first, (WindowEvent(0, 100, "scene", "a", 0.5, attributes={"from": 0}),)),
        WindowEvents(second, (WindowEvent(0, 50, "scene", "a", 0.9, attributes={"from": 1}),)),
    ]
    (event,) = reduce_events(answers, RULES, 200).events
    assert event.confidence == 0.9 and event.attributes == {"from": 1}


def test_moments_do_not_chain_into_one() -> None:
    (window,) = _windows(100, 0, 100)
    events = tuple(WindowEvent(t, t, "cut", "") for t in (10, 14, 18, 22))
    reduced = reduce_events([WindowEvents(window, events)], RULES, 100)
    assert [(e.start_us, e.end_us) for e in reduced.events] == [(10, 11), (18, 19)]


def test_short_spans_are_dropped_after_stitching_only() -> None:
    first, second = _windows(100, 0, 200)
    answers = [
        WindowEvents(first, (WindowEvent(98, 100, "text", "a"), WindowEvent(10, 12, "text", "short"))),
        WindowEvents(second, (WindowEvent(0, 2, "text", "a"),)),
    ]
    reduced = reduce_events(answers, RULES, 200)
    assert [(e.start_us, e.end_us, e.text) for e in reduced.events] == [(98, 102, "a")]


def test_what_is_never_sure_enough_is_dropped_after_stitching() -> None:
    first, second = _windows(100, 0, 200)
    answers = [
        WindowEvents(
            first,
            (
                WindowEvent(10, 20, "move", "a", 0.1),
                WindowEvent(90, 100, "move", "b", 0.1),
                WindowEvent(0, 5, "cut", "", 0.1),
            ),
        ),
        WindowEvents(second, (WindowEvent(0, 30, "move", "b", 0.8), WindowEvent(50, 60, "move", "c", None))),
    ]
    rules = {OTHER_KINDS: KindRule(min_confidence=0.2), "cut": KindRule(point=True)}
    reduced = reduce_events(answers, rules, 200).events
    assert [(e.start_us, e.end_us, e.kind, e.text) for e in reduced] == [
        (0, 5, "cut", ""),
        (90, 130, "move", "b"),
        (150, 160, "move", "c"),
    ]


def test_evidence_of_a_long_span_is_thinned_evenly() -> None:
    windows = _windows(10, 0, 1000)
    answers = [WindowEvents(w, (WindowEvent(0, 10, "scene", "a", evidence_us=(0, 5)),)) for w in windows]
    (event,) = reduce_events(answers, RULES, 1000).events
    assert len(event.evidence_us) == MAX_EVIDENCE
    assert event.evidence_us[0] == 0 and event.evidence_us[-1] == 995
    steps = [b - a for a, b in zip(event.evidence_us, event.evidence_us[1:], strict=False)]
    assert max(steps) - min(steps) <= 5


def test_levels_of_overlapping_windows_never_hold_at_once() -> None:
    """Two windows overlap in [80, 100) and disagree there: each has its half."""
    first, second = _windows(100, 20, 180)
    answers = [
        WindowEvents(second, (WindowEvent(0, 100, "level", "low", continues_before=True),)),
        WindowEvents(first, (WindowEvent(0, 60, "level", "low"), WindowEvent(60, 100, "level", "high"))),
    ]
    reduced = reduce_events(answers, {"level": KindRule(exclusive=True)}, 180)
    assert [(e.start_us, e.end_us, e.text) for e in reduced.events] == [
        (0, 60, "low"),
        (60, 90, "high"),
        (90, 180, "low"),
    ]


@given(
    st.lists(st.tuples(st.integers(1, 120), st.sampled_from("abc")), min_size=1, max_size=12),
    st.integers(1, 1200),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_exclusive_levels_cut_into_windows_reduce_to_the_same_levels(runs, length, data) -> None:  # type: ignore[no-untyped-def]
    overlap = data.draw(st.integers(0, length - 1)) if length < 40 else data.draw(st.integers(0, length - 20))
    truth: list[tuple[int, int, str, str]] = []
    t = 0
    for lasts, level in runs:
        if truth and truth[-1][3] == level:
            truth[-1] = (truth[-1][0], t + lasts, "level", level)
        else:
            truth.append((t, t + lasts, "level", level))
        t += lasts
    answers = [
        WindowEvents(w, tuple(e for x in truth if (e := _seen(w, *x)) is not None))
        for w in _windows(length, overlap, t)
    ]
    reduced = reduce_events(answers, {"level": KindRule(exclusive=True)}, t)
    assert [(e.start_us, e.end_us, e.kind, e.text) for e in reduced.events] == truth


def test_alike_texts_of_neighbouring_windows_are_one_and_the_longest_reading_is_kept() -> None:
    first, second, third = _windows(100, 0, 300)
    answers = [
        WindowEvents(first, (WindowEvent(90, 100, "text", "BREAKlNG NEWS"), WindowEvent(90, 100, "text", "12:30"))),
        WindowEvents(second, (WindowEvent(0, 100, "text", "BREAKING NEWS"), WindowEvent(0, 100, "text", "weather"))),
        WindowEvents(third, (WindowEvent(0, 20, "text", "BREAKING NEVVS"),)),
    ]
    rules = {"text": KindRule(similarity=0.8)}
    said = {(e.start_us, e.end_us, e.text) for e in reduce_events(answers, rules, 300).events}
    assert said == {(90, 220, "BREAKING NEWS"), (90, 100, "12:30"), (100, 200, "weather")}


def test_alike_texts_seen_in_one_window_are_two_texts() -> None:
    first, second = _windows(100, 0, 200)
    lines = ("Chapter 1", "Chapter 2")
    answers = [WindowEvents(w, tuple(WindowEvent(0, 100, "text", x) for x in lines)) for w in (first, second)]
    events = reduce_events(answers, {"text": KindRule(similarity=0.8)}, 200).events
    assert [(e.start_us, e.end_us, e.text) for e in events] == [(0, 200, "Chapter 1"), (0, 200, "Chapter 2")]


def _edits(a: str, b: str) -> int:
    """Levenshtein distance by its recursive definition."""

    @functools.cache
    def d(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


@given(st.text("abc", max_size=12), st.text("abc", max_size=12), st.floats(0, 1))
def test_likeness_is_the_edit_distance_within_its_bound(a: str, b: str, at_least: float) -> None:
    exact = 1 - _edits(a, b) / max(len(a), len(b)) if a or b else 1.0
    likeness = _likeness(a, b, at_least)
    if exact >= at_least:
        assert likeness == exact
    else:
        assert likeness < at_least


HOSTILE = st.one_of(
    st.integers(-(2**80), 2**80),
    st.floats(),
    st.none(),
    st.booleans(),
    st.text(max_size=8),
    st.just([1]),
    st.just(2**63),
)


@given(
    st.lists(
        st.builds(
            WindowEvent,
            start_us=HOSTILE,
            end_us=HOSTILE,
            kind=st.one_of(st.text(max_size=100), st.none(), st.just("cut")),
            text=st.one_of(st.text(), st.just("\ud800x\x00"), st.none(), st.just("y" * 100_000)),
            confidence=HOSTILE,
            evidence_us=st.one_of(HOSTILE, st.lists(HOSTILE).map(tuple)),
            attributes=st.one_of(
                HOSTILE, st.dictionaries(st.text(), HOSTILE), st.just({"big": "z" * 100_000}), st.just({"o": object()})
            ),
            continues_before=HOSTILE,
            continues_after=HOSTILE,
        ),
        max_size=6,
    )
)
@settings(max_examples=300, deadline=None)
def test_whatever_a_model_says_becomes_harmless(events: list[WindowEvent]) -> None:
    answers = [WindowEvents(w, tuple(events)) for w in _windows(400, 100)]
    reduced = reduce_events(answers, RULES, DURATION)
    for event in reduced.events:
        assert type(event.start_us) is int and type(event.end_us) is int
        assert 0 <= event.start_us < event.end_us <= DURATION
        assert 0 < len(event.kind) <= MAX_KIND and len(event.text) <= MAX_TEXT
        event.text.encode()  # valid Unicode
        assert "\x00" not in event.text
        assert event.confidence is None or (0 <= event.confidence <= 1 and not math.isnan(event.confidence))
        assert all(type(t) is int and 0 <= t <= DURATION for t in event.evidence_us)
        json.dumps(dict(event.attributes), allow_nan=False)


def test_dropped_events_are_counted_by_cause() -> None:
    (window,) = _windows(100, 0, 100)
    said = (
        WindowEvent(5, 3, "scene", "reversed"),
        WindowEvent(float("nan"), 3, "scene", "nan"),  # type: ignore[arg-type]
        WindowEvent(200, 300, "scene", "outside"),
        WindowEvent(0, 1, "", "no kind"),
        WindowEvent(-50, 20, "scene", "kept, cut off"),
    )
    reduced = reduce_events([WindowEvents(window, said)], RULES, 100)
    assert [(e.start_us, e.end_us, e.text) for e in reduced.events] == [(0, 20, "kept, cut off")]
    assert reduced.dropped == {
        "ends before it starts": 1,
        "time is not a number": 1,
        "outside its window": 1,
        "no kind": 1,
    }


def test_a_window_cannot_flood_the_log() -> None:
    (window,) = _windows(100, 0, 100)
    flood = tuple(WindowEvent(0, 1, "scene", str(i)) for i in range(MAX_EVENTS + 5))
    reduced = reduce_events([WindowEvents(window, flood)], RULES, 100)
    assert len(reduced.events) == MAX_EVENTS and sum(reduced.dropped.values()) == 5


def test_nothing_said_is_nothing_reduced() -> None:
    assert reduce_events([], RULES, DURATION).events == ()
    assert reduce_events([WindowEvents(w, ()) for w in _windows(100, 10)], RULES, DURATION).events == ()


def test_order_is_total() -> None:
    """Equal starts are ordered by end, kind and text, so that two runs write the same rows."""
    (window,) = _windows(100, 0, 100)
    said = [WindowEvent(0, e, k, t) for e in (5, 9) for k in ("a", "b") for t in ("x", "y")]
    one = reduce_events([WindowEvents(window, tuple(said))], {}, 100).events
    two = reduce_events([WindowEvents(window, tuple(reversed(said)))], {}, 100).events
    assert one == two and isinstance(one[0], Event)
