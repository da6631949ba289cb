"""Mistakes, by every command and from Python: one clear error each, with its status, and nothing written.

The service's answers to the same are in test_serve.py.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import secondsight
from jobs.cli import main
from pipeline.errors import SecondsightError
from tests.jobs.serving import Served

VIDEO = "harbour.mp4"
BIG = "y" * 1_000_000

#: Every command that names a video (V) and a time (T) in it.
OF_A_VIDEO = (
    "query LOG --video V --at T",
    "query LOG --video V --between T 5:00",
    "query LOG --video V --density 1",
    "search LOG circle --video V --from T",
    "search LOG --like V --at T",
    "clip LOG cut --video V --pad T --out OUT.mp4",
    "clip LOG --video V --between T 5:00 --out OUT.mp4",
    "frame LOG V T --out OUT.jpg",
)
OF_A_VIDEO_WHOLE = (
    "sheet LOG V --out OUT.jpg",
    "timeline LOG V --out OUT.svg",
    "export LOG --format vtt --video V",
    "query LOG --video V --kinds",
)
OF_A_LOG = (
    "query LOG --first",
    "search LOG circle",
    "ask LOG circle?",
    "sql LOG select",
    "export LOG --format csv",
    "log LOG",
    "serve LOG --port 0",
)


Refused = Callable[..., str]


@pytest.fixture
def refused(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that fails with one error, prints nothing else and writes nothing; returns the error."""

    def run(command: str, video: str = VIDEO, time: str = "1", log: str | None = None) -> str:
        values = {"LOG": log or str(served.log), "V": video, "T": time}
        words = [values.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in command.split()]
        if words[0] == "sql" and words[-1] == "select":
            words[-1] = "select count(*) from events, videos, windows, runs"
        capsys.readouterr()
        assert main(words) == 1, command
        out, error = capsys.readouterr()
        assert out == "" and error.startswith("secondsight: ") and "Traceback" not in error, command
        assert len(error) < 700, command
        assert not list(tmp_path.glob("out.*")), command
        return error

    return run


@pytest.mark.parametrize(
    ("video", "said"),
    [
        ("harbor.mp4", "did you mean harbour.mp4"),
        ("../../etc/passwd", "no video"),
        ("/etc/passwd", "no video"),
        ("file:///etc/passwd", "no video"),
        ("", "no video ''"),
        ("a\0b", "no video"),
        ("\udcff", "no video"),
        (BIG, "no video 'yyy"),
    ],
)
def test_unknown_video(refused: Refused, video: str, said: str) -> None:
    for command in (*OF_A_VIDEO, *OF_A_VIDEO_WHOLE):
        assert said in refused(command, video=video), command


@pytest.mark.parametrize("time", ["1:99", "soon", "-1", "", "1e9", "nan", "٣", "1.5.5", "9" * 400, BIG])
def test_times_that_are_none(refused: Refused, time: str) -> None:
    for command in (*OF_A_VIDEO, "query LOG --at T", "query LOG --video V --gaps T", "search LOG red --to T"):
        if "--density" not in command:
            assert "is not a time" in refused(command, time=time), command


def test_beyond_the_end(refused: Refused) -> None:
    for command in ("query LOG --video V --at T", "query LOG --video V --after T", "search LOG --like V --at T"):
        assert "0:06 long" in refused(command, time="6"), command
    assert "is empty" in refused("query LOG --video V --between T 2", time="4")
    assert "is empty" in refused("search LOG red --from T --to 2", time="4")


def test_what_cannot_be_meant(refused: Refused) -> None:
    for command, said in (
        ("query LOG --video V --at 1 --limit 0", "one row at least"),
        ("query LOG --video V --before 1 --count -3", "one at least"),
        ("query LOG --video V --at 1 --version -1", "no version -1"),
        ("sql LOG select --version 99", "at version 99"),
        ("search LOG red --min-confidence nan", "between 0 and 1"),
        ("search LOG \udcff", "at least one word"),
        (f"clip LOG {BIG}", "is not the id of an event"),
        ("serve LOG --port 99999", "cannot listen"),
        ("query s3:// --first", "s3://bucket/log"),
    ):
        assert said in refused(command), command


