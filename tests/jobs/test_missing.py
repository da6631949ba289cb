"""A run whose driver died after its last video, and before it said that it was done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from jobs import watch
from jobs.bench.models import colours
from jobs.configure import configure
from jobs.watch import run
from pipeline.archive import fingerprint
from pipeline.live import LiveStatus, read_live, write_live
from pipeline.log import EventLog, RunRecord
from pipeline.log.records import VideoResult
from pipeline.video import Source

MODEL = "python:jobs.bench.models:colours"


def _left_running(log: str, archive: Path, clip: Path, **host: Any) -> None:
    """What a driver leaves that was killed between its last commit and its last word."""
    config = configure(colours.profile({}))
    driver = EventLog.open(log, create=True)
    begun = watch._host(str(archive)) | host
    driver.begin_run(RunRecord("run-1", config.config_hash, config.as_json(), "colours", "1", "0", begun, 1))
    video_id = fingerprint(Source(str(clip), clip.stat().st_size))
    size = clip.stat().st_size
    driver.commit([VideoResult(video_id, "run-1", config.config_hash, (str(clip),), size, "done", "")])
    write_live(log, LiveStatus("run-1", "running", 1, time.time_ns() // 1000))


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_that_only_lacked_its_last_word_gets_it_when_there_is_nothing_to_do(
    ended: bool, make_clip: Any, tmp_path: Path, read_log: Any
) -> None:
    clip, log = make_clip(tmp_path / "archive" / "a.mp4", 2), str(tmp_path / "log")
    _left_running(log, clip.parent, clip, **({"process_start": 7} if ended else {}))
    assert run(str(clip.parent), log, MODEL).run_id == ""
    (row,) = read_log(Path(log), "runs")
    assert (row["status"], row["finished_at_us"] is not None) == (("done", True) if ended else ("running", False))
    assert read_live(log)[0].state == row["status"]


def test_a_run_over_another_archive_is_not_called_done(make_clip: Any, tmp_path: Path, read_log: Any) -> None:
    clip, log = make_clip(tmp_path / "archive" / "a.mp4", 2), str(tmp_path / "log")
    _left_running(log, tmp_path / "larger", clip, process_start=7)
    run(str(clip.parent), log, MODEL)
    assert [row["status"] for row in read_log(Path(log), "runs")] == ["running"]
