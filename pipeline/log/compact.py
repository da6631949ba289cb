"""Upkeep: merging small files into sorted ones while runs write and readers read, and removing what no version needs.

A compaction changes no row, and nothing in place: it writes new files, then one commit swaps them for the old ones,
which stay for readers of earlier versions until `vacuum`. Runs that commit meanwhile are in nobody's way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LogError, UsageError
from pipeline.features.kept import unused_files
from pipeline.kept import forgotten_files
from pipeline.log.datafile import ROW_GROUP, Written, write_data_file
from pipeline.log.delta import Delta
from pipeline.log.entry import Entry, Span, Templates
from pipeline.log.finder import DAMAGE, IndexFinder
from pipeline.log.head import HEAD, Head, advance, index_path, load, stem_of, write_catalog
from pipeline.log.indexing import Owner, Rows, index_file
from pipeline.log.protocol import PARTITION, DataFile, is_ours
from pipeline.log.publisher import CLAIM, Publisher
from pipeline.log.reader import damaged, read_record, read_rows, read_table
from pipeline.log.scan import VIDEO_COLUMNS, entry_of, file_spans
from pipeline.log.schema import EVENTS, RECORDS
from pipeline.log.store import Store, check_conditional_put, fresh_name
from pipeline.log.thrift import alone

#: Events in a compacted file; files of half as many are left as they are.
TARGET_ROWS = 1_000_000

#: Bytes of a compacted file of another record.
TARGET_BYTES = 64 << 20

#: Files younger than this may belong to a commit under way.
SAFE_HOURS = 1


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    version: int


def compact(store: Store, progress: Callable[[str], None] = lambda _: None) -> Compaction:
    """Merge small data files, and make the index anew. Raises LogError (the log is then as it was)."""
    check_conditional_put(store)
    delta = Delta(store)
    snapshot, version = delta.files(), delta.version
    # A run's row is replaced by its committer when it ends: those files, one per run, are left alone.
    old = {record: _small([f for f in snapshot if f.record == record]) for record in RECORDS if record != "runs"}
    removed = [f for files in old.values() for f in files]
    going = {f.path for f in removed}
    kept = [f for f in snapshot if f.path not in going]
    new: list[Written] = []
    spans: dict[Owner, list[Span]] = {}
    try:
        for record in ("windows", "videos", "names"):
            progress(f"{record}: {len(old[record])} files")
            new += _merge_rows(store, record, old[record])
        for written, found in _merge_events(store, old["events"], progress):
            new.append(written)
            spans.update(found)
        added = [w.file for w in new]
        store.sync([f.path for f in added])
        progress("index")
        indexed = _index_of_merged(store, version, new, spans)
    except BaseException as error:
        store.delete([path for w in new for path in (w.file.path, index_path(stem_of(w.file.path)))])
        if isinstance(error, OSError):
            said = f"{store.uri}: cannot write: {error.strerror or error}; the log is as it was"
            raise LogError(said) from error
        raise
    if removed:  # a failure from here on leaves the new files: the commit may be there although its answer was lost
        _swap(delta, added, removed)
    publisher = Publisher(store)
    publisher.publish(delta.version)
    head = publisher.head()
    if indexed and head is not None and head.version >= delta.version and not (head.stale or head.unindexed):
        publisher.merge(everything=True)
    else:
        _rebuild_index(store, version, [*kept, *added], spans, delta.version)
    return Compaction(
        files_before=len(snapshot),
        files_after=len(kept) + len(added),
        bytes_before=sum(f.size_bytes for f in snapshot),
        bytes_after=sum(f.size_bytes for f in [*kept, *added]),
        version=delta.version,
    )


def _small(files: Sequence[DataFile]) -> list[DataFile]:
    """The files worth merging: those below half the target, if there are several, and those that others wrote."""

    def large(f: DataFile) -> bool:
        return f.rows >= TARGET_ROWS // 2 if f.record == "events" else f.size_bytes >= TARGET_BYTES // 2

    foreign = [f for f in files if not is_ours(f.path)]
    small = [f for f in files if is_ours(f.path) and not large(f)]
    return foreign + small if len(small) > 1 or foreign else []


def _swap(delta: Delta, added: Sequence[DataFile], removed: Sequence[DataFile]) -> None:
    while not delta.commit(added, removed, compacts=True):
        there = {f.path for f in delta.files()}
        gone = [f.path for f in removed if f.path not in there]
        if gone:
            raise LogError(f"{delta.store.uri}: another process replaced {gone[0]} meanwhile; compact again")


def _merge_rows(store: Store, record: str, files: Sequence[DataFile]) -> Iterator[Written]:
    """The rows of small files of videos, windows or names in one file (or a few), by video."""
    schema = RECORDS[record]
    group: list[pa.Table] = []
    size = 0
    for i, file in enumerate(files):
        group.append(read_table(store, file))
        size += file.size_bytes
        if size >= TARGET_BYTES or i == len(files) - 1:
            keys = [(c, "ascending") for c in ("video_id", "run_id", "window", "uri") if c in schema.names]
            table = pa.concat_tables(group).sort_by(keys).combine_chunks()
            batches = table.to_batches(max_chunksize=16_384)
            written = write_data_file(store, record, fresh_name(), schema, batches)
            if written is not None:
                yield written
            group, size = [], 0


def _merge_events(
    store: Store, files: Sequence[DataFile], progress: Callable[[str], None]
) -> Iterator[tuple[Written, dict[Owner, list[Span]]]]:
    """The events of `files` in files of about TARGET_ROWS, by video, run and start; with the spans of each."""
    where: dict[Owner, list[Span]] = {}
    for i, file in enumerate(files):
        progress(f"events: looking into file {i + 1} of {len(files)}")
        for owner, spans in file_spans(store, file).items():
            # Once: the same rows in two files would be a fault of other writers, which --check reports.
            where.setdefault(owner, []).extend(spans)
    owners = sorted(where)
    at = 0
    while at < len(owners):
        rows, end = 0, at
        while end < len(owners) and (rows == 0 or rows < TARGET_ROWS):
            rows += sum(s.rows for s in where[owners[end]])
            end += 1
        progress(f"events: video {end} of {len(owners)}")
        noted = Rows()
        stem = fresh_name()
        batches = noted.of(_sorted_batches(store, {o: where[o] for o in owners[at:end]}))
        written = write_data_file(store, "events", stem, EVENTS, batches)
        assert written is not None
        yield written, noted.spans(stem, written.footer)
        at = end


def _sorted_batches(store: Store, where: Mapping[Owner, Sequence[Span]]) -> Iterator[pa.RecordBatch]:
    """The rows of the owners in order, in batches of ROW_GROUP.

    Row groups are read file by file, each once; an owner with very many rows is streamed.
    """
    pending: list[pa.Table] = []
    count = 0
    for tables in _owner_tables(store, where):
        pending.append(tables)
        count += tables.num_rows
        if count >= ROW_GROUP:
            whole = pa.concat_tables(pending).combine_chunks()
            full = count - count % ROW_GROUP
            yield from whole.slice(0, full).to_batches(max_chunksize=ROW_GROUP)
            pending, count = ([whole.slice(full)] if count > full else []), count - full
    if count:
        yield from pa.concat_tables(pending).combine_chunks().to_batches(max_chunksize=ROW_GROUP)


def _owner_tables(store: Store, where: Mapping[Owner, Sequence[Span]]) -> Iterator[pa.Table]:
    groups: dict[tuple[str, int], list[tuple[Owner, int, Span]]] = {}
    for owner, spans in where.items():
        for number, span in enumerate(spans):
            groups.setdefault((span.path, span.offset), []).append((owner, number, span))
    large = sum(s.rows for spans in where.values() for s in spans) > 4 * TARGET_ROWS
    held: dict[tuple[Owner, int], pa.Table] = {}
    if not large:
        for of_group in groups.values():
            table = read_row_group(store, of_group[0][2])
            for owner, number, span in of_group:
                held[owner, number] = table.slice(span.row, span.rows)
    for owner, spans in where.items():
        for number, span in enumerate(spans):
            if large:
                yield read_row_group(store, span).slice(span.row, span.rows)
            else:
                yield held.pop((owner, number))


def read_row_group(store: Store, span: Span) -> pa.Table:
    """The whole row group of a span, with exactly the columns of `events`."""
    try:
        body = store.read(span.path, span.offset, span.length)
        found = pq.read_table(pa.BufferReader(alone(body, span.footer)), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise damaged(store, DataFile(span.path, "events", 0, 0), error) from error
    have = set(found.column_names)
    columns = [found[f.name] if f.name in have else pa.nulls(found.num_rows, f.type) for f in EVENTS]
    return pa.table(columns, names=EVENTS.names).cast(EVENTS)


# -- the index


def _index_of_merged(store: Store, version: int, new: Sequence[Written], spans: Mapping[Owner, Sequence[Span]]) -> bool:
    """Write an index file beside each new file of events: the entries of its owners, which now lie there.

    False where the index of the log is of no use, and has to be made anew.
    """
    published = load(store)
    head = advance(published[0], store, max(version, published[0].version)) if published is not None else None
    if head is None or head.stale or head.unindexed:
        return False
    by_file: dict[str, list[Entry]] = {stem_of(w.file.path): [] for w in new if w.file.record == "events"}
    try:
        for entry in IndexFinder(store, head).all():  # all of them: damage anywhere in the index is found, and mended
            now = spans.get((entry.video_id, entry.run_id))
            if now:
                by_file[now[0].file].append(replace(entry, spans=tuple(now)))
    except DAMAGE:
        return False
    if sum(map(len, by_file.values())) != len(spans):  # an owner that the index does not know
        return False
    templates = Templates()
    for stem, entries in by_file.items():
        store.create(index_path(stem), index_file(entries, (), templates)[1])
    return True


def _rebuild_index(
    store: Store, version: int, files: Sequence[DataFile], spans: Mapping[Owner, list[Span]], until: int
) -> None:
    """Publish an index of `files`, which hold the rows of `version`, brought up to version `until`.

    `spans`: what is known of some files already; of the others the old index is asked, then the files themselves.
    """
    found = dict(spans)
    known = {span.file for of_owner in spans.values() for span in of_owner}
    wanted = {stem_of(f.path): f for f in files if f.record == "events" and stem_of(f.path) not in known}
    indexed: set[str] = set()
    published = load(store)
    if wanted and published is not None and not published[0].stale:
        try:
            for entry in IndexFinder(store, published[0]).all():
                stems = {s.file for s in entry.spans}
                if stems and stems <= wanted.keys():
                    found[entry.video_id, entry.run_id] = list(entry.spans)
                    indexed |= stems
        except DAMAGE:
            indexed.clear()
    for stem, file in wanted.items():
        if stem not in indexed:
            found.update(file_spans(store, file))
    rows = read_rows(store, [f for f in files if f.record == "videos"], VIDEO_COLUMNS)
    names: dict[str, list[str]] = {}
    for row in read_rows(store, [f for f in files if f.record == "names"], ["video_id", "uri"]):
        names.setdefault(row["video_id"], []).append(row["uri"])
    entries = (entry_of(row, names.get(row["video_id"], ()), found) for row in rows)
    head = Head(version, (write_catalog(store, index_file(entries, (), Templates())[1]),))
    while True:
        published = load(store)
        ahead = advance(head, store, max(until, published[0].version if published else 0))
        if ahead is None:
            raise LogError(f"{store.uri}: commits vanished while the index was made; compact again")
        tag = published[1] if published else None
        if store.swap(HEAD, ahead.pack(), tag) is not None:
            return


# -- vacuum


def vacuum(store: Store, hours: int = 168, dry_run: bool = False, safe_hours: int = SAFE_HOURS) -> list[str]:
    """Delete the files that no version younger than `hours` needs, vision features of nothing in the log, and windows
    kept of videos that were not done for a month; returns their paths. `dry_run`: only name them.

    Earlier versions whose files are deleted can no longer be read. Raises UsageError for an age below `safe_hours`:
    younger files may belong to a commit that is under way.
    """
    if hours < safe_hours:
        raise UsageError(f"files younger than {safe_hours} h may belong to a commit under way: give more than {hours}")
    delta = Delta(store)
    if not dry_run and _index_needs(store) - {f.path for f in delta.files("events")}:
        compact(store)  # others have compacted: the index still points to the files they replaced
    removed = delta.vacuum(hours, dry_run)
    before = time.time() - hours * 3600
    columns = ["video_id", "run_id"]
    features = unused_files(store, lambda: read_record(store, delta.files("videos"), "videos", columns), before)
    old_windows = forgotten_files(store)
    if not dry_run:
        store.delete([*features, *old_windows])
    removed += [*features, *old_windows]
    published = load(store)
    if published is not None:
        used = {HEAD, HEAD + ".lock", *(index_path(t.stem) for t in published[0].tail)}
        used |= {CLAIM, CLAIM + ".lock", *(c.path for c in published[0].catalogs)}
        old = [path for path, _, changed in store.list("_index") if path not in used and changed < before]
        for folder in ("_delta_log", *(f"{PARTITION}={record}" for record in RECORDS)):  # left by killed writers
            listed = store.list(folder)
            old += [path for path, _, changed in listed if path.endswith(".tmp") and changed < before]
        removed += old
        if not dry_run:
            store.delete(old)
    return removed


def _index_needs(store: Store) -> set[str]:
    published = load(store)
    if published is None or published[0].stale:
        return set()
    try:
        return {span.path for entry in IndexFinder(store, published[0]).all() for span in entry.spans}
    except DAMAGE:
        return {"?"}
