"""The Delta table under the event log, through delta-rs: create, open, read the list of files, commit optimistically.

Format: the Delta transaction protocol (PROTOCOL.md of delta-io/delta): numbered JSON commits in `_delta_log/`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.errors import LogError
from pipeline.log.protocol import PARTITION, DataFile, commit_path, read_commit
from pipeline.log.schema import SCHEMA_KEY, SCHEMA_VERSION, table_schema
from pipeline.log.store import Store


def create_table(store: Store) -> None:
    """Create the empty table; leaves one that is already there as it is."""
    if not store.uri.startswith(("s3", "gs", "az", "abfs")):
        import os

        os.makedirs(store.uri, exist_ok=True)
    try:
        DeltaTable.create(
            store.uri,
            schema=table_schema(),
            mode="ignore",
            partition_by=[PARTITION],
            name="secondsight",
            description="Secondsight event log",
            configuration={SCHEMA_KEY: str(SCHEMA_VERSION), "delta.checkpointInterval": "100"},
            storage_options=store.options(),
            raise_if_key_not_exists=False,
        )
    except (DeltaError, OSError) as error:
        raise LogError(f"{store.uri}: cannot create an event log here: {_said(error)}") from error


class Delta:
    """The table at one version; `refresh` moves on to the newest."""

    def __init__(self, store: Store, version: int | None = None) -> None:
        """Open at `version` (default: newest). Raises LogError: absent, not an event log, another schema version."""
        self.store = store
        try:
            self._table = DeltaTable(store.uri, version=version, storage_options=store.options())
            configuration = self._table.metadata().configuration
        except TableNotFoundError as error:
            raise LogError(f"{store.uri}: there is no event log here") from error
        except (DeltaError, OSError, ValueError) as error:
            asked = "" if version is None else f" at version {version}"
            raise LogError(f"{store.uri}: cannot open the event log{asked}: {_said(error)}") from error
        found = configuration.get(SCHEMA_KEY)
        if found is None:
            raise LogError(f"{store.uri}: a Delta table, but not an event log of Secondsight")
        if found != str(SCHEMA_VERSION):
            raise LogError(
                f"{store.uri}: schema version {found}, this code reads {SCHEMA_VERSION}; use the release that wrote it"
            )

    @property
    def version(self) -> int:
        return int(self._table.version())

    def refresh(self) -> None:
        """Move on to the newest version."""
        try:
            self._table.update_incremental()
        except (DeltaError, OSError) as error:
            raise LogError(f"{self.store.uri}: cannot read the newest commits: {_said(error)}") from error

    def files(self, record: str | None = None) -> list[DataFile]:
        """The data files of this version (of one kind of record)."""
        actions = self._table.get_add_actions(flatten=True)
        names = set(actions.schema.names)
        columns = [
            actions[name].to_pylist() if name in names else [None] * actions.num_rows
            for name in ("path", "partition.record", "size_bytes", "num_records", "min.video_id", "max.video_id")
        ]
        found = [
            DataFile(unquote(path), kind, int(size), int(rows or 0), first or "", last or "")
            for path, kind, size, rows, first, last in zip(*columns, strict=True)
            if record is None or kind == record
        ]
        return sorted(found, key=lambda f: f.path)

    def add_missing_columns(self) -> None:
        """Give a table written by older code of the same schema version the columns that came since (all nullable)."""
        import pyarrow as pa
        from deltalake import Schema

        have = {field.name for field in self._table.schema().fields}
        missing = [field for field in table_schema() if field.name not in have]
        if missing:
            self._table.alter.add_columns(Schema.from_arrow(pa.schema(missing)).fields)
            self.refresh()

    def commit(self, add: Sequence[DataFile], remove: Sequence[DataFile] = (), compacts: bool = False) -> bool:
        """Make `add` appear and `remove` vanish as version + 1, and move there; False if that version is taken.

        Never merges with a commit made meanwhile: the caller looks at what came in between and decides.
        """
        now = int(time.time() * 1000)
        actions: list[Any] = [
            AddAction(f.path, f.size_bytes, {PARTITION: f.record}, now, not compacts, _stats(f)) for f in add
        ]
        actions += [
            RemoveAction(
                path=f.path,
                data_change=not compacts,
                deletion_timestamp=now,
                partition_values={PARTITION: f.record},
                size=f.size_bytes,
            )
            for f in remove
        ]
        before = self.version
        try:
            self._table.create_write_transaction(
                actions, "append", self._table.schema(), [PARTITION], commit_properties=CommitProperties(None, 0)
            )
        except CommitFailedError as error:
            self.refresh()
            if self.version == before:
                raise LogError(f"{self.store.uri}: cannot commit version {before + 1}: {_said(error)}") from error
            return self._is_ours(before + 1, add, remove)
        except (DeltaError, OSError) as error:
            raise LogError(f"{self.store.uri}: cannot commit version {before + 1}: {_said(error)}") from error
        self.store.sync([commit_path(before + 1)])
        self.refresh()
        return True

    def _is_ours(self, version: int, add: Sequence[DataFile], remove: Sequence[DataFile]) -> bool:
        """Whether a commit that seemed to be refused is there: a put whose answer was lost is refused when repeated."""
        there = read_commit(self.store, version)
        if there is None:
            return False
        return {f.path for f in add} <= {f.path for f in there.added} and {f.path for f in remove} <= set(there.removed)

    def vacuum(self, hours: float, dry_run: bool) -> list[str]:
        """Delete (with `dry_run`: only name) data files that no version younger than `hours` needs."""
        try:
            return list(self._table.vacuum(int(hours), dry_run=dry_run, enforce_retention_duration=False, full=True))
        except (DeltaError, OSError) as error:
            raise LogError(f"{self.store.uri}: cannot vacuum: {_said(error)}") from error

    def checkpoint(self) -> None:
        """Write a checkpoint of this version, which makes opening the table fast."""
        self._table.create_checkpoint()


def _stats(file: DataFile) -> str:
    bounds = {"video_id": file.first_video}, {"video_id": file.last_video}
    low, high = bounds if file.first_video else ({}, {})
    return json.dumps({"numRecords": file.rows, "minValues": low, "maxValues": high, "nullCount": {}})


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
