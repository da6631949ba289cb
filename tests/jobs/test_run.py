"""`secondsight run` as a person meets it: what it prints, its exit status, and the same from Python in three lines."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import secondsight
from jobs.cli import main
from jobs.progress import ProgressDisplay, expected_us, line, render, summary_lines
from jobs.run import RunSummary, parse_settings
from pipeline.errors import UsageError
from pipeline.live import Stuck
from workers.flow import Progress

COLOURS = ["--model", "python:jobs.bench.models:colours", "--window", "2", "--overlap", "0.5", "--short-side", "32"]


def test_run_then_ask_in_three_lines(ray_session: None, make_clip: Any, tmp_path: Path, capfd: Any) -> None:
    archive, log = tmp_path / "archive", str(tmp_path / "log")
    make_clip(archive / "a.mp4", 4)
    summary = secondsight.run(str(archive), log=log, model="python:jobs.bench.models:colours", fps=2, window_s=2)
    table = secondsight.open(log).at("a.mp4", 1)
    assert summary.videos == 1 and table.num_rows == 2
    assert table["start_us"].to_pylist() == [1_000_000, 1_400_000]  # the frames shown at 1.0 and 1.5 s
    assert secondsight.open(log).between("a.mp4", "0:01", 2.0, kinds="colour").num_rows == 2
    assert secondsight.open(log).before("a.mp4", 1, count=1)["start_us"].to_pylist() == [400_000]
    assert secondsight.open(log).after("a.mp4", 1, count=1)["start_us"].to_pylist() == [1_000_000]
    counted = secondsight.open(log).sql("select count(*) as n from events").to_pylist()
    assert counted == [{"n": summary.events}]
    assert capfd.readouterr() == ("", "")  # the Python API prints nothing, and neither does Ray


def test_exit_status_and_summary(ray_session: None, make_clip: Any, tmp_path: Path, capsys: Any) -> None:
    archive, log = tmp_path / "archive", str(tmp_path / "log")
    make_clip(archive / "a.mp4", 4)
    command = ["run", str(archive), "--log", log, *COLOURS]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.startswith("run ") and "1 videos" in out and len(out.splitlines()) == 1
    assert err.startswith("1 videos found") and len(err.splitlines()) == 1
    assert main(command) == 0
    assert capsys.readouterr().out == f"nothing to do: all 1 videos are in {log} already\n"
    (archive / "bad.mp4").write_text("no video")
    assert main(command) == 3
    out = capsys.readouterr().out
    assert "1 failed" in out and "bad.mp4: unreadable" in out
    assert main(["run", str(archive / "none"), "--log", log]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_in_a_process_of_its_own_it_is_quiet_and_leaves_no_ray_behind(make_clip: Any, tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", 2)
    command = [sys.executable, "-m", "jobs.run", str(tmp_path / "a.mp4"), "--log", str(tmp_path / "log"), *COLOURS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert done.stderr.startswith("1 videos found") and len(done.stderr.splitlines()) == 1
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert left.stdout == ""


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [(["text=false", "n=3"], {"text": False, "n": 3}), (["a=b=c"], {"a": "b=c"}), (['q="1"'], {"q": "1"}), ([], {})],
)
def test_settings_are_json_where_they_can_be(pairs: list[str], expected: dict[str, Any]) -> None:
    assert parse_settings(pairs) == expected


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_settings(["text"])


def test_the_live_lines_hold_what_a_person_wants_to_know() -> None:
    hour = 3_600_000_000
    progress = Progress(
        found=30, listed=True, names=10, already=2, done=5, failed=1, windows=500, windows_known=1000, events=1234,
        video_us=2 * hour, known_us=7 * hour, replicas=2, bytes_in_flight=50 << 20, failures=[("x", "corrupt")],
    )  # fmt: skip
    assert expected_us(progress) == 7 * hour + 20 * hour  # one hour each, of 7 that are known
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(render(progress, elapsed_s=60))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "8/30 videos",
        "500/1,000 windows",
        "1,234 events",
        "120.0 h/h",
        "1 failed",
        "12:30 left",
        "2 already",
    ):
        assert part in said


def test_what_is_stuck_is_named_while_it_runs() -> None:
    since = time.time_ns() // 1000 - 130_000_000
    stuck = (Stuck("decode", "s3://b/[odd].mp4", "node-2", since), Stuck("watch", "replica-1", "", since))
    progress = Progress(stuck=stuck)
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(render(progress, 0.0))
    said = "stuck for 2:10: decode, s3://b/[odd].mp4 (node-2) and 1 more"
    assert said in console.file.getvalue() and line(progress).endswith(", " + said)  # type: ignore[attr-defined]
    assert "stuck" not in line(Progress())


def test_without_a_terminal_only_what_is_said_before_the_work_is_shown() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with ProgressDisplay(console) as display:
        display.say("hello")
        display.show(Progress(found=1))
    assert console.file.getvalue() == "hello\n"  # type: ignore[attr-defined]


def test_summaries_name_failures_but_not_without_end() -> None:
    summary = RunSummary(
        "r", "LOG", 1200, 3, 12, 1, 2, 5, 6, 7200.0, 60.0, tuple((f"v{i}", "corrupt: x") for i in range(13))
    )
    lines = list(summary_lines(summary, 61))
    assert lines[0].startswith("run r: 1,200 videos") and "2:00:00 of video in 1:01 (120.0 h/h)" in lines[0]
    assert lines[1] == "12 failed and 1 quarantined (secondsight log LOG --failures):"
    assert len(lines) == 13 and lines[-1] == "  …"
    nothing = replace(summary, run_id="", already=0)
    assert list(summary_lines(nothing, 1)) == ["nothing to do: no videos found"]
