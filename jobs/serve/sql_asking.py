"""Each SQL query in a process of its own, which can be ended and cannot take the server's memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

from jobs.serve.reply import Problem
from jobs.serve.settings import Limits


def answer(processes: Processes, log: str, query: str, rows: int, limits: Limits) -> dict[str, Any]:
    """What shapes.Rows says. Raises Problem: refused by DuckDB, too slow, too large."""
    asked = {"log": log, "sql": query, "rows": rows, "bytes": limits.sql_bytes, "memory": limits.sql_memory}
    with processes.take() as process:
        try:
            told, _ = process.communicate(json.dumps(asked).encode(), timeout=limits.sql_s)
        except subprocess.TimeoutExpired:
            raise Problem(504, "time_limit", f"this query took more than {limits.sql_s:g} s: ask for less") from None
        finally:
            process.kill()
    try:
        said: dict[str, Any] = json.loads(told)
    except ValueError:  # killed, or out of memory where nothing could be said
        raise Problem(
            422, "memory", f"this query needs more than {limits.sql_memory >> 20} MiB of memory: ask for less"
        ) from None
    if "error" in said:
        raise Problem(said["status"], said["code"], said["error"])
    return said


class Processes:
    """Of one query each. From the first query on one waits, with all that it imports, for the next. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: subprocess.Popen[bytes] | None = None
        self._closed = False

    def take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            process, self._waiting = self._waiting, None if self._closed else _started()
        if process is None or process.poll() is not None:
            return _started()
        return process

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._waiting is not None:
                self._waiting.kill()
                self._waiting.communicate()


def _started() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "jobs.serve.sql_process"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
