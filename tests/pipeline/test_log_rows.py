"""From records to rows: every value as it was given, whatever a model put into it, in batches of the size asked for."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import EVENT_ORDER, Event
from pipeline.log import VideoResult
from pipeline.log.indexing import owned_rows
from pipeline.log.rows import as_json, event_batches

TEXTS = st.text(st.characters(exclude_categories=()), max_size=6) | st.sampled_from(["a text", 'say "so"\n', "\ud800"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda each: st.lists(each, max_size=2) | st.dictionaries(st.text(max_size=3), each, max_size=2),
    max_leaves=4,
)
TIMES = st.integers(0, 50)
EVENTS_OF_ONE = st.lists(
    st.builds(
        Event,
        TIMES,
        TIMES,
        st.sampled_from(["shot", "text"]),
        TEXTS,
        st.none() | st.floats(0, 1, width=32) | st.just(float("nan")),
        st.integers(0, 9),
        st.integers(0, 9),
        st.lists(TIMES, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), VALUES, max_size=3),
    ),
    max_size=9,
)


def stored(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcde"), EVENTS_OF_ONE), st.integers(1, 7))
def test_every_event_is_a_row(given: dict[str, list[Event]], size: int) -> None:
    results = [VideoResult(v, f"run of {v}", "c", (), 1, "done", events=tuple(events)) for v, events in given.items()]
    batches = list(event_batches(results, {r.run_id: f"model of {r.video_id}" for r in results}, size))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert all(b.num_rows == size for b in batches[:-1]) and all(0 < b.num_rows <= size for b in batches[-1:])
    expected = [(v, e) for v in sorted(given) for e in sorted(given[v], key=EVENT_ORDER)]
    assert len(rows) == len(expected)
    for row, (video, e) in zip(rows, expected, strict=True):
        said = json.dumps([video, f"run of {video}", e.start_us, e.end_us, e.kind, e.text], ensure_ascii=False)
        hashed = hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=8).hexdigest()
        known = e.confidence is not None and e.confidence == e.confidence
        assert row == {
            "video_id": video,
            "run_id": f"run of {video}",
            "event_id": hashed,
            "start_us": e.start_us,
            "end_us": e.end_us,
            "kind": e.kind,
            "text": stored(e.text),
            "confidence": e.confidence if known else None,
            "model": f"model of {video}",
            "window_first": e.window_first,
            "window_last": e.window_last,
            "evidence_us": list(e.evidence_us),
            "attributes": row["attributes"],
        }
        assert row["event_id"] == e.event_id(video, f"run of {video}")
        assert json.loads(row["attributes"], parse_constant=pytest.fail) == without_nan(e.attributes)
    for batch in batches:
        for (video, run), first, count, start_us, end_us in owned_rows(batch):
            own = batch.slice(first, count).to_pylist()
            assert {(row["video_id"], row["run_id"]) for row in own} == {(video, run)}
            assert start_us == min(row["start_us"] for row in own)
            assert end_us == max(max(row["end_us"], row["start_us"] + 1) for row in own)
        assert sum(count for _, _, count, *_ in owned_rows(batch)) == batch.num_rows


def without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value


def test_what_json_does_not_know_is_its_text() -> None:
    assert as_json({"on": date(2026, 1, 2), 3: (1, 2)}) == '{"on":"2026-01-02","3":[1,2]}'
    assert as_json({"on": date(2026, 1, 2), "level": float("inf"), "k": {4: 1}}) == (
        '{"on":"2026-01-02","level":null,"k":{"4":1}}'
    )
