"""SQL over HTTP: what DuckDB says over the same log, and what it may not cost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from jobs.serve.app import create_app
from jobs.serve.reply import Problem
from jobs.serve.settings import Limits, Settings
from pipeline.errors import UsageError
from pipeline.log import EventLog
from pipeline.log.sql import select
from tests.jobs.serving import Served, refused

ENDLESS = "select count(*) from range(1000000000000) a, range(100) b where (a.range + b.range) % 7 = 8"

TestClient = pytest.importorskip("fastapi.testclient").TestClient


def ask(client: Any, sql: str, **more: Any) -> Any:
    return client.post("/api/sql", json={"sql": sql, **more})


def test_rows_are_those_of_the_parquet_files(client: Any, served: Served) -> None:
    files = str(served.log / "record=events" / "*.parquet")
    sql = "select kind, count(*) as n, min(start_us) as first from {} group by kind order by n desc, kind"
    said = ask(client, sql.format("events")).json()
    assert [tuple(row) for row in said["rows"]] == duckdb.sql(sql.format(f"'{files}'")).fetchall()
    assert said["columns"][:2] == [{"name": "kind", "type": "string"}, {"name": "n", "type": "int64"}]
    assert not said["truncated"]
    for view in ("videos", "windows", "runs", "names"):
        assert ask(client, f"from {view}").status_code == 200


def test_more_rows_than_asked_for(client: Any) -> None:
    said = ask(client, "select range from range(100) order by range desc", limit=3).json()
    assert said["rows"] == [[99], [98], [97]] and said["truncated"]
    assert not ask(client, "select 1 from range(3)", limit=3).json()["truncated"]


def test_what_json_does_not_know(client: Any) -> None:
    said = ask(
        client,
        "select 'nan'::double, date '2026-01-02', 1.5::decimal(5, 2), 'ab'::blob, [1, null], {'a': 'inf'::float},"
        " 170141183460469231731687303715884105727::hugeint, 'infinity'::timestamp, '294247-01-01'::date,"
        " ['infinity'::date]",
    )
    [row] = said.json()["rows"]
    assert row[:6] == [None, "2026-01-02", "1.50", "6162", [1, None], {"a": None}]
    assert row[6:] == ["170141183460469231731687303715884105727", "infinity", "294247-01-01", "[infinity]"]


def test_columns_of_one_name(client: Any) -> None:
    said = ask(client, "select 1 as a, 2 as a, 3 as b").json()
    assert [column["name"] for column in said["columns"]] == ["a", "a_1", "b"] and said["rows"] == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("drop table events", "only read"),
        ("copy events to 'x.csv'", "only read"),
        ("attach 'x.db'", "only read"),
        ("set memory_limit = '1TB'", "only read"),
        ("select 1; select 2", "2 statements"),
        ("", "at least 1 character"),
        (";", "0 statements"),
        ("selec", "syntax error"),
        ("select * from nowhere", "nowhere"),
        ("select * from read_text('/etc/passwd')", "disabled"),
        ("select * from glob('/*')", "disabled"),
        ("select * from read_parquet('https://example.org/x.parquet')", "disabled"),
        ("select * from '/etc/passwd'", "passwd"),
        ("\x00", ""),
    ],
)
def test_only_the_log_is_read(client: Any, sql: str, says: str) -> None:
    answer = ask(client, sql)
    assert says in refused(answer, 422) and "root:" not in answer.text


WRITING = (
    "with x as (copy (select 1) to '{}' (use_tmp_file false)) select * from x",
    "explain analyze copy (select 1) to '{}' (use_tmp_file false)",
    "explain (analyze, format json) copy (select 1) to '{}' (use_tmp_file false, format csv)",
)


@pytest.mark.parametrize("sql", WRITING)
def test_a_question_cannot_write(client: Any, served: Served, tmp_path: Path, sql: str) -> None:
    """DuckDB takes these for questions, and lets them write what it lets them read."""

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in served.log.rglob("*") if path.is_file()}

    before = content()
    for file in (served.log / "record=events").glob("*.parquet"):
        name = file.relative_to(served.log)
        for target in (f"eventlog://{name}", f"eventlog://{name}.more", str(file), str(tmp_path / "x.csv")):
            with pytest.raises(UsageError):
                select(EventLog.open(str(served.log)).snapshot(), sql.format(target))
    assert "only read" in refused(ask(client, sql.format(f"eventlog://{name}")), 422)
    assert content() == before and not list(tmp_path.iterdir())
    assert str(served.log) not in ask(client, "from duckdb_settings()").text + ask(client, "from duckdb_views()").text


def test_it_does_not_take_all_memory(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    limits = Limits(sql_memory=600 << 20, sql_bytes=64 << 10)
    with TestClient(create_app(Settings(str(served.log), limits=limits))) as client:
        sorting = "select max(r) from (select md5(range::text) as r from range(20000000) order by r limit 19000000)"
        for sql in ("select repeat('x', 2000000000)", "select list(range) from range(1000000000)", sorting):
            assert "memory" in refused(ask(client, sql), 422, "memory")
        assert "64 KiB" in refused(ask(client, "select repeat('x', 100000)"), 422, "too_large")
        assert ask(client, "select 1").json()["rows"] == [[1]]
    assert not list(tmp_path.iterdir()), "nothing is spilled to the disk"


def test_it_ends(served: Served) -> None:
    with TestClient(create_app(Settings(str(served.log), limits=Limits(sql_s=2)))) as client:
        assert "2 s" in refused(ask(client, ENDLESS), 504, "time_limit")


def test_too_long_a_query(client: Any) -> None:
    refused(ask(client, "select " + "1, " * 10_000 + "1"), 413, "too_large")
    refused(client.post("/api/sql", content=b"{"), 422)
    refused(client.post("/api/sql", content=b'{"sql": "select 1 as \\ud800"}'), 422)
    refused(client.post("/api/sql", json={"sql": "select 1", "limit": 10**9}), 422)


def test_damaged_log_is_named(served: Served, tmp_path: Path) -> None:
    import os
    import shutil

    log = tmp_path / "log"
    shutil.copytree(served.log, log)
    with TestClient(create_app(Settings(str(log)))) as client:
        for file in (log / "record=events").glob("*.parquet"):
            os.truncate(file, 100)
        assert "--check" in refused(ask(client, "select * from events"), 503, "log_unreadable")


def test_a_process_whose_server_is_gone_ends() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.serve.sql_process"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    assert ended.returncode == 0 and not ended.stdout and not ended.stderr


def test_a_query_ends_when_its_server_is_gone(served: Served) -> None:
    asked = {"log": str(served.log), "sql": ENDLESS, "rows": 1, "bytes": 1 << 20, "memory": 1 << 30, "seconds": -4}
    process = subprocess.Popen([sys.executable, "-m", "jobs.serve.sql_process"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asked).encode())
    process.stdin.close()
    assert process.wait(60) == -signal.SIGALRM


def test_what_fails_in_the_process_is_not_called_memory(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.serve import sql_asking

    failing = [sys.executable, "-c", "import sys; sys.stdin.read(); 1 / 0"]
    pipe = subprocess.PIPE
    monkeypatch.setattr(sql_asking, "_started", lambda: subprocess.Popen(failing, stdin=pipe, stdout=pipe, stderr=pipe))
    processes = sql_asking.Processes()
    with pytest.raises(Problem) as problem:
        sql_asking.answer(processes, "log", "select 1", 1, Limits())
    processes.close()
    assert problem.value.status == 500
