"""The event log: runs begin, videos are committed once, runs finish."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import LogError
from pipeline.features.kept import write_features
from pipeline.log import rows
from pipeline.log.datafile import ROW_GROUP, Written, write_data_file
from pipeline.log.delta import Delta, create_table
from pipeline.log.entry import Entry, Templates
from pipeline.log.finder import open_finder
from pipeline.log.head import index_path, stem_of, templates_of
from pipeline.log.indexing import Rows, entries_of, index_file
from pipeline.log.keys import Keys
from pipeline.log.protocol import DataFile
from pipeline.log.publisher import Publisher
from pipeline.log.reader import read_rows
from pipeline.log.records import RunRecord, VideoResult
from pipeline.log.schema import EVENTS, NAMES, RECORDS, RUNS, VIDEOS, WINDOWS
from pipeline.log.snapshot import Snapshot
from pipeline.log.store import Store, check_conditional_put, fresh_name, open_store

if TYPE_CHECKING:
    from pipeline.log.check import Problem
    from pipeline.log.compact import Compaction

WINDOW_ROWS = 4096

#: So many names are looked up in the index one by one.
FEW_NAMES = 256


@dataclass(frozen=True, slots=True)
class CommitReport:
    """What one commit did: `committed` video_ids are in the log now, `already` were in it before and were left.
    `file_bytes`: of the data files, and of the features beside them."""

    committed: tuple[str, ...]
    already: tuple[str, ...]
    version: int
    events: int
    file_bytes: int


class EventLog:
    """One event log, for reading and (from one committer per run) writing. Thread-safe; opening writes nothing.

    Exactly once: `commit` writes data files that nobody sees yet, then adds them all in one Delta commit on top of the
    very version whose videos it has checked. If another run committed in between, it looks at what that run added,
    leaves out the videos that are there now, and tries again. A crash at any point leaves at worst data files that
    belong to no version (removed by `vacuum`).
    """

    def __init__(self, store: Store) -> None:
        """Use `open`."""
        self.uri = store.uri
        self._store = store
        self._lock = threading.RLock()
        self._writing: Delta | None = None
        self._checked = False
        self._keys = Keys(store, 0)
        self._runs: dict[str, tuple[RunRecord, DataFile]] = {}
        self._publisher = Publisher(store)
        self._templates = Templates()

    @classmethod
    def open(cls, uri: str, create: bool = False) -> EventLog:
        """Open the log at a local path or an object-store URI (s3://, gs://, az://); with `create`, make it if absent.

        Raises LogError: absent, not a log, another schema version, or (with `create`) a store without conditional put.
        """
        store = open_store(uri)
        if create:
            check_conditional_put(store)
            create_table(store)
        log = cls(store)
        log.snapshot()
        return log

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The newest version of the log, or an earlier one, to read from first to last byte."""
        return Snapshot(self._store, version)

    # -- runs

    def begin_run(self, run: RunRecord) -> None:
        """Write the run's row, with status "running". Raises LogError where the run_id is already there."""
        with self._lock:
            delta = self._writable()
            if run.run_id in self._runs or run.run_id in self._run_ids(delta):
                raise LogError(f"{self.uri}: run {run.run_id} is already in the log; a run needs a new id")
            self._runs[run.run_id] = run, self._replace_run(delta, rows.run_batch(run, "running"), None)

    def take_over_run(
        self, run_id: str, gone: Mapping[str, Any], host: Mapping[str, Any], forecast: Mapping[str, Any] | None = None
    ) -> bool:
        """Go on with a run whose driver is gone: from now on its row is this committer's to finish. `gone`: the `host`
        of the row as the driver left it; `host`: where the run is driven from now; `forecast`: a newer one. False where
        the run is not in the log, has ended, or somebody else was quicker."""
        with self._lock:
            delta = self._writable()
            while True:
                delta.refresh()
                found = next(((f, r) for f, r in self._run_rows(delta) if r["run_id"] == run_id), None)
                if found is None or found[1]["status"] != "running" or json.loads(found[1]["host"]) != gone:
                    return False
                before, row = found
                run = RunRecord(
                    run_id=run_id,
                    config_hash=row["config_hash"],
                    config=json.loads(row["config"]),
                    model=row["model"],
                    weights_hash=row["weights_hash"],
                    code_version=row["code_version"],
                    host=host,
                    started_us=row["started_at_us"],
                    forecast=forecast or json.loads(row["forecast"] or "{}"),
                )
                with self._writing_files():
                    written = self._file("runs", fresh_name(), RUNS, [rows.run_batch(run, "running")])
                    assert written is not None
                    self._store.sync([written.file.path])
                if delta.commit([written.file], [before]):
                    break
                self._store.delete([written.file.path])
            self._keys.learn(delta, own=True)
            self._publisher.publish(delta.version)
            self._runs[run_id] = run, written.file
            return True

    def _run_rows(self, delta: Delta) -> Iterator[tuple[DataFile, dict[str, Any]]]:
        """The rows of runs; each has a file of its own."""
        columns = [field.name for field in RUNS]
        return ((file, row) for file in delta.files("runs") for row in read_rows(self._store, [file], columns))

    def finish_run(self, run_id: str, totals: Mapping[str, Any], status: str) -> None:
        """Replace the run's row by the finished one: `status` ("done", "failed", "stopped"), `totals` as JSON."""
        with self._lock:
            if run_id not in self._runs:
                raise LogError(f"{self.uri}: run {run_id} was not begun here")
            run, before = self._runs[run_id]
            batch = rows.run_batch(run, status, _now_us(), totals)
            self._runs[run_id] = run, self._replace_run(self._writable(), batch, before)

    def _replace_run(self, delta: Delta, batch: pa.RecordBatch, before: DataFile | None) -> DataFile:
        with self._writing_files():
            written = self._file("runs", fresh_name(), RUNS, [batch])
            assert written is not None
            self._store.sync([written.file.path])
        while before is None or before.path in {f.path for f in delta.files("runs")}:
            if delta.commit([written.file], [before] if before else []):
                break
        else:  # taken over while this driver slept: its row is another's
            self._store.delete([written.file.path])
            return before
        self._keys.learn(delta, own=True)
        self._publisher.publish(delta.version)
        return written.file

    def _run_ids(self, delta: Delta) -> set[str]:
        return {row["run_id"] for row in read_rows(self._store, delta.files("runs"), ["run_id"])}

    # -- videos

    def done(self, config_hash: str) -> Mapping[str, str]:
        """video_id -> status of what is committed under a configuration, by any run."""
        with self._lock:
            delta = self._delta()
            delta.refresh()
            self._keys.learn(delta)
            return self._keys.of(delta, config_hash).copy()

    def commit(self, results: Sequence[VideoResult]) -> CommitReport:
        """Put videos into the log, all together: every reader sees all rows of them from one version on.

        Left out, and reported as `already`: a video that is done in the log under the same configuration, or failed
        there for the same reason (by this or another run). A failed one gives way to a new result. Events are written
        in batches, so a video may have any number of them. Raises LogError (nothing of `results` is in the log then).
        """
        with self._lock:
            delta = self._writable()
            already: list[str] = []
            group: list[VideoResult] = []
            there: set[tuple[str, str]] = set()
            for result in results:
                if result.run_id not in self._runs:
                    raise LogError(f"{self.uri}: run {result.run_id} was not begun here")
                key = result.video_id, result.config_hash
                if key in there:
                    already.append(result.video_id)
                else:
                    there.add(key)
                    group.append(result)
            files: list[DataFile] = []
            features: Mapping[str, int] = {}
            while True:
                rest = [r for r in group if not self._stands(delta, r)]
                if len(rest) < len(group) or not files:
                    left = {(r.video_id, r.config_hash) for r in rest}
                    already += [r.video_id for r in group if (r.video_id, r.config_hash) not in left]
                    self._discard(files)
                    group, (files, features) = rest, self._write(rest)
                if not group or delta.commit(files):
                    break
                self._keys.learn(delta)
            self._keys.learn(delta, own=bool(group))
            if group:
                self._publisher.publish(delta.version)
            for r in group:
                self._keys.of(delta, r.config_hash).put(r.video_id, r.status, r.reason)
            committed = tuple(r.video_id for r in group)
            size = sum(f.size_bytes for f in files) + sum(features.values())
            return CommitReport(committed, tuple(already), delta.version, sum(len(r.events) for r in group), size)

    def record_names(self, names: Mapping[str, Iterable[str]]) -> None:
        """Note further names (URIs) of videos in the log; names already noted here or with their video are left."""
        with self._lock:
            delta = self._writable()
            pairs = self._new_names(delta, {(video_id, uri) for video_id, uris in names.items() for uri in uris})
            if not pairs:
                return
            stem = fresh_name()
            with self._writing_files(stem):
                written = self._file("names", stem, NAMES, [rows.name_batch(sorted(pairs))])
                assert written is not None
                self._index(stem, (), pairs)
                self._store.sync([written.file.path])
            while not delta.commit([written.file]):
                pass
            self._keys.learn(delta, own=True)
            self._publisher.publish(delta.version)

    def _new_names(self, delta: Delta, pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those that the log does not have: a few are asked of the index, many looked for in the rows."""
        if len(pairs) <= FEW_NAMES:
            finder = open_finder(self._store)
            return {pair for pair in pairs if pair not in finder.named(pair[1])}
        for row in read_rows(self._store, delta.files("names"), ["video_id", "uri"]):
            pairs.discard((row["video_id"], row["uri"]))
        for row in read_rows(self._store, delta.files("videos"), ["video_id", "uris"]):
            pairs.difference_update((row["video_id"], uri) for uri in row["uris"])
        return pairs

    def _write(self, group: Sequence[VideoResult]) -> tuple[list[DataFile], Mapping[str, int]]:
        """Write a group's data files, invisible until committed, and features (path -> bytes)."""
        if not group:
            return [], {}
        stem, now_us = fresh_name(), _now_us()
        group = sorted(group, key=attrgetter("video_id"))
        models = {run_id: run.model for run_id, (run, _) in self._runs.items()}
        noted = Rows()
        with self._writing_files(stem):
            events = self._file("events", stem, EVENTS, noted.of(rows.event_batches(group, models, ROW_GROUP)))
            windows = self._file("windows", stem, WINDOWS, rows.window_batches(group, models, WINDOW_ROWS))
            videos = self._file("videos", stem, VIDEOS, [rows.video_batch(group, now_us)])
            spans = noted.spans(stem, events.footer) if events else {}
            self._index(stem, entries_of(group, spans, now_us), ())
            files = [written.file for written in (events, windows, videos) if written is not None]
            features = write_features(self._store, stem, group)
            self._store.sync([*(f.path for f in files), *features])
        return files, features

    def _index(self, stem: str, entries: Iterable[Entry], names: Iterable[tuple[str, str]]) -> None:
        """Write the index file of a group, before its commit."""
        templates = Templates(self._templates.all())
        _, data = index_file(entries, names, templates)
        self._templates = templates
        self._store.create(index_path(stem), data)
        self._publisher.own[stem] = data

    @contextlib.contextmanager
    def _writing_files(self, stem: str = "") -> Iterator[None]:
        """Around the writing of the files of that stem: where it fails, none of them stays."""
        try:
            yield
        except OSError as error:
            if stem:
                self._store.delete([index_path(stem), *(f"record={record}/{stem}.parquet" for record in RECORDS)])
            raise LogError(
                f"{self.uri}: cannot write: {error.strerror or error}; nothing of this group is in the log, what was"
                " committed before is"
            ) from error

    def _file(self, record: str, stem: str, schema: pa.Schema, batches: Iterable[Any]) -> Written | None:
        return write_data_file(self._store, record, stem, schema, batches)

    def _discard(self, files: Sequence[DataFile]) -> None:
        """Delete files that were not committed."""
        for stem in {stem_of(f.path) for f in files}:
            self._publisher.own.pop(stem, None)
            self._store.delete([index_path(stem)])
        self._store.delete([f.path for f in files])

    def _stands(self, delta: Delta, result: VideoResult) -> bool:
        return self._keys.of(delta, result.config_hash).stands_against(result)

    # -- upkeep

    def compact(self, progress: Callable[[str], None] = lambda _: None) -> Compaction:
        """Merge small files into sorted ones, and make the index anew; may run beside runs and readers."""
        from pipeline.log.compact import compact

        return compact(self._store, progress)

    def vacuum(self, hours: int = 168, dry_run: bool = False) -> list[str]:
        """Delete files that no version younger than `hours` needs (`dry_run`: only name them); returns their paths."""
        from pipeline.log.compact import vacuum

        return vacuum(self._store, hours, dry_run)

    def check(self, deep: bool = True) -> list[Problem]:
        """What is wrong with the log, and which videos each fault concerns; `deep` reads every data file whole."""
        from pipeline.log.check import check

        return check(self._store, deep)

    # -- what is already there

    def _delta(self) -> Delta:
        """The table as this committer sees it; opened when first needed."""
        if self._writing is None:
            self._writing = Delta(self._store)
            self._keys = Keys(self._store, self._writing.version)
        return self._writing

    def _writable(self) -> Delta:
        """The same, to be written to."""
        delta = self._delta()
        if not self._checked:
            check_conditional_put(self._store)
            delta.add_missing_columns()
            self._templates = templates_of(self._store)
            self._checked = True
        return delta


def _now_us() -> int:
    return time.time_ns() // 1000
