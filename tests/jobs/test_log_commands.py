"""secondsight query, log and sql, as a person runs them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.output import hms, printable
from pipeline.log import EventLog
from tests.pipeline.logs import event, run_record, video_result


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("logs") / "log")
    log = EventLog.open(path, create=True)
    log.begin_run(run_record())
    log.commit(
        [
            video_result(
                "cam1/a.mp4", [event(0, 2_000_000), event(41_000_000, 43_500_000, "text", "EXIT\x1b[31m left")]
            ),
            video_result("b.mp4", [event(0, 59_000_000, "black", "dark")]),
            video_result("bad.mp4", status="failed", reason="corrupt: not one frame"),
        ]
    )
    log.finish_run("run-1", {"videos": 3}, "done")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    assert main(list(arguments)) == status
    out, err = capsys.readouterr()
    return out, err


def test_query_prints_a_table(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "query", log, "--video", "a.mp4", "--at", "0:42")
    assert "/archive/cam1/a.mp4  at 0:00:42.000  (run run-1)" in out
    assert "0:00:41.000" in out and "0:00:43.500" in out and "EXIT" in out and "\x1b" not in out
    out, _ = run(capsys, "query", log, "--video", "a.mp4", "--at", "30")
    assert "nothing at that second; nearest before is shot at 0:00: a text; nearest after is text at 0:41" in out
    out, _ = run(capsys, "query", log, "--video", "a.mp4", "--at", "42", "--kind", "black")
    assert "nothing of that kind or text at that second; the whole video has none" in out


def test_query_says_what_is_wrong(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--video", "a.mp4", "--at", "1:02:45.5"], "/archive/cam1/a.mp4 is 1:00 long: there is nothing at 1:02:45.5"),
        (["--video", "aa.mp4", "--at", "1"], "did you mean a.mp4"),
        (["--video", "bad.mp4", "--at", "1"], "could not be watched (failed in run run-1): corrupt: not one frame"),
        (["--video", "a.mp4", "--at", "soon"], "'soon' is not a time"),
        (["--video", "a.mp4", "--at", "1", "--count", "3"], "--count goes with --before or --after"),
        (["--before", "shot"], "give --video"),
        (["--video", "a.mp4", "--between", "5", "4"], "is empty"),
    ):
        out, err = run(capsys, "query", log, *arguments, status=1)
        assert out == "" and err.startswith("secondsight: ") and message in err and err.count("\n") == 1


def test_query_for_programs(log: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ask = ["query", log, "--video", "a.mp4", "--between", "0", "50"]
    out, _ = run(capsys, *ask, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["video"], r["start_us"], r["attributes"]) for r in rows] == [
        ("/archive/cam1/a.mp4", 0, {"level": 1}),
        ("/archive/cam1/a.mp4", 41_000_000, {"level": 1}),
    ]
    out, _ = run(capsys, *ask, "--format", "json")
    assert json.loads(out) == rows
    out, _ = run(capsys, *ask, "--format", "csv")
    assert [r["kind"] for r in csv.DictReader(io.StringIO(out))] == ["shot", "text"]
    run(capsys, *ask, "--format", "parquet", "--out", str(tmp_path / "x.parquet"))
    assert pq.read_table(tmp_path / "x.parquet")["text"].to_pylist()[0] == "a text"
    out, _ = run(capsys, "query", log, "--video", "a.mp4", "--before", "45", "--count", "1", "--format", "jsonl")
    assert json.loads(out)["kind"] == "text"
    out, _ = run(capsys, "query", log, "--video", "a.mp4", "--after", "1", "--format", "jsonl")
    assert json.loads(out)["start_us"] == 41_000_000
    out, _ = run(capsys, "query", log, "--video", "b.mp4", "--video", "a.mp4", "--at", "1", "--format", "jsonl")
    assert [json.loads(line)["kind"] for line in out.splitlines()] == ["black", "shot"]


def test_query_over_all_videos(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "query", log, "--text", "exit")
    assert "a.mp4" in out and "b.mp4" not in out
    out, _ = run(capsys, "query", log, "--limit", "1")
    assert "2 more: raise --limit, or use --format" in out
    _, err = run(capsys, "query", log, "--at", "1", "--format", "csv", "--out", "/nowhere/x.csv", status=1)
    assert "/nowhere/x.csv: cannot write" in err


def test_log_shows_runs_and_failures(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "log", log)
    assert "run-1" in out and "done" in out and "corrupt" in out and "--failures" in out
    out, _ = run(capsys, "log", log, "--failures")
    assert "/archive/bad.mp4" in out and "not one frame" in out and "a.mp4" not in out
    out, _ = run(capsys, "log", log, "--format", "json")
    (row,) = json.loads(out)
    assert (row["done"], row["failed"], row["events"], row["totals"]) == (2, 1, 3, {"videos": 3})
    out, _ = run(capsys, "log", log, "--videos", "--format", "jsonl")
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["done", "failed", "done"]
    _, err = run(capsys, "log", log + "x", status=1)
    assert "there is no event log here" in err


def test_a_file_that_failed_and_was_watched_later_is_no_failure_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half copied, or not to be opened, it stood by another id. What failed under another name too is still there."""
    from dataclasses import replace

    from jobs.missing import not_done
    from jobs.serve.archive import Archive
    from workers.already import unread_id

    path = str(tmp_path / "log")
    log = EventLog.open(path, create=True)
    log.begin_run(run_record())

    def failed(identity: str, *names: str) -> None:
        row = video_result(identity, status="failed", reason=f"denied: {names[-1]}", duration_us=None)
        log.commit([replace(row, video_id=identity, uris=tuple(f"/archive/{name}" for name in names))])

    done = [video_result(name) for name in ("locked.mp4", "half.mp4", "was-good.mp4")]
    log.commit(done[2:])
    for name in ("locked.mp4", "was-good.mp4", "locked-still.mp4"):
        failed(unread_id(f"/archive/{name}"), name)
    failed("1" * 32, "half.mp4")
    failed("2" * 32, "half.mp4", "a copy of the half.mp4")
    assert not_done(log, log.done("c1")) == (5, 1)  # the first half
    log.commit(done[:2])
    assert not_done(log, log.done("c1")) == (5, 2)
    out, _ = run(capsys, "log", path, "--failures", "--format", "jsonl")
    reasons = ["denied: a copy of the half.mp4", "denied: locked-still.mp4", "denied: was-good.mp4"]
    assert sorted(json.loads(line)["reason"] for line in out.splitlines()) == reasons
    facts = Archive(path).facts()
    assert (facts.overview["videos"], facts.overview["failed"], facts.overview["reasons"][0]["videos"]) == (6, 3, 3)


