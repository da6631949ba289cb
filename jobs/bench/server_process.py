"""A model's server in a process of its own on loopback, which can be killed and started again at the same address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path


class ServerProcess:
    """`command` starts it, with the variables `own` besides this process's; `name`: what `--model` calls its model."""

    def __init__(self, log: Path, name: str, own: Mapping[str, str] | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log, self._name, self._own = log, name, dict(own or {})
        self.start()

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    @property
    def spec(self) -> str:
        return f"openai:http://127.0.0.1:{self.port}/v1#{self._name}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=os.environ | self._own)

    def wait(self) -> None:
        """Until it answers. Raises RuntimeError where it does not come up."""
        until = time.monotonic() + 300
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"the server did not come up: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class TransformersServer(ServerProcess):
    """`transformers serve` with the checkpoint in `checkpoint`, in float32 on one thread; its log and cache go to
    `folder`. What it needs besides the `qwen` extra (`NEEDED`), the `dev` extra has."""

    NEEDED = ("openai", "fastapi", "uvicorn")

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self._checkpoint = checkpoint
        own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
        super().__init__(folder / "serve.log", str(checkpoint), own)

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "jobs.bench.serve_transformers", "serve", str(self._checkpoint),
            "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu", "--dtype", "float32",
        ]  # fmt: skip
