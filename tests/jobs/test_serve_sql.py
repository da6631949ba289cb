"""SQL over HTTP: what DuckDB says over the same log, and what it may not cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from jobs.serve.app import create_app
from jobs.serve.settings import Limits, Settings
from tests.jobs.serving import Served, refused

TestClient = pytest.importorskip("fastapi.testclient").TestClient


@pytest.fixture(scope="module")
def tight(served: Served) -> Iterator[Any]:
    """A service that gives a query 3 s, 600 MiB, and 64 KiB of answer."""
    limits = Limits(sql_s=3, sql_memory=600 << 20, sql_bytes=64 << 10)
    with TestClient(create_app(Settings(str(served.log), limits=limits))) as client:
        yield client


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
        " 170141183460469231731687303715884105727::hugeint",
    )
    assert said.json()["rows"] == [
        [None, "2026-01-02", "1.50", "6162", [1, None], {"a": None}, "170141183460469231731687303715884105727"]
    ]


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


def test_it_ends_and_does_not_take_all_memory(tight: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    endless = "select count(*) from range(1000000000000) a, range(100) b where (a.range + b.range) % 7 = 8"
    assert "3 s" in refused(ask(tight, endless), 504, "time_limit")
    for sql in ("select repeat('x', 2000000000)", "select list(range) from range(1000000000)"):
        assert "memory" in refused(ask(tight, sql), 422, "memory")
    sorting = "select max(r) from (select md5(range::text) as r from range(100000000) order by r limit 90000000)"
    assert ask(tight, sorting).status_code in (422, 504)
    assert "64 KiB" in refused(ask(tight, "select repeat('x', 100000)"), 422, "too_large")
    assert ask(tight, "select 1").json()["rows"] == [[1]]
    assert not list(tmp_path.iterdir()), "nothing is spilled to the disk"


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
