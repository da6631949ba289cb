"""The object that says where a run stands: written, replaced, read by others, and survived when it is nonsense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import LogError
from pipeline.live import SILENT_S, LiveStatus, Stuck, forget_live, parse_live, read_live, write_live

STATUS = LiveStatus(
    run_id="20260131T154500-3fa2c1",
    state="running",
    started_at_us=1_000_000,
    updated_at_us=9_000_000,
    model="signals",
    videos_found=12,
    videos_done=3,
    videos_failed=1,
    videos_already=2,
    hours_per_hour=12.5,
    rates={"decode": 3.0, "watch": 2.5},
    stuck=(Stuck("decode", "影片 \udcff.mp4", "node-1", 5_000_000),),
    failures=(("a.mp4", "empty: the file has no bytes"),),
)


def test_what_was_written_last_is_read_newest_run_first(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    assert read_live(log) == []
    write_live(log, STATUS)
    later = replace(STATUS, run_id="later", started_at_us=2_000_000, stuck=())
    write_live(log, later)
    moved = replace(STATUS, state="done", videos_done=9)
    write_live(log, moved)
    assert read_live(log) == [later, moved]
    assert moved.videos_finished == 9 + 1 + 2
    assert sorted(p.name for p in (tmp_path / "log" / "_live").iterdir()) == [f"{STATUS.run_id}.json", "later.json"]


def test_a_driver_that_says_nothing_more_is_not_live() -> None:
    assert STATUS.is_live(9_000_000 + int(SILENT_S * 1e6))
    assert not STATUS.is_live(9_000_001 + int(SILENT_S * 1e6))
    assert not replace(STATUS, state="done").is_live(9_000_000)


def test_nonsense_beside_it_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "_live"
    write_live(str(tmp_path), STATUS)
    good = json.loads((folder / f"{STATUS.run_id}.json").read_text())
    (folder / "half.json").write_text('{"run_id": "half", "sta')
    (folder / "list.json").write_text("[]")
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "huge.json").write_bytes(b" " * (1 << 20) + b"{}")
    (folder / ".later.json.1234.tmp").write_text("{}")
    for name, change in {
        "state": {"state": "on fire"},
        "kind": {"videos_done": "3"},
        "truth": {"videos_done": True},
        "path": {"run_id": "../../etc/passwd"},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps({**good, **change}))
    newer = {**good, "run_id": "newer", "version": 9, "invented_later": [1]}
    (folder / "newer.json").write_text(json.dumps(newer))
    assert {s.run_id for s in read_live(str(tmp_path))} == {STATUS.run_id, "newer"}


def test_a_run_id_is_no_path_and_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="run id"):
        write_live(str(tmp_path), replace(STATUS, run_id="../up"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LogError, match="this is a file; an event log is a folder"):
        write_live(str(tmp_path / "file"), STATUS)


def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    import os

    write_live(str(tmp_path), STATUS)
    write_live(str(tmp_path), replace(STATUS, run_id="young"))
    os.utime(tmp_path / "_live" / f"{STATUS.run_id}.json", (0, 0))
    assert forget_live(str(tmp_path)) == 1
    assert [s.run_id for s in read_live(str(tmp_path))] == ["young"]


def test_it_lies_in_an_object_store_too() -> None:
    from jobs.bench.s3 import s3_server

    with s3_server() as bucket:
        write_live(f"{bucket}/log", STATUS)
        write_live(f"{bucket}/log", replace(STATUS, events=7))
        assert read_live(f"{bucket}/log") == [replace(STATUS, events=7)]
        assert read_live(f"{bucket}/nothing") == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["stage", "x"]), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(list(LiveStatus.__dataclass_fields__)), JSON, max_size=3))
def test_any_json_is_a_status_or_a_value_error(change: dict[str, object]) -> None:
    plain = json.loads(json.dumps({**STATUS.as_json(), **change}))
    try:
        status = parse_live(plain)
    except ValueError:
        return
    assert parse_live(json.loads(json.dumps(status.as_json()))) == status
