"""The event log: exactly once, readable by others, whatever the order of things."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder, TableFeatures

from pipeline.errors import LogError
from pipeline.log import EventLog
from pipeline.log.localstore import LocalStore
from pipeline.log.schema import EVENTS, table_schema
from pipeline.log.sql import select
from pipeline.query import Query
from tests.pipeline.logs import event, run_record, video_id, video_result


def open_log(path: Path, run_id: str = "run-1", config_hash: str = "c1") -> EventLog:
    log = EventLog.open(str(path), create=True)
    log.begin_run(run_record(run_id, config_hash))
    return log


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    results = [video_result("a.mp4"), video_result("b.mp4", status="failed", reason="corrupt: no frame")]
    report = log.commit(results)
    assert set(report.committed) == {video_id("a.mp4"), video_id("b.mp4")} and report.events == 2
    log.finish_run("run-1", {"videos": 2}, "done")
    snapshot = EventLog.open(str(tmp_path / "log")).snapshot()
    events = snapshot.table("events").to_pylist()
    assert [(e["start_us"], e["end_us"], e["kind"], e["text"]) for e in events] == [
        (0, 2_000_000, "shot", "a text"),
        (1_000_000, 3_000_000, "text", "EXIT"),
    ]
    first = results[0].events[0]
    assert events[0] == {
        "video_id": video_id("a.mp4"),
        "run_id": "run-1",
        "event_id": first.event_id(video_id("a.mp4"), "run-1"),
        "start_us": 0,
        "end_us": 2_000_000,
        "kind": "shot",
        "text": "a text",
        "confidence": 0.5,
        "model": "signals",
        "window_first": 0,
        "window_last": 0,
        "evidence_us": [0],
        "attributes": '{"level":1}',
    }
    videos = {v["video_id"]: v for v in snapshot.table("videos").to_pylist()}
    assert videos[video_id("b.mp4")]["reason"] == "corrupt: no frame"
    assert videos[video_id("a.mp4")]["lost_us"] == [{"start_us": 5, "end_us": 9}]
    assert videos[video_id("a.mp4")]["frames"] == 2 and videos[video_id("a.mp4")]["events"] == 2
    (window,) = snapshot.table("windows").to_pylist()
    assert window["frame_us"] == [0, 500_000] and window["replica"] == "r0"
    (run,) = snapshot.table("runs").to_pylist()
    assert run["status"] == "done" and json.loads(run["totals"]) == {"videos": 2}
    assert json.loads(run["config"]) == {"fps": 2, "bad": None}


def test_a_video_is_committed_once(tmp_path: Path) -> None:
    first = open_log(tmp_path / "log")
    second = open_log(tmp_path / "log", "run-2")
    other = open_log(tmp_path / "log", "run-3", "c2")
    assert first.commit([video_result("a"), video_result("a"), video_result("b")]).already == (video_id("a"),)
    # The second committer still stands at the version before that commit.
    report = second.commit([video_result("b", run_id="run-2"), video_result("c", run_id="run-2")])
    assert report.committed == (video_id("c"),) and report.already == (video_id("b"),)
    assert second.commit([video_result("a", run_id="run-2")]).committed == ()
    assert other.commit([video_result("a", run_id="run-3", config_hash="c2")]).committed == (video_id("a"),)
    assert first.done("c1") == {video_id(n): "done" for n in "abc"}
    assert first.done("c2") == {video_id("a"): "done"}
    events = first.snapshot().table("events").to_pylist()
    assert sorted((e["video_id"], e["run_id"]) for e in events) == sorted(
        2 * [(video_id("a"), "run-1"), (video_id("b"), "run-1"), (video_id("c"), "run-2"), (video_id("a"), "run-3")]
    )


def test_a_failed_video_gives_way(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    again = open_log(tmp_path / "log", "run-2")
    log.commit([video_result("a", status="failed", reason="storage: 503")])
    assert log.done("c1") == {video_id("a"): "failed"}
    same = video_result("a", run_id="run-2", status="failed", reason="storage: 503")
    assert again.commit([same]).already == (video_id("a"),)
    assert again.commit([video_result("a", run_id="run-2")]).committed == (video_id("a"),)
    assert log.commit([video_result("a")]).already == (video_id("a"),)
    assert log.done("c1") == again.done("c1") == {video_id("a"): "done"}


def log_for_others(path: Path, compacted: bool) -> str:
    log = open_log(path)
    log.commit([video_result("a")])
    log.commit([video_result("b"), video_result("c", status="failed", reason="empty: no bytes")])
    log.finish_run("run-1", {}, "done")
    if compacted:
        log.compact()
    return str(path)


COUNTS = [("events", 4), ("runs", 1), ("videos", 3), ("windows", 2)]


@pytest.mark.parametrize("compacted", [False, True])
def test_others_read_it(tmp_path: Path, compacted: bool) -> None:
    """DuckDB, Polars, pandas and delta-rs' own engine, through the Delta log and without our code."""
    path = log_for_others(tmp_path / "log", compacted)
    frame = polars.scan_delta(path).filter(polars.col("record") == "events").collect()
    assert sorted(frame["text"].to_list()) == ["EXIT", "EXIT", "a text", "a text"]
    table = DeltaTable(path)
    pandas = table.to_pandas(partitions=[("record", "=", "videos")], columns=["video_id", "status", "uris"])
    assert sorted(pandas["status"]) == ["done", "done", "failed"]
    dataset = table.to_pyarrow_dataset()  # noqa: F841 (DuckDB finds it by name)
    query = "select record, count(*) from dataset group by all order by all"
    assert duckdb.sql(query).fetchall() == COUNTS
    files = [uri for uri in table.file_uris() if "record=events" in uri]
    assert duckdb.sql("select count(*) from read_parquet($files)", params={"files": files}).fetchall() == [(4,)]
    sql = "select record, count(*) as n from log group by record order by record"
    counted = pa.table(QueryBuilder().register("log", table).execute(sql)).to_pylist()
    assert [(row["record"], row["n"]) for row in counted] == COUNTS