def test_log_upkeep(log: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(log, copy)
    assert "no damage found" in run(capsys, "log", str(copy), "--check")[0]
    assert "files of" in run(capsys, "log", str(copy), "--compact")[0]
    assert "deleted 0 files" in run(capsys, "log", str(copy), "--vacuum")[0]
    assert "under way" in run(capsys, "log", str(copy), "--vacuum", "--older-than", "0", status=1)[1]
    next((copy / "record=events").glob("*.parquet")).unlink()
    out, _ = run(capsys, "log", str(copy), "--check", status=1)
    assert "is missing" in out and "/archive/b.mp4" in out


def test_sql_keeps_columns_of_one_name_apart(log: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sql = "select 1 as a, 2 as a, 'x' as b, 'infinity'::date as d, 'nan'::double as n"
    out, _ = run(capsys, "sql", log, sql)
    lines = out.splitlines()
    assert lines[0].split() == ["a", "a_1", "b", "d", "n"] and lines[2].split() == ["1", "2", "x", "infinity", "nan"]
    assert run(capsys, "sql", log, sql, "--format", "csv")[0] == "a,a_1,b,d,n\n1,2,x,infinity,nan\n"
    row = {"a": 1, "a_1": 2, "b": "x", "d": "infinity", "n": None}
    assert json.loads(run(capsys, "sql", log, sql, "--format", "json")[0]) == [row]
    assert json.loads(run(capsys, "sql", log, sql, "--format", "jsonl")[0]) == row
    file = tmp_path / "out.parquet"
    run(capsys, "sql", log, sql, "--format", "parquet", "--out", str(file))
    assert pq.ParquetFile(file).read(["a", "a_1"]).to_pylist() == [{"a": 1, "a_1": 2}]
    both = "select * from events join videos using (video_id) limit 1"
    [joined] = json.loads(run(capsys, "sql", log, both, "--format", "json")[0])
    assert joined["run_id"] == joined["run_id_1"] == "run-1" and joined["config_hash"] == "c1"


def test_sql(log: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, _ = run(capsys, "sql", log, "select kind, count(*) as n from events group by kind order by kind")
    assert [line.split() for line in out.splitlines()[2:]] == [["black", "1"], ["shot", "1"], ["text", "1"]]
    out, _ = run(capsys, "sql", log, "select attributes->>'level' as l from events limit 1", "--format", "jsonl")
    assert json.loads(out) == {"l": "1"}
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql, message in (
        (f"select * from '{secret}'", "DuckDB"),
        (f"select * from read_csv('{secret}')", "disabled"),
        (f"copy events to '{tmp_path}/out.csv'", "COPY statements are refused"),
        ("create table x as select 1", "CREATE statements are refused"),
        ("set enable_external_access = true", "SET statements are refused"),
        ("select 1; select 2", "one query at a time"),
        ("select nothing from events", "DuckDB"),
    ):
        _, err = run(capsys, "sql", log, sql, status=1)
        assert message in err, sql
    assert not (tmp_path / "out.csv").exists()


def test_text_on_a_screen() -> None:
    assert hms(3_723_004_999) == "1:02:03.004" and hms(-1_000) == "-0:00:00.001" and hms(None) == ""
    assert printable("a\x1b[2Jb\nc é") == "a\ufffd[2Jb c é"
