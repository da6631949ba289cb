"""The flow end to end on Ray: small real clips, answers that depend on every pixel, and everything that breaks."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from jobs.bench.models import colours
from jobs.run import RunSummary, configure, run
from pipeline.archive import fingerprint
from pipeline.config import RunConfig
from pipeline.decode import decode_windows
from pipeline.errors import LogError, ModelError, UsageError
from pipeline.log import EventLog
from pipeline.probe import probe
from pipeline.reduce import reduce_events
from pipeline.video import Source, Video
from workers import decoders, standing
from workers.flow import Limits, Progress

pytestmark = pytest.mark.usefixtures("ray_session")

SETTINGS = {"window_s": 2, "overlap_s": 0.5, "fps": 2, "short_side": 32, "cpus": 0.5}
COLOURS, FRAGILE, NOTHING = (f"python:jobs.bench.models:{name}" for name in ("colours", "fragile", "nothing"))


def _run(archive: Path, log: Path, model: str = COLOURS, **options: Any) -> RunSummary:
    settings = {**SETTINGS, **options.pop("settings", {})}
    return run(str(archive), str(log), model, settings=settings, replicas=options.pop("replicas", 1), **options)


def _config() -> RunConfig:
    return configure(colours.profile(SETTINGS))


def _alone(path: Path) -> tuple[Video, list[tuple[int, int, str, str]], list[tuple[int, ...]]]:
    """A clip watched in this process without the flow: its events, and the frame times of each window."""
    config, profile = _config(), colours.profile(SETTINGS)
    source = Source(str(path), path.stat().st_size)
    video = probe(source.uri, source.size_bytes, fingerprint(source), (source.uri,))
    count = config.windowing.count(video.duration_us)
    windows = [config.windowing.window(video.video_id, i, video.duration_us) for i in range(count)]
    seen = list(decode_windows(video, windows, config.sampling))
    answers = colours.load(SETTINGS).watch(seen)
    events = reduce_events(answers, profile.rules, video.duration_us).events
    return video, [(e.start_us, e.end_us, e.kind, e.text) for e in events], [tuple(f.time_us.tolist()) for _, f in seen]


def _events(rows: list[dict[str, Any]], video_id: str) -> list[tuple[int, int, str, str]]:
    found = [(r["start_us"], r["end_us"], r["kind"], r["text"]) for r in rows if r["video_id"] == video_id]
    return sorted(found)


def _assert_whole(log: Path, clips: list[Path], read_log: Any) -> None:
    """Every clip is in the log once, done, with the very rows that watching it alone gives."""
    videos, events, windows = (read_log(log, table) for table in ("videos", "events", "windows"))
    assert len({v["video_id"] for v in videos}) == len(videos) == len(clips)
    for clip in clips:
        video, expected, frame_us = _alone(clip)
        (row,) = [v for v in videos if v["video_id"] == video.video_id]
        assert row["status"] == "done" and row["duration_us"] == video.duration_us
        assert _events(events, video.video_id) == sorted(expected) and expected
        mine = sorted((w["window"], tuple(w["frame_us"])) for w in windows if w["video_id"] == video.video_id)
        assert mine == list(enumerate(frame_us))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, make_clip: Any) -> Path:
    """Three clips of different length."""
    folder = tmp_path_factory.mktemp("archive")
    for number, seconds in enumerate((6, 3, 9)):
        make_clip(folder / f"clip{number}.mp4", seconds, number)
    return folder


@pytest.fixture(scope="module")
def clips(archive: Path) -> list[Path]:
    return sorted(archive.glob("*.mp4"))


def test_an_archive_becomes_the_log_that_watching_each_clip_alone_gives(
    archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    reports: list[int] = []
    log = tmp_path / "log"
    summary = _run(archive, log, on_progress=lambda p: reports.append(p.windows))
    assert (summary.videos, summary.failed, summary.quarantined, summary.already) == (3, 0, 0, 0)
    assert summary.video_s == pytest.approx(sum(row["duration_us"] for row in read_log(log, "videos")) / 1e6)
    _assert_whole(log, clips, read_log)
    (record,) = read_log(log, "runs")
    assert record["status"] == "done" and record["run_id"] == summary.run_id
    assert json.loads(record["totals"])["windows"] == summary.windows == len(read_log(log, "windows")) == reports[-1]
    assert json.loads(record["config"]) == _config().as_json()

    again = _run(archive, log)  # the same again does nothing
    assert (again.run_id, again.already, again.videos, again.windows) == ("", 3, 0, 0)
    assert len(read_log(log, "videos")) == 3 and len(read_log(log, "runs")) == 1

    other = _run(archive, log, window_s=4)  # another configuration does everything again, beside it
    assert other.videos == 3
    assert len(read_log(log, "videos")) == 6


def test_segments_of_one_video_and_several_windows_per_call_change_nothing(
    tmp_path: Path, make_clip: Any, read_log: Any
) -> None:
    clip = make_clip(tmp_path / "archive" / "long.mp4", 40, 7)
    summary = _run(clip.parent, tmp_path / "log", settings={"batch_windows": 3}, replicas=2, limits=Limits(segment_s=5))
    assert summary.videos == 1
    _assert_whole(tmp_path / "log", [clip], read_log)


def test_frames_in_flight_stay_within_their_budget(tmp_path: Path, make_clip: Any, read_log: Any) -> None:
    clip = make_clip(tmp_path / "archive" / "long.mp4", 40, 8)
    window_bytes = 5 * 42 * 32 * 3
    budget = 4 * window_bytes
    summary = _run(clip.parent, tmp_path / "log", limits=Limits(frames_bytes=budget, segment_s=5))
    assert window_bytes < summary.totals["peak_bytes"] <= budget
    _assert_whole(tmp_path / "log", [clip], read_log)


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
    summary = _run(folder, log)
    assert summary.videos == 3 and summary.failed == 4
    assert {Path(uri).name for uri, _ in summary.failures} == {"empty.mp4", "text.mp4", "cut.mp4", "fifo.mp4"}
    failed = {
        Path(v["uris"][0]).name: v["reason"].split(":")[0] for v in read_log(log, "videos") if v["status"] == "failed"
    }
    assert failed == {"empty.mp4": "empty", "text.mp4": "unreadable", "cut.mp4": "unreadable", "fifo.mp4": "not_a_file"}

    again = _run(folder, log)
    assert again.run_id == "" and again.already == 7
    (folder / "empty.mp4").write_bytes(clips[1].read_bytes() + b"\0" * 100)  # healed in the meantime
    healed = _run(folder, log, retry_failed=True)
    assert healed.videos == 1 and healed.already == 3 and healed.failed == 3


def test_the_same_content_under_two_names_is_watched_once_and_both_names_are_kept(
    clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clips[0], folder / name)
    log = tmp_path / "log"
    first = _run(folder, log)
    assert (first.videos, first.duplicates) == (1, 1)
    shutil.copy(clips[0], folder / "c.mp4")
    second = _run(folder, log)
    assert (second.run_id, second.videos) == ("", 0)
    (row,) = read_log(log, "videos")
    names = {*row["uris"], *(r["uri"] for r in read_log(log, "names"))}
    assert {Path(n).name for n in names} == {"a.mp4", "b.mp4", "c.mp4"}


def test_a_replica_that_dies_is_replaced_and_its_windows_run_again(
    archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    fate = {"at_us": [2_200_000], "how": "exit", "times": 2, "count": str(tmp_path / "count"), "batch_windows": 2}
    summary = _run(archive, tmp_path / "log", FRAGILE, settings=fate)
    assert summary.totals["replica_deaths"] == 2 and summary.videos == 3
    _assert_whole(tmp_path / "log", clips, read_log)
    assert max(w["attempt"] for w in read_log(tmp_path / "log", "windows")) in (2, 3)


@pytest.mark.parametrize("how", ["exit", "memory", "raise", "stray"])
def test_a_window_that_ends_three_replicas_is_quarantined_and_the_rest_is_kept(
    how: str, archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    log = tmp_path / "log"
    summary = _run(archive, log, FRAGILE, settings={"at_us": [7_000_000], "how": how})  # only clip2 is that long
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
    summary = _run(archive, log, FRAGILE, settings=fate)
    assert (summary.videos, summary.quarantined, summary.totals["replica_deaths"]) == (2, 1, 0)
    assert summary.failures[0][1] == "window 4 (6.000-8.000 s): this window is longer than the context"
    (row,) = [v for v in read_log(log, "videos") if v["status"] == "quarantined"]
    kept = sorted(w["window"] for w in read_log(log, "windows") if w["video_id"] == row["video_id"])
    assert kept == [0, 1, 2, 3, 5]
    assert any(e["video_id"] == row["video_id"] for e in read_log(log, "events"))

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(archive, log, FRAGILE, settings=fate, retry_failed=True, on_progress=interrupt)
    healed = _run(archive, log, FRAGILE, settings=fate, retry_failed=True)
    assert (healed.videos, healed.windows, healed.totals["windows_kept"]) == (1, 1, 5)
    assert not list(log.glob("_windows/*/*/*.jsonl.gz"))


@pytest.mark.parametrize(("load", "said"), [("refuse", "cannot be read"), ("exit", "no replica can be started")])
def test_a_model_that_cannot_be_loaded_ends_the_run_with_one_error(
    load: str, said: str, archive: Path, tmp_path: Path, read_log: Any
) -> None:
    with pytest.raises(ModelError, match=said):
        _run(archive, tmp_path / "log", settings={"load": load})
    assert not read_log(tmp_path / "log", "videos")
    assert [r["status"] for r in read_log(tmp_path / "log", "runs")] in ([], ["failed"])


def test_a_killed_decode_worker_loses_nothing(tmp_path: Path, make_clip: Any, read_log: Any) -> None:
    clip = make_clip(tmp_path / "archive" / "long.mp4", 60, 9)
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.windows >= 3 and not killed:
            killed.extend(_worker_pids("_decode_segment"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    budget = 4 * 5 * 42 * 32 * 3  # so that decoding is still under way
    summary = _run(
        clip.parent,
        tmp_path / "log",
        limits=Limits(frames_bytes=budget),
        on_progress=kill,
        settings={"batch_windows": 1},
    )
    assert killed and summary.videos == 1
    _assert_whole(tmp_path / "log", [clip], read_log)


def _worker_pids(task: str) -> list[int]:
    """Workers of this session's Ray that run a task of this name now (Ray sets their process title)."""
    import ray

    node: Any = ray._private.worker._global_node
    session = os.path.basename(node.get_session_dir_path()).encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::" + task.encode()):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if session in Path(f"/proc/{parent}/cmdline").read_bytes():
                    pids.append(int(folder.name))
    return pids


