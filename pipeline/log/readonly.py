"""The files of one version of a log as DuckDB may have them: to read, and in no other way.

DuckDB lets a query write whatever it lets it read (`with x as (copy ... to 'a file of the log') select ...` is a SELECT
to it); so it is given no path of a disk and no object store, but this.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from functools import partial
from typing import Any

import fsspec

from pipeline.log.ahead import Ahead
from pipeline.log.ranged import Ranges
from pipeline.log.schema import RECORDS
from pipeline.log.snapshot import Snapshot

SCHEME = "eventlog://"

#: Of the error that whoever would write meets.
REFUSED = "the log is only read here"


class ReadOnly(fsspec.AbstractFileSystem):
    """What DuckDB asks of a filesystem, over the data files of a snapshot: `eventlog://` and their paths in the log."""

    protocol = "eventlog"
    cachable = False

    def __init__(self, snapshot: Snapshot, ahead: Ahead) -> None:
        super().__init__()
        self._ahead = ahead
        self._files = {f"{SCHEME}{f.path}": f for record in RECORDS for f in snapshot.files(record)}

    def open(self, path: str, mode: str = "rb", **_: Any) -> Ranges:
        """Raises PermissionError: another mode, or no file of the snapshot."""
        if mode != "rb" or path not in self._files:
            raise PermissionError(f"{REFUSED}: {path}")
        file = self._files[path]
        return _ForThreads(partial(self._ahead.read, file.path), file.size_bytes)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Of the file as it was committed, without a request."""
        return {"name": path, "size": self._files[path].size_bytes, "type": "file"}

    def modified(self, path: str) -> datetime:
        """Files of a log never change."""
        return datetime.fromtimestamp(0, UTC)

    def glob(self, path: str, **_: Any) -> list[str]:
        """A path means itself."""
        return [path] if path in self._files else []


class _ForThreads(Ranges):
    """DuckDB's threads share a file, and each seeks before it reads: every thread has its own place in it."""

    def __init__(self, *file: Any) -> None:
        self._place = threading.local()
        super().__init__(*file)

    @property
    def at(self) -> int:
        return getattr(self._place, "at", 0)

    @at.setter
    def at(self, to: int) -> None:
        self._place.at = to
