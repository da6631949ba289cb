"""Compaction, vacuum, check: the rows stay, damage is found and named, the rest still answers."""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars
import pytest
from deltalake import DeltaTable

from pipeline.errors import LogError, UsageError
from pipeline.event import Event
from pipeline.log import EventLog, compact, eventlog, head, publisher
from pipeline.log.check import check, forget
from pipeline.log.compact import vacuum
from pipeline.log.store import open_store
from pipeline.query import Query
from tests.pipeline.logs import random_events, run_record, video_id, video_result

SPAN = 1000


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "ROW_GROUP", 8)
    monkeypatch.setattr(compact, "ROW_GROUP", 8)
    monkeypatch.setattr(compact, "TARGET_ROWS", 60)


def make(path: Path, count: int = 12, run: str = "run-1") -> dict[str, list[Event]]:
    generator = random.Random(5)
    log = EventLog.open(str(path), create=True)
    log.begin_run(run_record(run))
    videos = {f"v{i}.mp4": random_events(generator, generator.choice([0, 3, 30]), SPAN) for i in range(count)}
    names = list(videos)
    for at in range(0, count, 3):
        log.commit([video_result(n, videos[n], run, duration_us=SPAN) for n in names[at : at + 3]])
    return videos


def assert_holds(path: Path, videos: dict[str, list[Event]]) -> None:
    query = Query(str(path))
    for name, events in videos.items():
        found = query.between(name, 0, 10_000 * SPAN)
        assert list(zip(found["start_us"].to_pylist(), found["text"].to_pylist(), strict=True)) == [
            (e.start_us, e.text) for e in events
        ]
    frame = polars.scan_delta(str(path)).filter(polars.col("record") == "events").collect()
    assert len(frame) == frame["event_id"].len() == sum(len(e) for e in videos.values())


@pytest.mark.usefixtures("small_files")
def test_compaction_keeps_every_row(tmp_path: Path) -> None:
    path = tmp_path / "log"
    videos = make(path)
    log = EventLog.open(str(path))
    log.record_names({video_id("v0.mp4"): ["/other/name.mp4"]})
    before = log.snapshot()
    rows = before.table("events").sort_by([("event_id", "ascending"), ("video_id", "ascending")])
    reader = Query(str(path))
    done = log.compact()
    assert done.files_after < done.files_before
    after = log.snapshot().table("events").sort_by([("event_id", "ascending"), ("video_id", "ascending")])
    assert after.equals(rows)
    assert_holds(path, videos)
    assert Query(str(path)).resolve("/other/name.mp4")[0] == video_id("v0.mp4")
    # Readers of the version before go on, and new commits come on top.
    assert reader.between("v1.mp4", 0, SPAN).num_rows == len(videos["v1.mp4"])
    assert before.table("events").num_rows == rows.num_rows
    log.begin_run(run_record("run-2"))
    report = log.commit([video_result("new.mp4", run_id="run-2"), video_result("v0.mp4", run_id="run-2")])
    assert report.already == (video_id("v0.mp4"),)
    assert Query(str(path)).between("new.mp4", 0, SPAN * SPAN * 3).num_rows == 2
    assert check(open_store(str(path))) == []
    again = log.compact()
    assert again.files_after < again.files_before
    assert log.compact().version == again.version  # nothing left to do
    assert_holds(path, videos | {"new.mp4": list(video_result("new.mp4").events)})


@pytest.mark.usefixtures("small_files")
def test_compaction_beside_a_writer(tmp_path: Path) -> None:
    """Commits that come between a compaction's reading and its commit are neither lost nor doubled."""
    path = tmp_path / "log"
    videos = make(path)
    writer = EventLog.open(str(path))
    writer.begin_run(run_record("run-2"))
    late = iter(range(100))

    def meanwhile(_: str) -> None:
        n = next(late)
        if n < 3:
            writer.commit([video_result(f"late{n}.mp4", run_id="run-2")])

    EventLog.open(str(path)).compact(meanwhile)
    assert_holds(path, videos | {f"late{n}.mp4": list(video_result("x").events) for n in range(3)})
    assert check(open_store(str(path))) == []


@pytest.mark.usefixtures("small_files")
def test_vacuum_deletes_only_what_no_version_needs(tmp_path: Path) -> None:
    path = tmp_path / "log"
    videos = make(path)
    (path / "record=events" / ("0" * 32 + ".parquet")).write_bytes(b"left by a killed writer")
    (path / "record=events" / ".x.tmp").write_bytes(b"too")
    log = EventLog.open(str(path))
    log.compact()
    assert log.vacuum() == []
    with pytest.raises(UsageError, match="under way"):
        log.vacuum(0)
    named = vacuum(open_store(str(path)), 0, dry_run=True, safe_hours=0)
    removed = vacuum(open_store(str(path)), 0, safe_hours=0)
    assert set(named) == set(removed) and any("000000" in r for r in removed)
    assert not (path / "record=events" / ".x.tmp").exists()
    assert len(list((path / "record=events").iterdir())) == len(log.snapshot().files("events"))
    assert_holds(path, videos)
    assert check(open_store(str(path))) == []


@pytest.mark.usefixtures("small_files")
def test_a_foreign_compaction_is_survived(tmp_path: Path) -> None:
    """Others may OPTIMIZE and VACUUM the table: slower, never wrong; --compact takes it back."""
    path = tmp_path / "log"
    videos = make(path)
    DeltaTable(str(path)).optimize.compact(partition_filters=[("record", "=", "events")])
    assert_holds(path, videos)
    DeltaTable(str(path)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert_holds(path, videos)
    shutil.rmtree(path / "_index")
    assert_holds(path, videos)
    EventLog.open(str(path)).compact()
    assert_holds(path, videos)
    assert check(open_store(str(path))) == []


@pytest.mark.usefixtures("small_files")
def test_index_rolls_into_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "TAIL_COMMITS", 2)
    monkeypatch.setattr(head, "LISTED", 4)
    videos = make(tmp_path / "log", 24)
    published = head.load(open_store(str(tmp_path / "log")))
    assert published is not None and published[0].catalogs and len(published[0].tail) <= 2
    assert_holds(tmp_path / "log", videos)
    assert check(open_store(str(tmp_path / "log"))) == []


