"""A real Ray head with its dashboard and job server on loopback, in processes of its own, wanting a token."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_S = 300.0
ATTEMPTS = 2

#: The command `ray`, which would otherwise give its node 30 s to appear, however busy the machine is.
PATIENT_RAY = f"""
import time
from ray._private import services
from ray.scripts.scripts import main

once = services.get_node

def get_node(*args, **kwargs):
    until = time.monotonic() + {START_S}
    while True:
        try:
            return once(*args, **kwargs)
        except RuntimeError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)

services.get_node = get_node
main()
"""


@dataclass(frozen=True, slots=True)
class Head:
    """`address`: of the job server. `metrics`: of the node's Prometheus page. `said`: what it printed."""

    address: str
    token: str
    metrics: str
    said: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ray_head(cpus: int = 3) -> Iterator[Head]:
    """Start a head node with `ray start`, as an operator does, and end it and all below it afterwards."""
    head, process = None, None
    for _ in range(ATTEMPTS):  # a raylet gives up when its agents take too long, as on a busy machine
        head, process = _start(cpus)
        if _up(head, process):
            break
        _end(process)
    assert head is not None and process is not None and process.poll() is None, "no Ray head came up"
    try:
        yield head
    finally:
        _end(process)


def _start(cpus: int) -> tuple[Head, subprocess.Popen[bytes]]:
    token = secrets.token_hex(32)
    gcs, dashboard, metrics = free_port(), free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="ss-head-", dir="/tmp"))  # short: Unix sockets lie below it
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    env["RAY_agent_register_timeout_ms"] = str(int(1000 * START_S))
    for patience in ("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT"):
        env[patience] = str(int(START_S))
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    command = [
        *(sys.executable, "-c", PATIENT_RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
        *(f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={free_port()}"),
        *("--include-dashboard=true", f"--num-cpus={cpus}", "--object-store-memory=200000000"),
        *(f"--temp-dir={folder}", "--disable-usage-stats"),
    ]
    with (folder / "head.out").open("wb") as out:
        # in a folder without Secondsight's packages: what a job needs comes with it, or is installed
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    head = Head(f"http://127.0.0.1:{dashboard}", token, f"http://127.0.0.1:{metrics}/metrics", folder / "head.out")
    return head, process


def _up(head: Head, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the node is in the cluster and its agent and the job server answer; False where it gives up."""
    deadline = time.monotonic() + START_S
    while "Ray runtime started" not in head.said.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    for url in (f"{head.address}/api/jobs/", head.metrics):
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                return False
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {head.token}"})
            with contextlib.suppress(OSError):
                urllib.request.urlopen(request, timeout=5).read()
                break
            time.sleep(0.3)
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head; its children live in the same session or die with the raylet."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
