"""One version of the log, read from first to last byte."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.log.delta import Delta
from pipeline.log.protocol import DataFile
from pipeline.log.reader import read_record
from pipeline.log.store import Store


class Snapshot:
    """The log at one version. Later commits and compactions do not change what it reads."""

    def __init__(self, store: Store, version: int | None = None) -> None:
        self.store = store
        self._delta = Delta(store, version)
        self.version = self._delta.version
        self._files: dict[str, list[DataFile]] | None = None

    def files(self, record: str) -> list[DataFile]:
        """The data files of one kind of record."""
        if self._files is None:
            self._files = {}
            for file in self._delta.files():
                self._files.setdefault(file.record, []).append(file)
        return self._files.get(record, [])

    def table(self, record: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of one kind of record (pipeline/log/schema.py). Meant for the small ones: not for events."""
        return read_record(self.store, self.files(record), record, columns)
