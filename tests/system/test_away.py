"""A served model that goes away in the middle of a run, and comes back: the run waits, says so, and blames nobody."""

from __future__ import annotations

import http.server
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.progress import line
from jobs.watch import run
from pipeline.errors import ModelError
from pipeline.live import read_live
from workers.report import Progress

pytestmark = pytest.mark.usefixtures("ray_session")

MODELS = {"data": [{"id": "tiny", "owned_by": "somebody"}]}
ASKED: dict[str, Any] = {
    "settings": {"dialect": "openai", "in_flight": 1, "outage_s": 24, "frames": "images"},
    "window_s": 2,
    "overlap_s": 0,
    "fps": 1,
    "short_side": 32,
    "replicas": 1,
}
ANSWER = {"choices": [{"message": {"content": '{"events": []}'}, "finish_reason": "stop"}]}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._say(MODELS if self.path == "/v1/models" else None)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.2)
        self._say(ANSWER, self.server.status)  # type: ignore[attr-defined]

    def _say(self, what: Any, status: int = 200) -> None:
        body = json.dumps(what).encode()
        self.send_response(404 if what is None else status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server:
    """On the same port each time."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    @property
    def spec(self) -> str:
        return f"openai:http://127.0.0.1:{self.port}/v1#tiny"

    def refuse(self, status: int) -> None:
        """From now on, of every question; the list of models is there for anybody."""
        self._server.status = status  # type: ignore[attr-defined]

    def start(self) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), _Handler)
        self.port = self._server.server_port
        self.refuse(200)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_an_outage_of_the_server_is_waited_for_and_shown(tmp_path: Path, make_clip: Any, read_log: Any) -> None:
    clip, log = make_clip(tmp_path / "clip.mp4", 30), str(tmp_path / "log")
    server, seen, notes = _Server(), list[str](), list[str]()

    def look(progress: Progress) -> None:
        if not seen and progress.windows:
            server.stop()
            seen.append("stopped")
        elif progress.waits_for and seen[-1] != "back":
            seen[-1] = progress.waits_for
            notes[:] = [status.note for status in read_live(log)]
            if "cannot be reached" in notes[0]:
                assert f"waiting: http://127.0.0.1:{server.port}/v1: cannot be reached" in line(progress)
                server.start()
                seen.append("back")

    summary = run(str(clip), log, server.spec, **ASKED, on_progress=look)
    server.stop()
    assert seen[-1] == "back" and "cannot be reached: Connection refused" in notes[0]
    assert (summary.videos, summary.windows, summary.totals["replica_deaths"]) == (1, 15, 0)
    assert {row["attempt"] for row in read_log(Path(log), "windows")} == {1}
    (status,) = read_live(log)
    assert (status.state, status.note, status.retries) == ("done", "", 0)


def test_a_token_that_runs_out_ends_the_run_and_no_video(tmp_path: Path, make_clip: Any, read_log: Any) -> None:
    for number in range(3):
        make_clip(tmp_path / "clips" / f"{number}.mp4", 8, seed=number)
    log, server = str(tmp_path / "log"), _Server()

    def expire(progress: Progress) -> None:
        if progress.windows:
            server.refuse(401)

    with pytest.raises(ModelError, match="status 401"):
        run(str(tmp_path / "clips"), log, server.spec, **ASKED, on_progress=expire)
    server.refuse(200)
    summary = run(str(tmp_path / "clips"), log, server.spec, **ASKED)
    server.stop()
    assert (summary.failed, summary.quarantined) == (0, 0)
    assert {row["status"] for row in read_log(Path(log), "videos")} == {"done"}
    assert len(read_log(Path(log), "windows")) == 3 * 4
