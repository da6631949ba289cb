"""What the driver tells others of its run while it goes on: the right numbers, and never a disturbance."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.run import run
from pipeline.errors import ModelError
from pipeline.live import LiveStatus, read_live
from workers import live
from workers.live import LiveReport, expert_imbalance
from workers.report import Progress


def _first(run_id: str = "run-1") -> LiveStatus:
    return LiveStatus(run_id, "starting", time.time_ns() // 1000 - 40_000_000, time.time_ns() // 1000)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rates_are_those_of_the_last_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(1000.0, 10.0)
    monkeypatch.setattr(live.time, "monotonic", lambda: next(seconds))
    report = LiveReport(str(tmp_path), _first())
    report.begin(time.time_ns() // 1000 - 40_000_000)
    progress = Progress(found=10, listed=True, names=10, known_us=3_600_000_000, replicas=2, decode_s=0.0)
    for _ in range(20):  # every 10 s: slow at first, then 40 windows of 2 s
        fast = progress.windows >= 10
        progress.windows += 40 if fast else 1
        progress.video_us += 80_000_000 if fast else 2_000_000
        progress.decode_s += 5.0
        progress.model_s += 15.0
        report.snapshot(progress)
    monkeypatch.undo()
    _until(lambda: [s.windows_done for s in read_live(str(tmp_path))] == [progress.windows])
    (status,) = read_live(str(tmp_path))
    assert status.state == "running" and status.is_live()
    assert status.hours_per_hour == pytest.approx(8.0)
    assert status.rates["watch_windows"] == pytest.approx(4.0)
    assert (status.rates["decode_busy"], status.rates["watch_busy"]) == (pytest.approx(0.5), pytest.approx(1.5))
    assert status.left_s == pytest.approx((3600e6 - progress.video_us) / ((progress.video_us - 2e6) / 190))
    report.end(progress, "stopped", "Ctrl-C")
    (last,) = read_live(str(tmp_path))
    assert (last.state, last.note, last.left_s, last.is_live()) == ("stopped", "Ctrl-C", None, False)
    assert last.hours_per_hour == pytest.approx(progress.video_us / 40e6, rel=0.1)


def test_nothing_is_written_of_a_run_that_never_began(tmp_path: Path) -> None:
    report = LiveReport(str(tmp_path), _first(), interval_s=0.0)
    report.snapshot(Progress(windows=1))
    report.end(Progress(), "done")
    assert read_live(str(tmp_path)) == []


def test_imbalance_of_experts_is_the_busiest_over_the_average() -> None:
    assert expert_imbalance({"routing": {"tokens": [[1, 1, 2], [3, 3, 3]]}}) == pytest.approx((1.5 + 1.0) / 2)
    assert expert_imbalance({}) is None and expert_imbalance({"routing": {"tokens": [[0, 0]]}}) is None


def test_a_log_that_cannot_be_written_disturbs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "log").write_text("a file")
    with caplog.at_level(logging.WARNING):
        report = LiveReport(str(tmp_path / "log"), _first(), interval_s=0.0)
        report.begin(1)
        for _ in range(3):
            report.snapshot(Progress())
        report.end(Progress(), "done")
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["where the run stands cannot be written"]


@pytest.mark.usefixtures("ray_session")
def test_a_run_leaves_word_of_its_end(tmp_path: Path, make_clip: Any) -> None:
    clip, log = make_clip(tmp_path / "clip.mp4", 6), str(tmp_path / "log")
    settings = {"window_s": 2, "fps": 2, "short_side": 32, "cpus": 0.5}
    seen: list[LiveStatus] = []
    summary = run(
        str(clip), log, "python:jobs.bench.models:colours", settings=settings, replicas=1,
        on_progress=lambda progress: seen.extend(read_live(log)),
    )  # fmt: skip
    assert seen and {s.run_id for s in seen} == {summary.run_id} and {s.state for s in seen} <= {"starting", "running"}
    (status,) = read_live(log)
    assert (status.state, status.run_id, status.model) == ("done", summary.run_id, "python:jobs.bench.models:colours")
    assert (status.windows_done, status.videos_done, status.events) == (summary.windows, 1, summary.events)
    assert status.archive == str(clip) and status.replicas_wanted == 1

    broken = {**settings, "window_s": 3, "load": "refuse"}
    with pytest.raises(ModelError):
        run(str(clip), log, "python:jobs.bench.models:colours", settings=broken, replicas=1)
    failed = read_live(log)[0]
    assert failed.state == "failed" and "cannot be read" in failed.note
