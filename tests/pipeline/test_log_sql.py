"""What SQL over the log reads, and what its answers look like."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.decimals import as_written
from pipeline.errors import LogError, UsageError
from pipeline.log import EventLog, ahead
from pipeline.log.ahead import Ahead
from pipeline.log.localstore import LocalStore
from pipeline.log.schema import RECORDS
from pipeline.log.snapshot import Snapshot
from pipeline.log.sql import connect, rows_of, select
from tests.pipeline.logs import run_record, video_id, video_result

COMMITS = 8


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    log = EventLog.open(str(tmp_path_factory.mktemp("sql") / "log"), create=True)
    log.begin_run(run_record())
    for k in range(COMMITS):
        log.commit([video_result(f"{k}.mp4")])
    log.record_names({video_id("0.mp4"): ["/elsewhere/0.mp4"]})
    return log.snapshot()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each data file was read."""
    read, found = LocalStore.read, Counter[str]()

    def counting(self: LocalStore, path: str, start: int = 0, length: int | None = None) -> bytes:
        if path.startswith("record="):
            found[path] += 1
        return read(self, path, start, length)

    monkeypatch.setattr(LocalStore, "read", counting)
    return found


def records(reads: Counter[str]) -> set[str]:
    return {path.split("/")[0].removeprefix("record=") for path in reads}


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("select 1", ""),
        ("select host from runs", "runs"),
        ("select sum(events) from videos", "videos"),
        ('select count(*) from main."Events" where kind not in (select kind from Windows, events)', "events windows"),
        ("with x as (select * from videos) select (select count(*) from names) from x", "videos names"),
        ("with events as (select 1 as x) select x from events", ""),
        ("select * from query_table('runs')", "runs"),
        ("select * from query('from runs')", "runs"),
        ("explain select * from names", "names"),
        ("from (describe runs)", "runs"),
        ("select 'events'", ""),
    ],
)
def test_only_what_a_query_names_is_read(snapshot: Snapshot, reads: Counter[str], sql: str, read: str) -> None:
    select(snapshot, sql)
    assert records(reads) == set(read.split())
    assert set(reads.values()) <= {1}, "each file once"


def test_a_parameter_does_not_hide_what_is_read(snapshot: Snapshot, reads: Counter[str]) -> None:
    assert select(snapshot, "select * from runs where run_id = ?", ["run-1"]).num_rows == 1
    assert records(reads) == {"runs"}
    found = select(snapshot, "select * from query('select video_id from ' || 'events') where video_id = ?", ["x"])
    assert found.num_rows == 0


@pytest.mark.parametrize(
    "sql",
    [
        "show tables",
        "select name from (show all tables)",
        "select view_name from duckdb_views() where not internal order by 1",
        "select table_name from information_schema.tables order by 1",
        "select name from (describe)",
    ],
)
def test_the_views_are_listed_all(snapshot: Snapshot, sql: str) -> None:
    assert sorted(select(snapshot, sql).column(0).to_pylist()) == sorted(RECORDS)


@pytest.mark.parametrize(
    "hidden",
    [
        "select count(*) from query_table('vid' || 'eos')",
        "from query('select count(*) from vid' || 'eos')",
        "from json_execute_serialized_sql(json_serialize_sql('select count(*) from vid' || 'eos'))",
    ],
)
def test_names_that_come_out_of_a_text(snapshot: Snapshot, hidden: str) -> None:
    assert rows_of(select(snapshot, hidden)) == [(COMMITS,)]


def test_what_may_be_meant(snapshot: Snapshot) -> None:
    with pytest.raises(UsageError, match='Did you mean "events"'):
        select(snapshot, "select * from event")


