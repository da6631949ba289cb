"""Events leave the reducer as soon as they are settled: the same events as when all answers are held to the end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import EVENT_ORDER, Event, KindRule, WindowEvent, WindowEvents
from pipeline.plan import Window, Windowing
from pipeline.reduce import Reducer

RULES = {
    "cut": KindRule(point=True, gap_us=5),
    "flash": KindRule(point=True),
    "scene": KindRule(),
    "text": KindRule(gap_us=7, min_us=3, similarity=0.6),
    "level": KindRule(exclusive=True),
    "move": KindRule(gap_us=30, min_confidence=0.5),
}


def said(kind: str, length: int) -> st.SearchStrategy[WindowEvent]:
    """Events of a kind, many of them up to the edges of their window, so that they have to do with those next door."""
    return st.builds(
        WindowEvent,
        start_us=st.one_of(st.integers(-2, length), st.just(0)),
        end_us=st.one_of(st.integers(0, length + 2), st.just(length)),
        kind=st.just(kind),
        text=st.sampled_from(["aaa", "aab"]),
        confidence=st.sampled_from([None, 0.2, 0.9]),
        evidence_us=st.just((1,)),
        continues_before=st.booleans(),
        continues_after=st.booleans(),
    )


class Held(Reducer):
    """Settles nothing before the end."""

    def _settled(self, from_us: int | None, window: int) -> list[Event]:
        return super()._settled(from_us, window) if from_us is None else []


def reduced(reducer: Reducer, answers: list[WindowEvents]) -> tuple[list[str], int]:
    """All events, and how many of them came before the end."""
    events = [event for answer in answers for event in reducer.add(answer)]
    early = len(events)
    events += reducer.end()
    return [json.dumps([*EVENT_ORDER(e), *_rest(e)]) for e in sorted(events, key=EVENT_ORDER)], early


def _rest(event: Event) -> list[object]:
    return [event.confidence, event.window_first, event.window_last, event.evidence_us]


@given(st.sampled_from([*RULES, "other"]), st.integers(1, 40), st.data())
@settings(max_examples=600, deadline=None)
def test_events_that_leave_early_are_those_of_the_end(kind: str, length: int, data: st.DataObject) -> None:
    windowing = Windowing(length, data.draw(st.integers(0, length - 1)))
    stride = windowing.length_us - windowing.overlap_us
    duration_us = windowing.overlap_us + data.draw(st.integers(2, 8)) * stride
    missing = data.draw(st.sets(st.integers(0, 8), max_size=2))  # windows that were given up
    answers = [
        WindowEvents(windowing.window("v", i, duration_us), tuple(data.draw(st.lists(said(kind, length), max_size=3))))
        for i in range(windowing.count(duration_us))
        if i not in missing
    ]
    early, held = Reducer(RULES, duration_us), Held(RULES, duration_us)
    assert reduced(early, answers)[0] == reduced(held, answers)[0]
    assert early.dropped == held.dropped


def test_a_long_video_is_not_held() -> None:
    """Twenty thousand windows with a state that lasts all the time, and five events each that do not."""
    reducer = Reducer(RULES, 10**9)
    left = most = 0
    for index in range(20_000):
        parts = tuple(WindowEvent(9 * n, 9 * n + 5, "scene", f"{index} {n}") for n in range(5))
        state = WindowEvent(0, 50, "state", "on", continues_before=True, continues_after=True)
        left += len(reducer.add(WindowEvents(Window("v", index, 50 * index, 50 * index + 50), (*parts, state))))
        most = max(most, sum(len(k.pending) + len(k._joined.open) for k in reducer._kinds.values()))
    assert left == 5 * 19_999
    assert most <= 12
    assert len(reducer.end()) == 100_000 + 1 - left


def test_kinds_that_nobody_says_again_cost_nothing() -> None:
    reducer = Reducer({}, 10**9)
    for index in range(2000):
        window = Window("v", index, 50 * index, 50 * index + 50)
        reducer.add(WindowEvents(window, (WindowEvent(0, 9, f"kind {index}", "a"),)))
        assert len(reducer._kinds) <= 1


def test_windows_out_of_order_are_refused() -> None:
    reducer = Reducer(RULES, 100)
    reducer.add(WindowEvents(Window("v", 1, 10, 20), ()))
    with pytest.raises(ValueError, match="window 0 after window 1"):
        reducer.add(WindowEvents(Window("v", 0, 0, 10), ()))