@pytest.mark.parametrize("compacted", [False, True])
def test_duckdb_reads_it_as_a_delta_table(tmp_path: Path, compacted: bool) -> None:
    path = log_for_others(tmp_path / "log", compacted)
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        try:
            connection.execute("load delta")
        except duckdb.Error:
            pytest.skip("DuckDB's delta extension is not installed")
        sql = "select record, count(*) from delta_scan($path) group by all order by all"
        assert connection.execute(sql, {"path": path}).fetchall() == COUNTS


def test_names_are_added_without_rewriting(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    log.commit([video_result("a")])
    version = log.snapshot().version
    log.record_names({video_id("a"): ["/copy/a.mp4", "/copy/b.mp4"]})
    log.record_names({video_id("a"): ["/copy/a.mp4"]})
    assert log.snapshot().version == version + 1
    names = EventLog.open(str(tmp_path / "log")).snapshot().table("names").to_pylist()
    assert [n["uri"] for n in names] == ["/copy/a.mp4", "/copy/b.mp4"]


def test_earlier_versions_stay_readable(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    log.commit([video_result("a")])
    before = log.snapshot()
    log.commit([video_result("b")])
    assert before.table("events").num_rows == 2 and log.snapshot().table("events").num_rows == 4
    assert log.snapshot(before.version).table("events").num_rows == 2


def test_what_is_no_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no event log here"):
        EventLog.open(str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    DeltaTable.create(str(tmp_path / "foreign"), schema=open_log(tmp_path / "log").snapshot().table("names").schema)
    with pytest.raises(LogError, match="not an event log"):
        EventLog.open(str(tmp_path / "foreign"))
    commit = tmp_path / "log" / "_delta_log" / f"{0:020}.json"
    commit.write_text(commit.read_text().replace('schemaVersion":"1"', 'schemaVersion":"7"'))
    with pytest.raises(LogError, match="schema version 7"):
        EventLog.open(str(tmp_path / "log"))
    with pytest.raises(LogError, match="local path"):
        EventLog.open("ftp://host/log", create=True)


def test_misuse_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    with pytest.raises(LogError, match="not begun"):
        log.commit([video_result("a", run_id="other")])
    with pytest.raises(LogError, match="already in the log"):
        open_log(tmp_path / "log")
    with pytest.raises(LogError, match="not begun"):
        log.finish_run("other", {}, "done")


def test_a_video_of_many_events_and_hostile_text(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    events = [event(i * 10, i * 10 + 5, text="\ud800 \x00 ü" if i == 7 else "x") for i in range(10_000)]
    log.commit([video_result("big", events[::-1]), video_result("none", ())])
    table = log.snapshot().table("events")
    assert table["start_us"].to_pylist() == [e.start_us for e in events]
    assert table["text"][7].as_py() == "? \x00 ü"


def test_a_commit_whose_answer_is_lost_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has taken the commit, the answer was lost, and the repeated put is refused: it is ours all the same."""
    log = open_log(tmp_path / "log")
    create = LocalStore.create

    def lossy(store: LocalStore, path: str, data: bytes) -> bool:
        return create(store, path, data) and not path.startswith("_delta_log")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "create", lossy)
        assert log.commit([video_result("a")]).committed == (video_id("a"),)
    assert log.commit([video_result("a"), video_result("b")]).committed == (video_id("b"),)
    assert log.snapshot().table("events").num_rows == 4
    assert log.check() == []


def test_a_late_index_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committer that dies (or fails) between its commit and publishing the index: readers catch up by themselves."""
    log = open_log(tmp_path / "log")
    log.commit([video_result("a.mp4")])
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.log.localstore.LocalStore.swap", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        assert log.commit([video_result("b.mp4")]).committed == (video_id("b.mp4"),)
    assert Query(str(tmp_path / "log")).between("b.mp4", 0, 5_000_000).num_rows == 2
    log.commit([video_result("c.mp4")])
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        assert Query(str(tmp_path / "log")).between(name, 0, 5_000_000).num_rows == 2
    assert log.check() == []


def test_checkpoints_and_foreign_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are made; commits that others make through delta-rs are seen; features unknown here are refused."""
    monkeypatch.setattr("pipeline.log.delta.CHECKPOINT_EVERY", 3)
    log = open_log(tmp_path / "log")
    for name in "abcde":
        log.commit([video_result(name)])
    assert list((tmp_path / "log" / "_delta_log").glob("*.checkpoint.parquet"))
    table = DeltaTable(str(tmp_path / "log"))
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})
    log.commit([video_result("f")])
    assert log.done("c1").keys() == {video_id(n) for n in "abcdef"}
    assert DeltaTable(str(tmp_path / "log")).history(2)[0]["operation"] == "WRITE"
    table = DeltaTable(str(tmp_path / "log"))
    table.alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
    with pytest.raises(LogError, match="Delta features"):
        log.commit([video_result("g")])
    with pytest.raises(LogError, match="Delta features"):
        EventLog.open(str(tmp_path / "log"))


def test_a_committer_that_slept_looks_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old commits may be gone by then; writing the version after the last one known would hide it below the newest."""
    log, other = open_log(tmp_path / "log"), open_log(tmp_path / "log", "run-2")
    for name in "abc":
        other.commit([video_result(name, run_id="run-2")])
    DeltaTable(str(tmp_path / "log")).create_checkpoint()
    for version in range(6):
        (tmp_path / "log" / "_delta_log" / f"{version:020}.json").unlink(missing_ok=True)
    monkeypatch.setattr("pipeline.log.delta.LISTING_S", -1.0)
    assert log.commit([video_result("a"), video_result("d")]).committed == (video_id("d"),)
    assert log.done("c1").keys() == {video_id(n) for n in "abcd"}
    assert log.snapshot().table("events").num_rows == 8


def test_columns_can_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log from before a column was there: it is added, nothing is rewritten, old rows have null in it."""
    with monkeypatch.context() as patch:
        older = pa.schema([f for f in table_schema() if f.name not in ("model", "lost_us")])
        patch.setattr("pipeline.log.delta.table_schema", lambda: older)
        patch.setattr("pipeline.log.eventlog.EVENTS", pa.schema([f for f in EVENTS if f.name != "model"]))
        patch.setattr("pipeline.log.rows.EVENTS", pa.schema([f for f in EVENTS if f.name != "model"]))
        open_log(tmp_path / "log").commit([video_result("a.mp4")])
    log = open_log(tmp_path / "log", "run-2")
    log.commit([video_result("b.mp4", run_id="run-2")])
    frame = polars.read_delta(str(tmp_path / "log"))
    assert {"model", "lost_us"} <= set(frame.columns)
    assert sorted(log.snapshot().table("events")["model"].to_pylist(), key=str) == [None, None, "signals", "signals"]
    query = Query(str(tmp_path / "log"))
    assert query.at("a.mp4", 0)["model"].to_pylist() == [None]
    assert query.at("b.mp4", 0)["model"].to_pylist() == ["signals"]
    assert select(log.snapshot(), "select count(model) as n from events").to_pylist() == [{"n": 2}]
    log.compact()
    assert Query(str(tmp_path / "log")).at("a.mp4", 0)["model"].to_pylist() == [None]


def test_sql_by_many_threads_reads_what_was_written(tmp_path: Path) -> None:
    """DuckDB's threads share a file of ours and seek in it."""
    log = open_log(tmp_path / "log")
    log.commit([video_result("a.mp4", [event(i, i + 9, text=f"text {i * i}") for i in range(30_000)])])
    asked = "select sum(length(text)) as letters, sum(start_us) as starts, count(*) as n from events"
    expected = {"letters": sum(len(f"text {i * i}") for i in range(30_000)), "starts": 449_985_000, "n": 30_000}
    for _ in range(5):
        assert select(log.snapshot(), asked, settings={"threads": 8}).to_pylist() == [expected]