@contextmanager
def waits_for(others: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Each read of a data file waits, a second at most, until so many are under way: then the event is set."""
    read, lock, begun, together = LocalStore.read, threading.Lock(), [0], threading.Event()

    def waiting(self: LocalStore, path: str, start: int = 0, length: int | None = None) -> bytes:
        if path.startswith("record="):
            with lock:
                begun[0] += 1
                if begun[0] >= others:
                    together.set()
            assert together.wait(1), "one after the other"
        return read(self, path, start, length)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "read", waiting)
        yield together


def test_files_are_read_many_at_once(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an object store each is a request's time."""
    with waits_for(COMMITS, monkeypatch) as together:
        assert select(snapshot, "select count(*) as n from events").to_pylist() == [{"n": 2 * COMMITS}]
    assert together.is_set()
    with waits_for(COMMITS, monkeypatch) as together:
        assert snapshot.table("videos", ["video_id"]).num_rows == COMMITS
    assert together.is_set()


@pytest.mark.parametrize("piece", [1, 100, 3000])
def test_of_large_files_the_end_is_read_ahead(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    asked = "select video_id, event_id, text, evidence_us from events order by all"
    whole = select(snapshot, asked)
    monkeypatch.setattr(ahead, "PIECE", piece)
    assert select(snapshot, asked).equals(whole)


def test_what_is_kept_has_a_bound_and_serves_the_next_connection(snapshot: Snapshot, reads: Counter[str]) -> None:
    files = snapshot.files("events")
    small = min(file.size_bytes for file in files)
    for most, kept in ((0, 0), (small, 1), (1 << 20, len(files))):
        keeping = Ahead(snapshot.store, most)
        keeping.fetch(files)
        reads.clear()
        again = connect(snapshot, records=["events"], ahead=keeping)
        assert again.execute("select count(*) from events").fetchall() == [(2 * COMMITS,)]
        again.close()
        assert len(files) - len(reads) == kept


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    log.commit([video_result("a.mp4")])
    next((tmp_path / "log" / "record=events").glob("*.parquet")).unlink()
    with pytest.raises(LogError, match="--check"):
        select(log.snapshot(), "select * from events")
    assert select(log.snapshot(), "select count(*) as n from videos").to_pylist() == [{"n": 1}]


def test_no_two_columns_have_one_name(snapshot: Snapshot) -> None:
    for rows in (None, 5):
        table = select(snapshot, "select 1 as a, 2 as a, 3 as b, 4 as A, 5 as a_1", rows=rows)
        assert table.column_names == ["a", "a_2", "b", "A_3", "a_1"]
        assert rows_of(table) == [(1, 2, 3, 4, 5)]
        joined = select(snapshot, "from events join videos using (video_id)", rows=rows)
        assert {"run_id", "run_id_1"} < set(joined.column_names) and len(set(joined.column_names)) == 35


def test_dates_that_python_does_not_have(snapshot: Snapshot) -> None:
    sql = "select d, d::timestamp as t, [d] as l from (values ('infinity'::date), ('2026-01-02')) as v(d)"
    assert rows_of(select(snapshot, sql)) == [
        ("infinity", "infinity", "[infinity]"),
        ("2026-01-02", "2026-01-02 00:00:00", "[2026-01-02]"),
    ]
    assert rows_of(select(snapshot, "select '2026-01-02'::date as d")) == [(date(2026, 1, 2),)]
    assert rows_of(select(snapshot, "select 1 as a where false")) == []


def test_a_short_float_is_written_as_what_it_was() -> None:
    column = pa.array([0.85, 1 / 3, None, float("inf")], pa.float32())
    assert rows_of(pa.table({"confidence": column})) == [(0.85,), (0.33333334,), (None,), (float("inf"),)]


def test_short_floats_inside_others_too(snapshot: Snapshot) -> None:
    sql = """select [0.85::float, null] as l, {'a': 0.95::float, 'b': 0.1} as s, map {'k': [0.1::float]} as m,
        [{'x': 0.7::float}] as n, [0.2::float, 0.3]::float[2] as f, null::float[] as none, [0.1::double] as d"""
    [row] = rows_of(select(snapshot, sql))
    assert row == (
        [0.85, None],
        {"a": 0.95, "b": Decimal("0.1")},
        [("k", [0.1])],
        [{"x": 0.7}],
        [0.2, 0.3],
        None,
        [0.1],
    )


def test_every_float_is_written_as_the_shortest_that_is_the_same() -> None:
    rng = np.random.default_rng(3)
    for value in (*rng.random(500, np.float32), *np.frombuffer(rng.bytes(2000), np.float32)):
        if np.isfinite(value):
            assert as_written(float(value)) == float(str(value)), value
    for same in (None, 1 / 3, 1e300, float("inf"), 0.0):
        assert as_written(same) == same


def test_pivot_needs_its_values_and_says_so(snapshot: Snapshot) -> None:
    for sql in ("pivot events on kind using count(*)", "with p as (PIVOT events on kind using count(*)) from p"):
        with pytest.raises(UsageError, match=r"PIVOT needs its values here: pivot events on kind in"):
            select(snapshot, sql)
    found = select(snapshot, "from (pivot (from events select kind) on kind in ('shot', 'a') using count(*))")
    assert found.to_pylist() == [{"shot": COMMITS, "a": 0}]