def damage(path: Path, record: str, change: str) -> str:
    """Damage the first data file of a record; returns its name."""
    file = sorted((path / f"record={record}").iterdir())[0]
    if change == "gone":
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if change == "cut" else data[:4] + bytes(40) + data[44:])
    return file.name


@pytest.mark.parametrize("change", ["gone", "cut", "bytes"])
def test_a_damaged_data_file_is_named(tmp_path: Path, change: str) -> None:
    path = tmp_path / "log"
    videos = make(path)
    name = damage(path, "events", change)
    problems = check(open_store(str(path)))
    hurt = {v.rsplit("/", 1)[-1] for p in problems for v in p.videos}
    assert any(name in p.path for p in problems) and 1 <= len(hurt) <= 3
    query = Query(str(path))
    for video, events in videos.items():
        if video in hurt:
            with pytest.raises(LogError, match=name):
                query.between(video, 0, SPAN)
        else:
            assert query.between(video, 0, SPAN).num_rows == len(events)


@pytest.mark.parametrize("record", ["events", "videos", "windows"])
@pytest.mark.parametrize("compacted", [False, True])
def test_damaged_videos_can_be_run_again(tmp_path: Path, record: str, compacted: bool) -> None:
    path = tmp_path / "log"
    videos = make(path)
    log = EventLog.open(str(path))
    if compacted:
        log.compact()
        vacuum(open_store(str(path)), 0, safe_hours=0)
    damage(path, record, "gone")
    store = open_store(str(path))
    problems = check(store)
    hurt = {v.rsplit("/", 1)[-1] for p in problems for v in p.videos}
    assert hurt and (record == "events" or len(hurt) == (12 if compacted else 3))
    forget(store, problems)
    assert check(store) == []
    again = EventLog.open(str(path))
    again.begin_run(run_record("run-2"))
    assert again.done("c1").keys() == {video_id(n) for n in videos} - {video_id(n) for n in hurt}
    report = again.commit([video_result(n, e, "run-2", duration_us=SPAN) for n, e in videos.items()])
    assert set(report.committed) == {video_id(n) for n in hurt}
    assert_holds(path, videos)
    assert check(store) == []


def test_a_deleted_commit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    videos = make(path)
    (path / "_delta_log" / f"{3:020}.json").unlink()
    assert any(f"{3:020}.json" in p.path for p in check(open_store(str(path))))
    assert Query(str(path)).between("v1.mp4", 0, SPAN).num_rows == len(videos["v1.mp4"])
    with pytest.raises(LogError, match=rf"cannot open the event log: _delta_log/{3:020}.json missing"):
        EventLog.open(str(path))


@pytest.mark.parametrize("what", ["head", "tail", "bucket", "all"])
def test_a_damaged_index_costs_time_not_answers(tmp_path: Path, what: str) -> None:
    path = tmp_path / "log"
    videos = make(path)
    if what == "head":
        (path / "_index" / "head").write_bytes(b"SSHEAD01 nonsense")
        assert [p.path for p in check(open_store(str(path)))] == ["_index/head"]
        log = EventLog.open(str(path))
        log.begin_run(run_record("run-2"))
        assert check(open_store(str(path))) == []  # the next commit has made it again
        (path / "_index" / "head").write_bytes(b"SSHEAD01 nonsense")
    elif what in ("tail", "bucket"):
        index = sorted((path / "_index").glob("*.idx"))[0]
        data = index.read_bytes()
        index.write_bytes(data[: len(data) - 700] + bytes(range(256)) * 2 if what == "bucket" else b"nonsense")
        assert any("_index" in p.path for p in check(open_store(str(path))))
    else:
        shutil.rmtree(path / "_index")
    assert_holds(path, videos)
    EventLog.open(str(path)).compact()
    assert_holds(path, videos)
    assert check(open_store(str(path))) == []


def test_foreign_files_are_no_part_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    videos = make(path)
    (path / "record=events" / "stray.parquet").write_bytes(b"not ours")
    (path / "notes.txt").write_text("hello")
    assert_holds(path, videos)
    assert check(open_store(str(path))) == []


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes of a file fails, as on a full disk; by the kernel, in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 900, 6000, 20_000])
def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path, size: int) -> None:
    """Wherever the space ends: in the first data file, in the index file, in a larger data file."""
    path = tmp_path / "log"
    videos = make(path)
    log = EventLog.open(str(path))
    log.begin_run(run_record("run-2"))
    log.commit([])
    events = random_events(random.Random(1), 3000, SPAN)
    more = video_result("more.mp4", events, "run-2", duration_us=SPAN)
    with files_of_at_most(size), pytest.raises(LogError, match=r"File too large.*nothing of this group is in the log"):
        log.commit([more])
    assert len(list((path / "record=events").iterdir())) == 4  # nothing of what was begun is left
    if size < 20_000:  # enough for all of the small log
        with files_of_at_most(size), pytest.raises(LogError, match="File too large; the log is as it was"):
            log.compact()
    assert_holds(path, videos)
    assert check(open_store(str(path))) == []
    assert len(list((path / "record=events").iterdir())) == 4
    assert log.commit([more]).committed == (video_id("more.mp4"),)
    assert_holds(path, videos | {"more.mp4": events})
