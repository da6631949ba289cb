"""Servers on loopback that the archive is read from: S3 (moto), HTTP with and without ranges, HTTP that fails."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest


@dataclass
class WebServer:
    """An HTTP server of a few objects. Counts what it was asked for and can be told to fail."""

    objects: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    failures: list[int | str] = field(default_factory=list)  # next answers to GET: a status, or "cut"
    tags: bool = False  # sends strong ETags and honours If-Match
    sent: list[tuple[str, int]] = field(default_factory=list)  # (path, bytes) of every GET answered
    url: str = ""


@pytest.fixture
def web() -> Iterator[WebServer]:
    """An HTTP server of this test alone."""
    with _serve() as server:
        yield server


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """`s3://BUCKET` on a moto server; the environment points fsspec at it for the rest of the session."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("secondsight-test")
        yield "s3://secondsight-test"
    server.stop()


@contextmanager
def _serve() -> Iterator[WebServer]:
    state = WebServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def plain(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, body: bool) -> None:
            failure = state.failures.pop(0) if body and state.failures else None
            if isinstance(failure, int):
                return self.plain(failure)
            data = state.objects.get(self.path)
            if data is None:
                return self.plain(404)
            tag = f'"{hash(data)}"'
            if state.tags and self.headers.get("If-Match", tag) != tag:
                return self.plain(412)
            wanted = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if state.ranges else None
            piece = data[int(wanted[1]) : int(wanted[2]) + 1] if wanted else data
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(piece)))
            if state.tags:
                self.send_header("ETag", tag)
            if wanted:
                self.send_header("Content-Range", f"bytes {wanted[1]}-{wanted[2]}/{len(data)}")
            self.end_headers()
            if not body:
                return None
            state.sent.append((self.path, len(piece)))
            try:
                self.wfile.write(piece[: len(piece) // 2] if failure == "cut" else piece)
            except (BrokenPipeError, ConnectionResetError):  # the client had read enough
                self.close_connection = True
            if failure == "cut":
                self.close_connection = True
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
