"""Questions over HTTP: whom they are put to, and what comes where the model that should answer does not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.serve.app import create_app
from jobs.serve.settings import Limits, Settings
from pipeline.errors import UsageError
from pipeline.log import EventLog
from pipeline.search import Search
from tests.jobs.serving import S, Served, refused
from tests.pipeline.logs import event, run_record, video_id, video_result

TestClient = pytest.importorskip("fastapi.testclient").TestClient


def ask(client: Any, q: str, **where: Any) -> dict[str, Any]:
    answer = client.get("/api/ask", params={"q": q, **where})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def seen(said: dict[str, Any]) -> list[tuple[str, str]]:
    return [(e["event"]["video"].rsplit("/", 1)[-1], e["event"]["text"]) for e in said["evidence"]]


def test_a_question_is_put_to_a_video_a_kind_and_a_run(client: Any) -> None:
    assert seen(ask(client, "what happens in the last 2 seconds?", video="night bus.mp4")) == [
        ("night bus.mp4", "a ball leaves")
    ]
    both = ["harbour.mp4", "night bus.mp4"]
    assert {name for name, _ in seen(ask(client, "what happens at 0:01?", video=both))} == set(both)
    assert seen(ask(client, "what happens at 0:01?", video="harbour.mp4", run="run-a", kind="text")) == [
        ("harbour.mp4", "HARBOUR")
    ]
    after = ask(client, "what happens after a red circle appears?", video="harbour.mp4", run="run-a", around=1)
    assert [e["role"] for e in after["evidence"]] == ["match", "next"]
    assert "which of 2 videos" in refused(client.get("/api/ask?q=what happens in the last 2 seconds?"), 422)
    refused(client.get("/api/ask?q=circle&video=nope.mp4"), 404, "unknown_video")
    refused(client.get("/api/ask?q=circle&run=nope"), 404, "unknown_run")


def test_a_question_names_its_video(client: Any) -> None:
    said = ask(client, "what happens at 0:04 in night bus.mp4?")
    assert seen(said) == [("night bus.mp4", "a ball leaves")] and said["supported"]
    assert [name.rsplit("/", 1)[-1] for name in said["videos"]] == ["night bus.mp4"]
    assert seen(ask(client, "what happens in the last 2 seconds of night bus?")) == [("night bus.mp4", "a ball leaves")]
    message = refused(client.get("/api/ask", params={"q": "what happens in knight bus.mp4 at 3 s?"}), 422)
    assert "no video" in message or "night bus" in message


@pytest.fixture
def slow() -> Iterator[tuple[str, threading.Event]]:
    """A model's address, which answers once it is let go."""
    go = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            go.wait(20)
            body = json.dumps({"choices": [{"message": {"content": "A red circle appears [1]."}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"openai:http://127.0.0.1:{server.server_port}/v1#tiny", go
    go.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_evidence_comes_in_time_though_the_model_does_not(served: Served, slow: tuple[str, threading.Event]) -> None:
    model, go = slow
    limits = Limits(model_s=1.0, heavy_s=3.0, model_threads=1)
    with TestClient(create_app(Settings(str(served.log), model=model, limits=limits))) as client:
        began = time.monotonic()
        said = ask(client, "when does a red circle appear?")
        assert time.monotonic() - began < limits.heavy_s
        assert said["answer"] is None and said["supported"] and said["evidence"][0]["event"]["end_us"] == 2 * S
        assert "no answer in words" in said["note"] and ("within" in said["note"] or "too long" in said["note"])
        go.set()
        said = ask(client, "when does a red circle appear?")
        assert said["answer"] == "A red circle appears [1]." and said["note"] == ""


def test_evidence_comes_though_the_model_is_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.chat.OUTAGE_S", 0.0)
    with TestClient(create_app(Settings(str(served.log), model="openai:http://127.0.0.1:9/v1#tiny"))) as client:
        said = ask(client, "when does a red circle appear?")
        monkeypatch.setenv("OPENAI_API_KEY", "no\ttoken")
        other = ask(client, "when does a red circle appear?")
    assert other["evidence"] == said["evidence"] and "OPENAI_API_KEY" in other["note"]
    assert said["answer"] is None and said["evidence"] and "cannot be reached" in said["note"]


def test_a_model_that_none_can_be_is_told_at_the_start(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(served.log), "--model", "foo"]) == 1
    assert "'foo' is not a model to ask: write openai:URL#NAME" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", "no\ttoken")
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        Settings(str(served.log), model="openai:http://127.0.0.1:9/v1#tiny")


def test_a_video_that_was_just_committed_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the index would take it in by itself; where it does not come to that in time, the answer is: soon."""
    monkeypatch.setattr("jobs.serve.archive.LOOK_S", 0.0)
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    log.commit([video_result("a.mp4", [event(0, S, text="a train")])])
    with TestClient(create_app(Settings(log.uri))) as client:
        assert len(client.get("/api/search?q=train").json()["hits"]) == 1
        log.commit([video_result("b.mp4", [event(0, S, text="another train")])])
        hits = client.get("/api/search", params={"q": "train", "video": video_id("b.mp4")}).json()["hits"]
        assert [hit["event"]["text"] for hit in hits] == ["another train"]
        log.commit([video_result("c.mp4", [event(0, S, text="a third train")])])
        assert seen(ask(client, "is there a train?", video="c.mp4")) == [("c.mp4", "a third train")]
        log.commit([video_result("d.mp4", [event(0, S, text="the last train")])])
        monkeypatch.setattr(Search, "update", lambda self: 0)
        for path in ("search?q=train&video=d.mp4", "ask?q=is there a train?&video=d.mp4", "ask?q=a train in d.mp4"):
            answer = client.get(f"/api/{path}")
            assert "ask again" in refused(answer, 503, "indexing") and answer.headers["Retry-After"]
        assert seen(ask(client, "what happens at 0:00?", video="d.mp4")) == [("d.mp4", "the last train")]
