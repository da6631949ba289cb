"""The process of one SQL query: a JSON object comes in (sql_asking.py), one goes out."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import duckdb

from pipeline.errors import LogError, SecondsightError
from pipeline.log import EventLog
from pipeline.log.sql import plain, rows_of, select

#: DuckDB is told this share of the memory that the process has; the answer's own rows need the rest.
FOR_DUCKDB = 0.5


def main() -> None:
    question = sys.stdin.buffer.read()
    if not question:  # the server is gone
        return
    asked = json.loads(question)
    # The server ends this process in time; this is for when the server itself is gone.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(asked["seconds"]) + 5)
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is not the answer
    try:
        _limit(asked["memory"])
        said = _answer(asked)
    except MemoryError:
        return  # as where the process is killed for it: nothing is said
    except LogError as error:
        said = _error(503, "log_unreadable", str(error))
    except SecondsightError as error:
        if isinstance(error.__cause__, duckdb.OutOfMemoryException):
            return
        said = _error(422, "bad_sql", str(error))
    with os.fdopen(out, "wb") as stream:
        stream.write(said)


def _answer(asked: dict[str, Any]) -> bytes:
    snapshot = EventLog.open(asked["log"]).snapshot()
    memory = f"{int(asked['memory'] * FOR_DUCKDB) >> 20} MiB"
    settings: dict[str, str | int] = {"memory_limit": memory, "threads": 2, "temp_directory": ""}  # nothing on disk
    table = select(snapshot, asked["sql"], rows=asked["rows"] + 1, settings=settings)
    truncated = table.num_rows > asked["rows"]
    table = table.slice(0, asked["rows"])
    said = {
        "version": snapshot.version,
        "columns": [{"name": field.name, "type": str(field.type)} for field in table.schema],
        "rows": [[plain(cell) for cell in row] for row in rows_of(table)],
        "truncated": truncated,
    }
    data = json.dumps(said, separators=(",", ":"), allow_nan=False).encode()
    if len(data) > asked["bytes"]:
        most = asked["bytes"] >> 10
        return _error(422, "too_large", f"an answer of more than {most:,} KiB: ask for fewer rows or columns")
    return data


def _limit(memory: int) -> None:
    """No more memory than that for this process."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _error(status: int, code: str, message: str) -> bytes:
    return json.dumps({"status": status, "code": code, "error": message}).encode()


if __name__ == "__main__":
    main()
