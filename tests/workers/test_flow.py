"""The flow end to end on Ray: small real clips, answers that depend on every pixel, and everything that breaks."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from jobs.bench.models import colours
from jobs.run import configure
from pipeline.errors import LogError, ModelError, UsageError
from pipeline.log import EventLog
from tests.workers.flows import FRAGILE, alone, assert_whole, flow, flow_config
from workers.flow import Limits, Progress

pytestmark = pytest.mark.usefixtures("ray_session")


def test_an_archive_becomes_the_log_that_watching_each_clip_alone_gives(
    archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    reports: list[int] = []
    log = tmp_path / "log"
    summary = flow(archive, log, on_progress=lambda p: reports.append(p.windows))
    assert (summary.videos, summary.failed, summary.quarantined, summary.already) == (3, 0, 0, 0)
    assert summary.video_s == pytest.approx(sum(row["duration_us"] for row in read_log(log, "videos")) / 1e6)
    assert_whole(log, clips, read_log)
    (record,) = read_log(log, "runs")
    assert record["status"] == "done" and record["run_id"] == summary.run_id
    assert json.loads(record["totals"])["windows"] == summary.windows == len(read_log(log, "windows")) == reports[-1]
    assert json.loads(record["config"]) == flow_config().as_json()

    again = flow(archive, log)  # the same again does nothing
    assert (again.run_id, again.already, again.videos, again.windows) == ("", 3, 0, 0)
    assert len(read_log(log, "videos")) == 3 and len(read_log(log, "runs")) == 1

    other = flow(archive, log, window_s=4)  # another configuration does everything again, beside it
    assert other.videos == 3
    assert len(read_log(log, "videos")) == 6


def test_segments_of_one_video_and_several_windows_per_call_change_nothing(
    tmp_path: Path, make_clip: Any, read_log: Any
) -> None:
    clip = make_clip(tmp_path / "archive" / "long.mp4", 40, 7)
    summary = flow(clip.parent, tmp_path / "log", settings={"batch_windows": 3}, replicas=2, limits=Limits(segment_s=5))
    assert summary.videos == 1
    assert_whole(tmp_path / "log", [clip], read_log)


def test_frames_in_flight_stay_within_their_budget(tmp_path: Path, make_clip: Any, read_log: Any) -> None:
    clip = make_clip(tmp_path / "archive" / "long.mp4", 40, 8)
    window_bytes = 5 * 42 * 32 * 3
    budget = 4 * window_bytes
    summary = flow(clip.parent, tmp_path / "log", limits=Limits(frames_bytes=budget, segment_s=5))
    assert window_bytes < summary.totals["peak_bytes"] <= budget
    assert_whole(tmp_path / "log", [clip], read_log)


def test_what_cannot_be_read_is_a_row_and_the_rest_goes_on(
    archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "cut.mp4").write_bytes(clips[2].read_bytes()[:3000])
    os.mkfifo(folder / "fifo.mp4")
    log = tmp_path / "log"
    summary = flow(folder, log)
    assert summary.videos == 3 and summary.failed == 4
    assert {Path(uri).name for uri, _ in summary.failures} == {"empty.mp4", "text.mp4", "cut.mp4", "fifo.mp4"}
    failed = {
        Path(v["uris"][0]).name: v["reason"].split(":")[0] for v in read_log(log, "videos") if v["status"] == "failed"
    }
    assert failed == {"empty.mp4": "empty", "text.mp4": "unreadable", "cut.mp4": "unreadable", "fifo.mp4": "not_a_file"}

    again = flow(folder, log)
    assert again.run_id == "" and again.already == 7
    (folder / "empty.mp4").write_bytes(clips[1].read_bytes() + b"\0" * 100)  # healed in the meantime
    healed = flow(folder, log, retry_failed=True)
    assert healed.videos == 1 and healed.already == 3 and healed.failed == 3


def test_the_same_content_under_two_names_is_watched_once_and_both_names_are_kept(
    clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clips[0], folder / name)
    log = tmp_path / "log"
    first = flow(folder, log)
    assert (first.videos, first.duplicates) == (1, 1)
    shutil.copy(clips[0], folder / "c.mp4")
    second = flow(folder, log)
    assert (second.run_id, second.videos) == ("", 0)
    (row,) = read_log(log, "videos")
    names = {*row["uris"], *(r["uri"] for r in read_log(log, "names"))}
    assert {Path(n).name for n in names} == {"a.mp4", "b.mp4", "c.mp4"}


def test_a_replica_that_dies_is_replaced_and_its_windows_run_again(
    archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    fate = {"at_us": [2_200_000], "how": "exit", "times": 2, "count": str(tmp_path / "count"), "batch_windows": 2}
    summary = flow(archive, tmp_path / "log", FRAGILE, settings=fate)
    assert summary.totals["replica_deaths"] == 2 and summary.videos == 3
    assert_whole(tmp_path / "log", clips, read_log)
    assert max(w["attempt"] for w in read_log(tmp_path / "log", "windows")) in (2, 3)


@pytest.mark.parametrize("how", ["exit", "memory", "raise", "stray"])
def test_a_window_that_ends_three_replicas_is_quarantined_and_the_rest_is_kept(
    how: str, archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    log = tmp_path / "log"
    summary = flow(archive, log, FRAGILE, settings={"at_us": [7_000_000], "how": how})  # only clip2 is that long
    assert (summary.videos, summary.quarantined, summary.failed) == (2, 1, 0)
    assert summary.totals["replica_deaths"] == 3
    (row,) = [v for v in read_log(log, "videos") if v["status"] == "quarantined"]
    assert Path(row["uris"][0]).name == "clip2.mp4"
    assert row["reason"].startswith("window 4 (6.000-8.000 s) ended 3 replicas")
    assert how != "memory" or row["reason"].endswith("its process ran out of memory")
    kept = sorted(w["window"] for w in read_log(log, "windows") if w["video_id"] == row["video_id"])
    assert kept == [0, 1, 2, 3, 5]


def test_a_window_that_the_model_refuses_is_quarantined_and_the_rest_is_kept(
    archive: Path, tmp_path: Path, read_log: Any
) -> None:
    """A retry watches it alone, also after a first retry whose driver ended."""
    log = tmp_path / "log"
    fate = {"at_us": [7_000_000], "how": "refuse", "times": 2, "count": str(tmp_path / "count"), "batch_windows": 2}
    summary = flow(archive, log, FRAGILE, settings=fate)
    assert (summary.videos, summary.quarantined, summary.totals["replica_deaths"]) == (2, 1, 0)
    assert summary.failures[0][1] == "window 4 (6.000-8.000 s): this window is longer than the context"
    (row,) = [v for v in read_log(log, "videos") if v["status"] == "quarantined"]
    kept = sorted(w["window"] for w in read_log(log, "windows") if w["video_id"] == row["video_id"])
    assert kept == [0, 1, 2, 3, 5]
    assert any(e["video_id"] == row["video_id"] for e in read_log(log, "events"))

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow(archive, log, FRAGILE, settings=fate, retry_failed=True, on_progress=interrupt)
    healed = flow(archive, log, FRAGILE, settings=fate, retry_failed=True)
    assert (healed.videos, healed.windows, healed.totals["windows_kept"]) == (1, 1, 5)
    assert not list(log.glob("_windows/*/*/*.jsonl.gz"))


@pytest.mark.parametrize(("load", "said"), [("refuse", "cannot be read"), ("exit", "no replica can be started")])
def test_a_model_that_cannot_be_loaded_ends_the_run_with_one_error(
    load: str, said: str, archive: Path, tmp_path: Path, read_log: Any
) -> None:
    with pytest.raises(ModelError, match=said):
        flow(archive, tmp_path / "log", settings={"load": load})
    assert not read_log(tmp_path / "log", "videos")
    assert [r["status"] for r in read_log(tmp_path / "log", "runs")] in ([], ["failed"])


def test_a_log_that_cannot_be_written_ends_the_run_with_its_error(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: EventLog, results: Any) -> None:
        raise LogError("log: no space left on device")

    monkeypatch.setattr(EventLog, "commit", full)
    with pytest.raises(LogError, match="no space left"):
        flow(archive, tmp_path / "log", limits=Limits(log_s=1.5))


def test_ctrl_c_keeps_what_is_finished_and_the_next_run_does_the_rest(
    archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    log = tmp_path / "log"

    def interrupt(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow(archive, log, on_progress=interrupt)
    finished = len(read_log(log, "videos"))
    assert finished >= 1
    assert [r["status"] for r in read_log(log, "runs")] == ["stopped"]
    rest = flow(archive, log)
    assert rest.videos == 3 - finished and rest.already == finished
    assert_whole(log, clips, read_log)


def test_windows_that_were_finished_are_kept_and_the_next_run_does_only_the_rest_of_the_video(
    tmp_path: Path, make_clip: Any, read_log: Any
) -> None:
    clip, log = make_clip(tmp_path / "archive" / "long.mp4", 60, 13), tmp_path / "log"
    budget = 4 * 5 * 42 * 32 * 3  # so that decoding is still under way

    def interrupt(progress: Progress) -> None:
        if progress.windows >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow(clip.parent, log, limits=Limits(frames_bytes=budget), on_progress=interrupt)
    assert not read_log(log, "videos") and list(log.glob("_windows/*/*/*.jsonl.gz"))
    moved = tmp_path / "elsewhere" / "renamed.mp4"
    moved.parent.mkdir()
    shutil.move(clip, moved)  # the content counts, not its name
    said: list[str] = []
    rest = flow(moved.parent, log, on_start=said.append)
    kept = rest.totals["windows_kept"]
    assert kept >= 5 and rest.windows == len(alone(moved)[2]) - kept > 0
    assert any("1 to watch" in line and "1 of them begun before" in line for line in said)
    assert_whole(log, [moved], read_log)
    assert not list(log.glob("_windows/*/*/*.jsonl.gz"))


def test_calls_that_cannot_be_meant_are_refused_before_ray_starts(archive: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for options, said in (
        ({"fps": "fast"}, "--fps"),
        ({"fps": 0}, "--fps"),
        ({"window_s": 1, "overlap_s": 1}, "--overlap"),
        ({"short_side": 1}, "--short-side"),
        ({"tolerance_s": -1}, "--tolerance"),
        ({"replicas": 0}, "--replicas"),
        ({"startup_s": 0}, "--startup"),
    ):
        with pytest.raises(UsageError, match=said):
            flow(archive, log, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nowhere"):
        flow(archive / "nowhere", log)
    with pytest.raises(UsageError, match="not known"):
        flow(archive, log, "gpt")
    assert not log.exists()


def test_a_users_wishes_win_over_the_models_defaults() -> None:
    profile = colours.profile({"window_s": 16, "overlap_s": 1, "fps": 2})
    config = configure(profile, fps="30000/1001", window_s=30, short_side=480, tolerance_s=0.25, decoder="decord")
    assert config.sampling == replace(
        profile.sampling, fps=Fraction(30000, 1001), short_side=480, tolerance_us=250_000, decoder="decord"
    )
    assert (config.windowing.length_us, config.windowing.overlap_us) == (30_000_000, 1_000_000)
    assert configure(profile, window_s=1).windowing.overlap_us < 500_000
