"""Each SQL query in a process of its own, which can be ended and cannot take the server's memory."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from typing import Any

from jobs.serve.reply import Problem
from jobs.serve.settings import Limits


def answer(processes: Processes, log: str, query: str, rows: int, limits: Limits) -> dict[str, Any]:
    """What shapes.Rows says. Raises Problem: refused by DuckDB, too slow, too large."""
    asked = {
        "log": log,
        "sql": query,
        "rows": rows,
        "bytes": limits.sql_bytes,
        "memory": limits.sql_memory,
        "seconds": limits.sql_s,
    }
    with processes.take() as process:
        try:
            told, printed = process.communicate(json.dumps(asked).encode(), timeout=limits.sql_s)
        except subprocess.TimeoutExpired:
            raise Problem(504, "time_limit", f"this query took more than {limits.sql_s:g} s: ask for less") from None
        finally:
            process.kill()
            processes.ended(process)
    if process.returncode > 0:
        logging.getLogger(__name__).error("a process for SQL failed:\n%s", printed.decode("utf-8", "replace")[-2000:])
        raise Problem(500, "internal", "the server failed at this; what it wrote to its own terminal says why")
    if not told:  # out of memory, or killed for it
        most = f"{limits.sql_memory >> 20} MiB"
        raise Problem(422, "memory", f"this query needs more than {most} of memory: ask for less")
    said: dict[str, Any] = json.loads(told)
    if "error" in said:
        raise Problem(said["status"], said["code"], said["error"])
    return said


class Processes:
    """Of one query each. From the first query on one waits, with all that it imports, for the next. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: subprocess.Popen[bytes] | None = None
        self._busy: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def take(self) -> subprocess.Popen[bytes]:
        """A process to ask; `ended` must be told of it. Raises Problem once closed."""
        with self._lock:
            if self._closed:
                raise Problem(503, "busy", "the server is ending", retry_s=10)
            process = self._waiting
            if process is None or process.poll() is not None:
                process = _started()
            self._busy.add(process)
            self._waiting = _started()
            return process

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._busy.discard(process)

    def close(self) -> None:
        """End them all; who waits for an answer gets an error."""
        with self._lock:
            self._closed = True
            for process in self._busy:
                process.kill()
            if self._waiting is not None:
                self._waiting.kill()
                self._waiting.communicate()


def _started() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "jobs.serve.sql_process"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
