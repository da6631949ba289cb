"""The service against its own OpenAPI document (schemathesis), and the command that starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jobs.cli import main
from tests.jobs.serving import Served

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


@pytest.fixture(scope="module")
def app(served: Served) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    from jobs.serve.app import create_app
    from jobs.serve.settings import Settings

    app = create_app(Settings(str(served.log)))
    with TestClient(app):
        yield app


CHECKED = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)

#: Half of what is drawn for these is replaced by what is there, so that not every question ends at an unknown name.
THERE = {"video": "harbour.mp4", "run_id": "run-a", "left": "run-a", "right": "run-b", "run": None, "cursor": None}


def test_answers_are_those_of_the_document(app: Any) -> None:
    """Whatever is asked: no failure of the server, no status, type or shape that the document does not name."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    asked = 0
    for found in schema.exclude(path="/api/live/stream").get_all_operations():  # which does not end
        operation = found.ok()
        draws = operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(draws, st.booleans())
        def check(case: Any, there: bool) -> None:
            nonlocal asked
            for part in (case.path_parameters, case.query) if there else ():
                for name in set(THERE) & set(part or ()):
                    part[name] = THERE[name]
                    if THERE[name] is None:
                        del part[name]
            case.validate_response(case.call(), checks=CHECKED)
            asked += 1

        check()
    assert asked > 150


# -- the command


@pytest.fixture(scope="module")
def command(served: Served) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`secondsight serve` in a process of its own: (address, process)."""
    environment = {k: v for k, v in os.environ.items() if k != "SECONDSIGHT_TOKEN"}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "serve", str(served.log), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "serves" in line and "http://127.0.0.1:" in line and "token" not in line
    roots = process.stdout.readline()
    assert f"below {served.archive} " in roots and "--root" in roots
    yield line.split(" at ")[1].split()[0], process
    process.send_signal(signal.SIGINT)
    process.wait(30)


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_megabyte_of_question(command: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = command
    status, body = get(f"{address}api/at?t=1&video={'x' * 1_000_000}")
    assert status == 414 and json.loads(body)["error"]["code"] == "too_long"
    host, port = address.split("//")[1].rstrip("/").split(":")
    with socket.create_connection((host, int(port)), 30) as line:  # and what is no HTTP at all
        line.sendall(b"\x16\x03\x01\x00\xa5 hello\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 400")
    assert get(f"{address}healthz") == (200, b'{"status":"ok"}')
    assert process.poll() is None


def test_events_come_while_runs_go_on(command: tuple[str, subprocess.Popen[str]], served: Served) -> None:
    import time

    from pipeline.live import LiveStatus, write_live

    with urllib.request.urlopen(f"{command[0]}api/live/stream", timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")

        def following() -> dict[str, Any]:
            while True:
                line = stream.readline().decode()
                if line.startswith("data: "):
                    return dict(json.loads(line[6:]))

        assert following()["runs"] == []
        now = time.time_ns() // 1000
        write_live(str(served.log), LiveStatus("run-z", "running", now, now, videos_found=5))
        assert following()["runs"][0]["videos_found"] == 5


def test_mistakes_in_one_line(tmp_path: Path, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", str(served.log), "--port", str(taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert "choose another with --port" in error and "Traceback" not in error


def test_roots_that_a_log_may_not_choose_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import uvicorn

    from pipeline.log import EventLog, RunRecord

    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(RunRecord("run-a", "c", {}, "m", "w", "0", {"archive": ["/etc", "/srv/films"]}, 10**15))
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    assert main(["serve", log.uri, "--port", "0"]) == 0
    said = capsys.readouterr().out
    assert "below /srv/films (" in said and "none below /etc," in said
    assert main(["serve", log.uri, "--port", "0", "--root", "/etc"]) == 0
    assert "below" not in capsys.readouterr().out


def test_others_need_a_token(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import uvicorn

    monkeypatch.delenv("SECONDSIGHT_TOKEN", raising=False)
    made: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: made.append(self.config.app))
    assert main(["serve", str(served.log), "--host", "0.0.0.0", "--port", "0"]) == 0
    assert "/#token=" in capsys.readouterr().out and not made[-1].gate.open
    assert main(["serve", str(served.log), "--host", "0.0.0.0", "--port", "0", "--no-token"]) == 0
    assert "anybody" in capsys.readouterr().err and made[-1].gate.open
    monkeypatch.setenv("SECONDSIGHT_TOKEN", "short")
    assert main(["serve", str(served.log), "--port", "0"]) == 1
    assert "16" in capsys.readouterr().err
