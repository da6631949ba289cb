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
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_S = 300.0


@dataclass(frozen=True, slots=True)
class Head:
    """`address`: of the job server. `metrics`: of the node's Prometheus page."""

    address: str
    token: str
    metrics: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ray_head(cpus: int = 3) -> Iterator[Head]:
    """Start a head node with `ray start`, as an operator does, and end it and all below it afterwards."""
    token = secrets.token_hex(32)
    gcs, dashboard, metrics = free_port(), free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="ss-head-", dir="/tmp"))  # short: Unix sockets lie below it
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    env["RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT"] = str(START_S)  # busy machines
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
        *(f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={free_port()}"),
        *("--include-dashboard=true", f"--num-cpus={cpus}", "--object-store-memory=200000000"),
        *(f"--temp-dir={folder}", "--disable-usage-stats", f"--min-worker-port={20000}", f"--max-worker-port={29999}"),
    ]
    with (folder / "head.out").open("wb") as out:
        # a folder where Secondsight's packages are not to be found: what a job needs comes with it, or is installed
        head = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        deadline = time.monotonic() + START_S
        while True:
            assert head.poll() is None and time.monotonic() < deadline, (folder / "head.out").read_text()[-3000:]
            request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(request, timeout=5).read()
                break
            time.sleep(0.3)
        yield Head(address, token, f"http://127.0.0.1:{metrics}/metrics")
    finally:
        _end(head)


def _end(head: subprocess.Popen[bytes]) -> None:
    """End the head; its children live in the same session or die with the raylet."""
    head.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
    head.wait()
