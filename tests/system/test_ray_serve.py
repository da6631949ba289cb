"""The service under Ray Serve with two replicas, over HTTP. Skipped where Ray Serve is not installed (ray[serve])."""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.serving import S, make_served

pytest.importorskip("ray.serve", exc_type=ImportError)

TOKEN = "a-token-for-ray-serve-0123456789"

#: In a process of its own: the cluster of the other tests stays without it.
SERVER = """
import sys, time, ray
from ray import serve
ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
from jobs.serve.app import deployment
from jobs.serve.on_ray import service
assert isinstance(deployment, serve.Application)  # what `serve run` and a RayService import
serve.run(service().options(num_replicas=2, ray_actor_options={"num_cpus": 1}).bind(), route_prefix="/")
status = serve.status().applications["default"].deployments["secondsight"]
print("up", status.replica_states, flush=True)
sys.stdin.readline()
serve.shutdown()
ray.shutdown()
"""


def test_two_replicas_answer_as_one(tmp_path: Path, make_clip: Any) -> None:
    served = make_served(tmp_path, make_clip)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SECONDSIGHT_LOG": str(served.log), "SECONDSIGHT_TOKEN": TOKEN}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = next((line for line in process.stdout if line.startswith("up")), "")
        assert "RUNNING" in line and "2" in line

        def ask(path: str, token: str = TOKEN, **headers: str) -> tuple[int, Any, bytes]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}", **headers}
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.status, answer.headers, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.headers, error.read()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask("/api/at?video=harbour.mp4&t=1"), range(40)))
        assert {status for status, _, _ in answers} == {200}
        assert len({body for _, _, body in answers}) == 1
        assert json.loads(answers[0][2])["events"]
        clip = (served.archive / "harbour.mp4").read_bytes()
        status, headers, body = ask(f"/api/videos/{served.ids['harbour.mp4']}/media", Range="bytes=100-299")
        assert (status, body) == (206, clip[100:300])
        assert headers["Content-Range"] == f"bytes 100-299/{len(clip)}"
        status, headers, body = ask(f"/api/videos/{served.ids['harbour.mp4']}/still?t=2")
        assert status == 200 and body[:2] == b"\xff\xd8" and int(headers["X-Time-Us"]) <= 2 * S
        assert ask("/api/search?q=circle")[0] == 200
        assert ask("/api/overview", "not the token at all")[0] == 401
        assert ask("/api/at?video=harbor.mp4&t=1")[0] == 404
        assert b"<title>Secondsight" in ask("/")[2]
        # A cookie that one replica gave is good for the other: both know the token only.
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/session", method="POST", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            cookie = answer.headers["Set-Cookie"].split(";")[0]
        assert {ask("/api/overview", "", Authorization="", Cookie=cookie)[0] for _ in range(10)} == {200}
    finally:
        try:
            process.communicate("\n", timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
