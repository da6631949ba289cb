"""Runs whose driver died: in the middle of their work, or after their last video and before they said so."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import watch
from jobs.bench.models import colours
from jobs.configure import configure
from jobs.forecasting.compare import beside
from jobs.watch import run
from pipeline.archive import fingerprint
from pipeline.live import LiveStatus, read_live, write_live
from pipeline.log import EventLog, RunRecord
from pipeline.log.records import VideoResult
from pipeline.video import Source

MODEL = "python:jobs.bench.models:colours"


TOLD = {"archive": {"hours": 1.0, "windows": 20}, "hours": 2.0}  # a forecast


def _begun(log: str, archive: Path, run_id: str = "run-1", **host: Any) -> tuple[EventLog, str]:
    """The row of a run that was begun; (its log, its configuration's hash)."""
    config = configure(colours.profile({}))
    driver = EventLog.open(log, create=True)
    begun = watch._host(str(archive)) | host
    values = config.config_hash, config.as_json(), "colours", "1", "0", begun, int(run_id[-1])
    driver.begin_run(RunRecord(run_id, *values, forecast=TOLD))
    return driver, config.config_hash


def _left_running(log: str, archive: Path, clip: Path, **host: Any) -> None:
    """What a driver leaves that was killed between its last commit and its last word."""
    driver, config_hash = _begun(log, archive, **host)
    video_id = fingerprint(Source(str(clip), clip.stat().st_size))
    size = clip.stat().st_size
    driver.commit([VideoResult(video_id, "run-1", config_hash, (str(clip),), size, "done", "", duration_us=7_200_000)])
    now_us = time.time_ns() // 1000
    write_live(log, LiveStatus("run-1", "running", now_us - 1_800_000_000, now_us, windows_done=4, decode_s=10.0))


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
    compared = beside(row)
    assert (compared is not None) == ended
    if compared is not None:  # by the row of its video, and by its last word
        numbers = compared["numbers"]
        assert numbers["hours of video"] == (1.0, 7.2 / 3600) and numbers["windows"] == (20, 4)
        assert numbers["hours"] == (2.0, pytest.approx(0.5))


def test_a_run_over_another_archive_is_not_called_done(make_clip: Any, tmp_path: Path, read_log: Any) -> None:
    clip, log = make_clip(tmp_path / "archive" / "a.mp4", 2), str(tmp_path / "log")
    _left_running(log, tmp_path / "larger", clip, process_start=7)
    run(str(clip.parent), log, MODEL)
    assert [row["status"] for row in read_log(Path(log), "runs")] == ["running"]


def test_a_run_that_is_taken_over_counts_the_work_of_its_drivers_together(
    ray_session: None, make_clip: Any, tmp_path: Path, read_log: Any
) -> None:
    """Twice; with the newer forecast; and a newer run over another archive is not taken for it."""
    clip, log = make_clip(tmp_path / "archive" / "a.mp4", 4), str(tmp_path / "log")
    _begun(log, clip.parent, "run-1", process_start=7)
    _begun(log, tmp_path / "larger", "run-2", process_start=7)
    first = {"windows": 100, "decode_s": 5.0, "done": 7, "elapsed_s": 60.0}
    known = {"windows_done": 10, "model_s": 2.0, "video_us": 9_000_000, "file_bytes": 10**9, "before": first}
    write_live(log, LiveStatus("run-1", "running", 1, 30_000_001, **known))  # type: ignore[arg-type]
    summary = run(str(clip.parent), log, MODEL, replicas=1, forecast={**TOLD, "hours": 3.0})
    rows = {row["run_id"]: row for row in read_log(Path(log), "runs")}
    assert summary.run_id == "run-1" and rows["run-2"]["status"] == "running"
    assert json.loads(rows["run-2"]["host"])["archive"] == [str(tmp_path / "larger")]
    totals = json.loads(rows["run-1"]["totals"])
    assert (totals["windows"], totals["done"]) == (110 + summary.windows, 7 + 1)
    assert totals["windows_known"] == totals["windows"] and totals["known_us"] == totals["video_us"]
    assert totals["decode_s"] > 5.0 and totals["model_s"] > 2.0 and totals["video_us"] > 9_000_000
    assert totals["elapsed_s"] == pytest.approx(90 + summary.elapsed_s)
    assert 10**9 + 1000 < totals["file_bytes"] < 10**9 + 10**6
    compared = beside(rows["run-1"])
    assert compared is not None and compared["numbers"]["hours"][0] == 3.0
    assert read_live(log)[0].work()["windows"] == totals["windows"]
