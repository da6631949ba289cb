"""The flow where decoding hangs, dies, or needs too much memory."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.run import run
from tests.workers.flows import COLOURS, SETTINGS, assert_whole, flow
from workers import decoders, standing
from workers.flow import Limits, Progress

pytestmark = pytest.mark.usefixtures("ray_session")


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
    summary = flow(folder, tmp_path / "log", limits=Limits(decode_bytes=16 << 20))
    assert (summary.videos, summary.failed) == (1, 1)
    (uri, reason) = summary.failures[0]
    assert uri.endswith("huge.mp4") and reason == "memory: decoding it needs more than the limit of 16 MiB"


def test_a_killed_decode_worker_loses_nothing(tmp_path: Path, make_clip: Any, read_log: Any) -> None:
    clip = make_clip(tmp_path / "archive" / "long.mp4", 60, 9)
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.windows >= 3 and not killed:
            killed.extend(_worker_pids("_decode_segment"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    budget = 4 * 5 * 42 * 32 * 3  # so that decoding is still under way
    summary = flow(
        clip.parent,
        tmp_path / "log",
        limits=Limits(frames_bytes=budget),
        on_progress=kill,
        settings={"batch_windows": 1},
    )
    assert killed and summary.videos == 1
    assert_whole(tmp_path / "log", [clip], read_log)


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
