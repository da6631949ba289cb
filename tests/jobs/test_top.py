"""`secondsight top`: what a person sees of a run that goes, that ended, that died."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from jobs.cli import main
from jobs.top import render_run
from pipeline.live import LiveStatus, Stuck, write_live

NOW = 1_700_000_000_000_000
GOING = LiveStatus(
    run_id="20260131T154500-3fa2c1", state="running", started_at_us=NOW - 3_700_000_000, updated_at_us=NOW,
    model="org/Qwen3-VL-30B-A3B", archive="s3://bucket/2026/", driver="head:17", videos_found=1200, videos_done=300,
    videos_failed=2, videos_already=50, duplicates=4, windows_done=5000, windows_known=9000, events=12345,
    video_us=20 * 3_600_000_000, known_us=1, expected_us=80 * 3_600_000_000, hours_per_hour=19.44, left_s=11111.0,
    rates={"decode_frames": 250.0, "watch_windows": 2.5, "finish_videos": 0.1, "decode_busy": 3.2, "watch_busy": 7.9},
    decode_s=500.0, model_s=7200.0, commit_s=3.0, input_tokens=9_000_000, output_tokens=40_000, expert_imbalance=1.31,
    replicas=8, replicas_wanted=8, replica_deaths=1, decoders=16, nodes=3,
    bytes_in_flight=3 << 30, budget_bytes=8 << 30,
    stuck=(Stuck("decode", "s3://bucket/2026/[odd].mp4", "node-2", NOW - 130_000_000),),
    failures=(("s3://bucket/2026/a.mp4", "empty: the file has no bytes"),),
)  # fmt: skip


def _seen(status: LiveStatus) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render_run(status, NOW))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_run_that_goes() -> None:
    seen = _seen(GOING)
    for said in (
        "running", "1:01:40", "356/1,200+", "50 done before", "2 failed", "5,000/9,000", "20.00/80.00+ h", "19.4 h/h",
        "3:05:11 left", "250 frames/s", "3.2 of 16", "7.9 of 8", "3.0 GiB of 8.0 GiB", "1.31x uneven", "1 replaced",
        "decode for 2:10: s3://bucket/2026/[odd].mp4", "a.mp4: empty: the file has no bytes",
    ):  # fmt: skip
        assert said in seen, (said, seen)


def test_a_run_whose_driver_is_silent_and_one_that_failed() -> None:
    dead = _seen(replace(GOING, updated_at_us=NOW - 100_000_000))
    assert "silent" in dead and "said nothing for 1:40" in dead and "running" not in dead
    failed = _seen(replace(GOING, state="failed", note="no replica came up", left_s=None))
    assert "failed" in failed and "no replica came up" in failed and " left" not in failed


def test_a_cluster_shows_of_each_job_its_own_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs that write one log, and one whose log cannot be reached from here but which goes on."""
    from jobs import jobserver

    log, now = str(tmp_path), time.time_ns() // 1000
    for number, job in enumerate(("one", "two")):
        write_live(log, replace(GOING, run_id=f"run-{job}", job=job, started_at_us=now + number, updated_at_us=now))
    logs = {"one": log, "two": log, "three": str(tmp_path / "elsewhere")}
    states = {"one": "RUNNING", "two": "RUNNING", "three": "PENDING"}

    class Server:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def jobs(self) -> list[Any]:
            return [
                SimpleNamespace(
                    submission_id=job,
                    start_time=1,
                    status=SimpleNamespace(value=states[job]),
                    metadata={"secondsight": "1", "log": where},
                )
                for job, where in logs.items()
            ]

        def logs(self, job: str) -> str:
            return "looking\nfound"

    monkeypatch.setattr(jobserver, "JobServer", Server)

    def look(*words: str) -> tuple[int, list[Any]]:
        status = main(["top", "http://h:8265", "--once", "--json", *words])
        return status, [shown.get("run_id") or shown["said"] for shown in json.loads(capsys.readouterr().out)]

    assert look() == (0, ["run-one", "run-two", ["found"]])
    assert look("--run", "run-t") == (0, ["run-two"])
    del logs["one"], logs["two"]
    for going, status in (("PENDING", 0), ("RUNNING", 0), ("FAILED", 3)):
        states["three"] = going
        assert look("--all") == (status, [["found"]])


def test_once_says_what_runs_and_its_status_says_whether(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(tmp_path)
    now = time.time_ns() // 1000
    write_live(log, replace(GOING, run_id="ended", state="done", updated_at_us=now))
    assert main(["top", log, "--once"]) == 3
    assert "ended" in capsys.readouterr().out
    write_live(log, replace(GOING, updated_at_us=now))
    assert main(["top", log, "--once", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["run_id"] == GOING.run_id and shown["live"] is True and shown["stuck"][0]["stage"] == "decode"
    assert main(["top", log, "--once", "--json", "--all"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["top", log, "--once", "--run", "2027"]) == 1
    assert main(["top", str(tmp_path / "nothing"), "--once"]) == 1
    assert main(["top", log]) == 1  # no terminal
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and "no such run" in errors[0] and "needs a terminal" in errors[2]