def test_decoding_beyond_its_memory_limit_fails_the_video_alone(
    clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    import av

    with av.open(str(folder / "huge.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 4096, 3072, "yuv420p", 1
        frame = av.VideoFrame(4096, 3072, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for _ in range(4):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shutil.copy(clips[0], folder)
    monkeypatch.setattr(decoders, "BACK_OFF_S", 0.1)
    summary = _run(folder, tmp_path / "log", limits=Limits(decode_bytes=16 << 20))
    assert (summary.videos, summary.failed) == (1, 1)
    (uri, reason) = summary.failures[0]
    assert uri.endswith("huge.mp4") and reason == "memory: decoding it needs more than the limit of 16 MiB"


def test_a_log_that_cannot_be_written_ends_the_run_with_its_error(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: EventLog, results: Any) -> None:
        raise LogError("log: no space left on device")

    monkeypatch.setattr(EventLog, "commit", full)
    with pytest.raises(LogError, match="no space left"):
        _run(archive, tmp_path / "log", limits=Limits(log_s=1.5))


def test_ctrl_c_keeps_what_is_finished_and_the_next_run_does_the_rest(
    archive: Path, clips: list[Path], tmp_path: Path, read_log: Any
) -> None:
    log = tmp_path / "log"

    def interrupt(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(archive, log, on_progress=interrupt)
    finished = len(read_log(log, "videos"))
    assert finished >= 1
    assert [r["status"] for r in read_log(log, "runs")] == ["stopped"]
    rest = _run(archive, log)
    assert rest.videos == 3 - finished and rest.already == finished
    _assert_whole(log, clips, read_log)


def test_windows_that_were_finished_are_kept_and_the_next_run_does_only_the_rest_of_the_video(
    tmp_path: Path, make_clip: Any, read_log: Any
) -> None:
    clip, log = make_clip(tmp_path / "archive" / "long.mp4", 60, 13), tmp_path / "log"
    budget = 4 * 5 * 42 * 32 * 3  # so that decoding is still under way

    def interrupt(progress: Progress) -> None:
        if progress.windows >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(clip.parent, log, limits=Limits(frames_bytes=budget), on_progress=interrupt)
    assert not read_log(log, "videos") and list(log.glob("_windows/*/*/*.jsonl.gz"))
    moved = tmp_path / "elsewhere" / "renamed.mp4"
    moved.parent.mkdir()
    shutil.move(clip, moved)  # the content counts, not its name
    said: list[str] = []
    rest = _run(moved.parent, log, on_start=said.append)
    kept = rest.totals["windows_kept"]
    assert kept >= 5 and rest.windows == len(_alone(moved)[2]) - kept > 0
    assert any("1 to watch" in line and "1 of them begun before" in line for line in said)
    _assert_whole(log, [moved], read_log)
    assert not list(log.glob("_windows/*/*/*.jsonl.gz"))


class _Server(http.server.ThreadingHTTPServer):
    """Serves one content under every name, by range. Never answers for /silent.mp4, nor for any once `hanging`."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        self.content, self.hanging, self.closing = content, threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._head(200, len(self.server.content))

    def do_GET(self) -> None:
        if "silent" in self.path or self.server.hanging.is_set():
            self.server.closing.wait(60)
            return
        span = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = span.partition("-")
        part = self.server.content[int(first or 0) : int(last) + 1 if last else None]
        self._head(206 if span else 200, len(part), f"bytes {first or 0}-{int(first or 0) + len(part) - 1}")
        self.wfile.write(part)

    def _head(self, status: int, length: int, span: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        if span:
            self.send_header("Content-Range", f"{span}/{len(self.server.content)}")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, make_clip: Any) -> Iterator[_Server]:
    server = _Server(make_clip(tmp_path / "served.mp4", 40, 11).read_bytes())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def test_a_store_that_never_answers_costs_one_video_its_time_limit(server: _Server, tmp_path: Path) -> None:
    names = [f"{server.url}/good.mp4", f"{server.url}/silent.mp4"]
    began = time.monotonic()
    summary = run(names, str(tmp_path / "log"), COLOURS, settings=SETTINGS, replicas=1, limits=Limits(stall_s=8))
    assert time.monotonic() - began < 60
    assert (summary.videos, summary.failed) == (1, 1)
    uri, reason = summary.failures[0]
    assert uri.endswith("silent.mp4") and reason.startswith("timeout: ")


def test_decoding_that_hangs_is_ended_after_its_time_limit_and_what_was_watched_is_kept(
    server: _Server, tmp_path: Path, read_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decoders.TRIES, "timeout", 1)  # each hang takes its time
    monkeypatch.setattr(standing, "MAX_BAD", 0)

    def hang(progress: Progress) -> None:
        if progress.windows:
            server.hanging.set()  # the segments that are opened from now on

    budget = 4 * 5 * 42 * 32 * 3
    summary = run(
        f"{server.url}/good.mp4",
        str(tmp_path / "log"),
        COLOURS,
        settings=SETTINGS,
        replicas=1,
        limits=Limits(stall_s=8, segment_s=5, frames_bytes=budget),
        on_progress=hang,
    )
    assert (summary.videos, summary.failed, summary.quarantined) == (0, 0, 1) and summary.windows > 0
    assert summary.failures[0][1].startswith("timeout: decoding made no progress for 8 s (1 window); the rest was not")
    assert sum(row["replica"] != "" for row in read_log(tmp_path / "log", "windows")) == summary.windows


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
            _run(archive, log, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nowhere"):
        _run(archive / "nowhere", log)
    with pytest.raises(UsageError, match="not known"):
        _run(archive, log, "gpt")
    assert not log.exists()


def test_a_users_wishes_win_over_the_models_defaults() -> None:
    profile = colours.profile({"window_s": 16, "overlap_s": 1, "fps": 2})
    config = configure(profile, fps="30000/1001", window_s=30, short_side=480, tolerance_s=0.25, decoder="decord")
    assert config.sampling == replace(
        profile.sampling, fps=Fraction(30000, 1001), short_side=480, tolerance_us=250_000, decoder="decord"
    )
    assert (config.windowing.length_us, config.windowing.overlap_us) == (30_000_000, 1_000_000)
    assert configure(profile, window_s=1).windowing.overlap_us < 500_000
