"""Windows of unfinished videos beside the log: what comes back is what was kept, or nothing."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import WindowEvent, WindowEvents
from pipeline.kept import FORGET_S, KeptWindow, join, keep, kept_files, read_kept
from pipeline.log import EventLog
from pipeline.log.store import open_store
from pipeline.plan import SECOND_US, Window, Windowing
from pipeline.reduce import reduce_events

WINDOWING = Windowing(4 * SECOND_US, SECOND_US)
DURATION_US = 30 * SECOND_US
EXPECTED = {i: WINDOWING.window("v", i, DURATION_US) for i in range(WINDOWING.count(DURATION_US))}

anything: Any = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.floats(width=32).map(np.float32)
)
EVENT = st.builds(
    WindowEvent,
    start_us=st.one_of(st.integers(-10, 10**7), anything),
    end_us=st.one_of(st.integers(-10, 10**7), anything),
    kind=st.one_of(st.sampled_from(["a", "b"]), anything),
    text=st.one_of(st.text(max_size=4), st.just("\ud800"), anything),
    confidence=anything,
    evidence_us=st.lists(st.one_of(st.integers(0, 10**7), anything), max_size=3).map(tuple),
    attributes=st.dictionaries(st.text(max_size=3), anything, max_size=2),
    continues_before=st.booleans(),
    continues_after=st.booleans(),
)


def _kept(index: int, events: tuple[WindowEvent, ...] = ()) -> KeptWindow:
    window = EXPECTED[index]
    said = WindowEvents(window, events, 0.25, 10, 20, True, 'said "so"\n\u4f60')
    return KeptWindow(window, (index, index + 1), ((1, 2),), 0.5, 99, said, 2, "replica-7")


@given(st.lists(st.lists(EVENT, max_size=4), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_what_a_model_said_reduces_to_the_same_events_after_it_was_kept(said: list[list[WindowEvent]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        windows = [_kept(i, tuple(events)) for i, events in enumerate(said)]
        keep(store, "c", "v", windows)
        back = list(read_kept(store, kept_files(store, "c")["v"], EXPECTED))
    assert [(k.window, k.frame_us, k.lost_us, k.attempt, k.replica) for k in back] == [
        (k.window, k.frame_us, k.lost_us, k.attempt, k.replica) for k in windows
    ]
    before = reduce_events((k.events for k in windows), {}, DURATION_US)
    after = reduce_events((k.events for k in back), {}, DURATION_US)
    assert (after.events, after.dropped) == (before.events, before.dropped)
    assert back[0].events.answer == windows[0].events.answer and back[0].events.truncated


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "not gzip", "other version", "nested", "no lines"])
def test_a_damaged_file_is_as_good_as_absent(harm: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    keep(store, "c", "v", [_kept(0)])
    (good,) = kept_files(store, "c")["v"]
    path = tmp_path / keep(store, "c", "v", [_kept(1), _kept(2)])
    data = path.read_bytes()
    harmed = {
        "cut": data[:-9],
        "flipped": data[:40] + bytes([data[40] ^ 1]) + data[41:],
        "empty": b"",
        "not gzip": b"hello",
        "other version": gzip.compress(json.dumps({"version": 2}).encode() + b"\n" + b"{}"),
        "nested": gzip.compress(b'{"version": 1}\n' + b"[" * 100_000),
        "no lines": gzip.compress(b""),
    }[harm]
    path.write_bytes(harmed)
    assert [k.window.index for k in read_kept(store, kept_files(store, "c")["v"], EXPECTED)] == [0]
    assert [k.window.index for k in read_kept(store, [good, "gone.jsonl.gz"], EXPECTED)] == [0]


def test_windows_of_another_plan_are_not_taken(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    keep(store, "c", "v", [_kept(0), _kept(1), _kept(3)])
    other = {0: EXPECTED[0], 1: Window("v", 1, 0, 5)}
    assert [k.window.index for k in read_kept(store, kept_files(store, "c")["v"], other)] == [0]


def test_what_nobody_comes_back_for_is_deleted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    path = tmp_path / keep(store, "c", "v", [_kept(0)])
    assert set(kept_files(store, "c")) == {"v"} and kept_files(store, "other") == {}
    os.utime(path, (time.time() - FORGET_S - 10,) * 2)
    assert kept_files(store, "c") == {} and not path.exists()


def test_vacuum_deletes_what_is_kept_of_configurations_that_nobody_runs_any_more(tmp_path: Path) -> None:
    log = EventLog.open(str(tmp_path), create=True)
    store = open_store(str(tmp_path))
    old, _ = keep(store, "c", "v", [_kept(0)]), keep(store, "other", "v", [_kept(0)])
    os.utime(tmp_path / old, (time.time() - FORGET_S - 10,) * 2)
    assert log.vacuum(dry_run=True) == log.vacuum() == [old]
    assert kept_files(store, "c") == {} and set(kept_files(store, "other")) == {"v"}


def test_joined_files_hold_what_all_of_them_hold_and_what_cannot_be_read_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first, second = keep(store, "c", "v", [_kept(2), _kept(0)]), keep(store, "c", "v", [_kept(1)])
    newer = keep(store, "c", "v", [_kept(3)])
    text = gzip.decompress((tmp_path / newer).read_bytes()).decode()
    (tmp_path / newer).write_bytes(gzip.compress(text.replace('"version": 1', '"version": 2', 1).encode()))
    path, held = join(store, "c", "v", [first, newer, "_windows/c/v/gone.jsonl.gz", second])
    assert held == [first, second]
    assert [k.window.index for k in read_kept(store, [path], EXPECTED)] == [2, 0, 1]


def test_attributes_of_any_mapping_come_back(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    said = WindowEvent(0, 1, "a", "b", attributes=MappingProxyType({"speed": 3}))
    keep(store, "c", "v", [_kept(0, (said,))])
    [back] = read_kept(store, kept_files(store, "c")["v"], EXPECTED)
    assert back.events.events[0].attributes == {"speed": 3}
