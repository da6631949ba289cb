"""The Delta table under the event log: made, opened, listed and checkpointed by delta-rs, committed to optimistically.

Format: the Delta transaction protocol (PROTOCOL.md of delta-io/delta): numbered JSON commits in `_delta_log/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipeline.errors import LogError
from pipeline.log.localstore import LocalStore
from pipeline.log.protocol import PARTITION, DataFile, commit_path, missing_commits, read_commit
from pipeline.log.schema import SCHEMA_KEY, TABLE_VERSION, table_schema
from pipeline.log.store import Store


def create_table(store: Store) -> None:
    """Create the empty table; leaves one that is already there as it is."""
    try:
        if isinstance(store, LocalStore):
            os.makedirs(store.root, exist_ok=True)
        DeltaTable.create(
            store.uri,
            schema=table_schema(),
            mode="ignore",
            partition_by=[PARTITION],
            name="secondsight",
            description="Secondsight event log",
            configuration={SCHEMA_KEY: str(TABLE_VERSION)},
            storage_options=store.options(),
            raise_if_key_not_exists=False,
        )
    except (DeltaError, OSError) as error:
        raise LogError(f"{store.uri}: cannot create an event log here: {_said(error)}") from error


#: Commits between checkpoints.
CHECKPOINT_EVERY = 100

#: Commits that are looked through for damage when a table does not open: those since the last checkpoint or two.
LOOKED_AT = 2 * CHECKPOINT_EVERY

#: After so long without a look, the newest version is listed, not looked for commit by commit: old commits may have
#: been cleaned up by others, and a version below the newest must never be written.
LISTING_S = 3600.0


class Delta:
    """The table at one version; `refresh` moves on to the newest."""

    def __init__(self, store: Store, version: int | None = None) -> None:
        """Open at `version` (default: newest). Raises LogError: absent, not an event log, another schema version."""
        self.store = store
        self._open(version)

    def _open(self, version: int | None = None) -> None:
        uri = self.store.uri
        if version is not None and not 0 <= version < 2**63:
            raise LogError(f"{uri}: there is no version {version}; the first is 0")
        try:
            self._table = DeltaTable(uri, version=version, storage_options=self.store.options())
            configuration, protocol = self._table.metadata().configuration, self._table.protocol()
        except TableNotFoundError as error:
            raise LogError(f"{uri}: there is no event log here") from error
        except (DeltaError, OSError, ValueError) as error:
            asked = "" if version is None else f" at version {version}"
            gone = [commit_path(v) for v in missing_commits(self.store)[:3]]
            why = f"{', '.join(gone)} missing: put back from a copy" if gone else _damage(self.store) or _said(error)
            raise LogError(f"{uri}: cannot open the event log{asked}: {why}") from error
        found = configuration.get(SCHEMA_KEY)
        if found is None:
            raise LogError(f"{uri}: a Delta table, but not an event log of Secondsight")
        if found != str(TABLE_VERSION):
            raise LogError(
                f"{uri}: schema version {found}, this code reads {TABLE_VERSION}; use the release that wrote it"
            )
        if protocol.min_reader_version > 1 or protocol.min_writer_version > 2:
            raise LogError(
                f"{uri}: others have switched on Delta features (reader version {protocol.min_reader_version}, writer"
                f" version {protocol.min_writer_version}) that this code does not know"
            )
        self.version = int(self._table.version())
        self._refreshed = time.monotonic()

    def refresh(self) -> None:
        """Move on to the newest version."""
        if time.monotonic() - self._refreshed > LISTING_S:
            self._open()
            return
        self._refreshed = time.monotonic()
        while (commit := read_commit(self.store, self.version + 1)) is not None:
            if commit.changes_table:
                self._open()
                return
            self.version += 1

    def files(self, record: str | None = None) -> list[DataFile]:
        """The data files of this version, or of a later one if `refresh` has been called (of one kind of record)."""
        if self._table.version() < self.version:
            try:
                self._table = self._newest()  # see `_checkpoint`
            except (DeltaError, OSError) as error:
                raise LogError(f"{self.store.uri}: cannot read the newest commits: {_said(error)}") from error
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
            self._open()

    def commit(self, add: Sequence[DataFile], remove: Sequence[DataFile] = (), compacts: bool = False) -> bool:
        """Make `add` appear and `remove` vanish as version + 1, and move there; False if that version is taken.

        Never merges with a commit made meanwhile: the caller looks at what came in between and decides. The commit is
        written here, as one put of an object that must not exist yet: delta-rs first brings its list of files up to
        date, which takes 17 us for each file in the table and several requests (measured with 30 000 files).
        """
        if time.monotonic() - self._refreshed > LISTING_S:
            before = self.version
            self._open()
            if self.version != before:
                return False
        now, operation = int(time.time() * 1000), "OPTIMIZE" if compacts else "WRITE"
        info = {"timestamp": now, "operation": operation, "operationParameters": {}, "engineInfo": "secondsight"}
        actions: list[dict[str, Any]] = [{"commitInfo": info}]
        for f in remove:
            said = {"path": f.path, "deletionTimestamp": now, "dataChange": not compacts, "size": f.size_bytes}
            actions.append({"remove": said | {"extendedFileMetadata": True, "partitionValues": {PARTITION: f.record}}})
        for f in add:
            said = {"path": f.path, "modificationTime": now, "dataChange": not compacts, "size": f.size_bytes}
            actions.append({"add": said | {"partitionValues": {PARTITION: f.record}, "stats": _stats(f)}})
        path = commit_path(self.version + 1)
        try:
            taken = not self.store.create(path, "".join(json.dumps(a) + "\n" for a in actions).encode())
            if taken and not self._is_ours(self.version + 1, add, remove):
                self.refresh()
                return False
            self.store.sync([path])
        except OSError as error:
            raise LogError(f"{self.store.uri}: cannot commit version {self.version + 1}: {_said(error)}") from error
        self.version += 1
        self._refreshed = time.monotonic()
        if self.version % CHECKPOINT_EVERY == 0:
            self._checkpoint()
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

    def _newest(self) -> DeltaTable:
        return DeltaTable(self.store.uri, storage_options=self.store.options())

    def _checkpoint(self) -> None:
        """Sum up the commits so far in a Parquet file, from which the table opens fast. Without it, it opens slowly."""
        # By a table of its own, let go of afterwards: one that is brought up to date commit by commit keeps 140 KB of
        # memory for each of them (delta-rs 1.6, measured), 12 GB in a day of one a second.
        with contextlib.suppress(DeltaError, OSError):
            self._newest().create_checkpoint()


def _stats(file: DataFile) -> str:
    bounds = {"video_id": file.first_video}, {"video_id": file.last_video}
    low, high = bounds if file.first_video else ({}, {})
    return json.dumps({"numRecords": file.rows, "minValues": low, "maxValues": high, "nullCount": {}})


def _damage(store: Store) -> str:
    """Which of the last commits cannot be read, and why; "" where all can."""
    names = [path.rsplit("/", 1)[-1] for path, _, _ in store.list("_delta_log")]
    for name in sorted(n for n in names if len(n) == 25 and n.endswith(".json") and n[:20].isdigit())[-LOOKED_AT:]:
        try:
            read_commit(store, int(name[:20]))
        except LogError as error:
            return f"{str(error).removeprefix(store.uri + '/')}: put it back from a copy"
    return ""


def _said(error: BaseException) -> str:
    said = str(error).partition("\n\n")[0]  # delta-rs adds where in its own code it was
    return " ".join(re.sub(r"\s+0: <unknown>.*", "", said, flags=re.DOTALL).split())[:300] or type(error).__name__