@pytest.mark.parametrize(
    "sql",
    [
        "delete from events", "insert into events select * from events", "update events set kind = 'x'",
        "drop view events", "create table x (a int)", "attach '/tmp/x.db'", "copy events to '/tmp/x.csv'",
        "export database '/tmp/x'", "install httpfs", "load httpfs", "set threads = 1", "pragma database_list",
        "call pragma_version()", "vacuum", "checkpoint", "begin", "prepare x as select 1", "select 1; drop view events",
        "with x as (delete from events returning *) select * from x", "select * from read_text('/etc/passwd')",
        "select * from glob('/etc/*')", "select * from '/etc/passwd'", "", ";", "selec 1", "\0", "select '\udcff'",
        f"select '{BIG}'",
    ],
)  # fmt: skip
def test_sql_only_reads_the_log(served: Served, sql: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", str(served.log), sql]) == 1
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("secondsight: ") and len(error) < 500
    with pytest.raises(SecondsightError):
        secondsight.open(str(served.log)).sql(sql)


def test_no_log(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for command in OF_A_LOG:
        for name in ("absent", "folder"):
            assert "there is no event log here" in refused(command, log=str(tmp_path / name))
        assert "this is a file" in refused(command, log=str(tmp_path / "file"))


def test_log_half_written(served: Served, refused: Refused, tmp_path: Path) -> None:
    """A part of the last commit or of a data file: named. A part of an index: made again, or done without."""

    def broken(name: str, pattern: str, last: bool = False) -> str:
        log = tmp_path / name
        shutil.copytree(served.log, log)
        shutil.rmtree(log / "_search", ignore_errors=True)
        for path in sorted(glob.glob(str(log / pattern)))[-1 if last else 0 :]:
            os.truncate(path, 100)  # half of so small a file would still hold its rows, which the index finds
        return str(log)

    commit = broken("commit", "_delta_log/*.json", last=True)
    for command in OF_A_LOG[3:6]:  # the others are answered from indexes, which are whole
        error = refused(command, log=commit)
        assert ".json: damaged commit" in error and "put it back" in error, command
    for record in ("events", "videos", "windows", "runs"):
        log = broken(record, f"record={record}/*.parquet")
        error = refused("sql LOG select", log=log)
        assert f"record={record}" in error and "--check" in error
    for command in ("query LOG --first", "search LOG circle", "export LOG --format csv"):
        assert "this data file is damaged" in refused(command, log=str(tmp_path / "events")), command
    log = broken("index", "_index/[!_]*")
    assert main(["query", log, "--video", VIDEO, "--at", "1", "--out", os.devnull, "--format", "json"]) == 0


def test_from_python(served: Served) -> None:
    log = secondsight.open(str(served.log))
    asked: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("did you mean harbour.mp4", lambda: log.at("harbor.mp4", 1)),
        ("no video", lambda: log.search("red", video="harbor.mp4")),
        ("there is nothing at", lambda: log.at(VIDEO, 6)),
        ("is not a time", lambda: log.at(VIDEO, "soon")),
        ("is not a time", lambda: log.at(VIDEO, float("nan"))),
        ("is not a time", lambda: log.after(VIDEO, -1)),
        ("is empty", lambda: log.between(VIDEO, 3, 2)),
        ("at most 1000", lambda: log.search(BIG)),
        ("at most 1000", lambda: log.ask(BIG)),
        ("runs with videos", lambda: log.kinds(run=BIG)),
        ("has no event", lambda: log.anchor(VIDEO, BIG)),
        ("no vision features", lambda: log.search_like(VIDEO, 1)),
        ("there is no event log", lambda: secondsight.open(str(served.log) + "x")),
        ("null character", lambda: secondsight.open("\0")),
    )
    for said, ask in asked:
        with pytest.raises(SecondsightError, match=said) as error:
            ask()
        assert len(str(error.value)) < 700
