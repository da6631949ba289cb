"""Looking for damage: what is wrong, in which file, and which videos to run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LogError
from pipeline.log.compact import compact
from pipeline.log.datafile import ROW_GROUP, write_data_file
from pipeline.log.delta import Delta
from pipeline.log.entry import Entry
from pipeline.log.finder import DAMAGE, IndexFinder, scan_finder
from pipeline.log.head import DAMAGED, HEAD, load
from pipeline.log.indexing import Owner
from pipeline.log.protocol import PARTITION, DataFile, commit_path, missing_commits
from pipeline.log.reader import read_table
from pipeline.log.schema import RECORDS
from pipeline.log.store import Store, fresh_name


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: the file (or "" for the log as a whole), what is wrong, and the names of the videos it concerns."""

    path: str
    what: str
    videos: tuple[str, ...] = ()
    owners: tuple[Owner, ...] = ()  # the same videos as (video_id, run_id)


def check(store: Store, deep: bool = True) -> list[Problem]:
    """Every fault found, none if the log is sound. `deep` reads all data files whole, else only what is small."""
    problems = _commits(store)
    try:
        files = Delta(store).files()
    except LogError as error:
        return [*problems, Problem("", str(error))]
    entries = _index(store, problems)
    in_file: dict[str, set[Owner]] = {}
    for owner, entry in entries.items():
        for span in entry.spans:
            in_file.setdefault(span.path, set()).add(owner)
    sizes = {path: size for record in RECORDS for path, size, _ in store.list(f"record={record}")}
    seen: dict[str, Counter[Owner]] = {record: Counter() for record in RECORDS}  # rows of each video and run
    places: dict[Owner, set[str]] = {}
    said: dict[Owner, dict[str, Any]] = {}
    faults: list[tuple[DataFile, str]] = []
    for file in files:
        fault, table = _fault(file, sizes.get(file.path)), None
        if fault is None and (deep or file.record in ("videos", "runs", "names")):
            table, fault = _read(store, file)
        if fault is not None:
            faults.append((file, fault))
        elif table is not None and "run_id" in table.column_names and "video_id" in table.column_names:
            rows = Counter(zip(table["video_id"].to_pylist(), table["run_id"].to_pylist(), strict=True))
            seen[file.record] += rows
            if file.record == "events":
                for owner in rows:
                    places.setdefault(owner, set()).add(file.path)
            if file.record == "videos":
                listed = table.select(["video_id", "run_id", "config_hash", "status", "events", "windows"]).to_pylist()
                said.update(((row["video_id"], row["run_id"]), row) for row in listed)
    lost = {
        "videos": entries.keys() - seen["videos"].keys(),
        "windows": {owner for owner, row in said.items() if row["windows"]} - seen["windows"].keys(),
    }
    for file, fault in faults:
        concerned = in_file.get(file.path, set()) if file.record == "events" else lost.get(file.record, set())
        problems.append(_problem(file.path, fault, concerned, entries))
    done = Counter((row["video_id"], row["config_hash"]) for row in said.values() if row["status"] == "done")
    problems += [
        Problem("", f"video {video_id} is done {count} times under configuration {config}")
        for (video_id, config), count in done.items()
        if count > 1
    ]
    if deep and not any(file.record in ("events", "videos") for file, _ in faults):
        problems += _counts(said, seen["events"], places, entries)
    return problems


def forget(store: Store, problems: Iterable[Problem]) -> list[str]:
    """Take the videos that faults concern out of the log, so that the next run watches them again; their names.

    One commit removes the damaged files and replaces the sound ones that hold rows of those videos; then the index is
    made anew. Files are not deleted (`vacuum` does), and the version before stays what it was.
    """
    problems = [p for p in problems if p.path.startswith(PARTITION) or p.owners]
    owners = {owner for p in problems for owner in p.owners}
    bad = {p.path for p in problems if p.path}
    if not owners and not bad:
        return []
    delta = Delta(store)
    removed, added = [], []
    for file in delta.files():
        if file.path in bad:
            removed.append(file)
        elif file.record in ("events", "windows", "videos"):
            table = read_table(store, file)
            pairs = zip(table["video_id"].to_pylist(), table["run_id"].to_pylist(), strict=True)
            kept = [i for i, pair in enumerate(pairs) if pair not in owners]
            if len(kept) < table.num_rows:
                removed.append(file)
                batches = table.take(pa.array(kept, pa.int64())).combine_chunks().to_batches(max_chunksize=ROW_GROUP)
                written = write_data_file(store, file.record, fresh_name(), table.schema, batches)
                added += [written.file] if written is not None else []
    store.sync([f.path for f in added])
    if not delta.commit(added, removed):
        raise LogError(f"{store.uri}: a run committed meanwhile: ask for it again when no run is writing")
    compact(store)
    return sorted({name for p in problems for name in p.videos})


def _commits(store: Store) -> list[Problem]:
    """Commits missing between those that are there."""
    paths = [path.rsplit("/", 1)[-1] for path, _, _ in store.list("_delta_log")]
    checkpoint = max((int(p[:20]) for p in paths if ".checkpoint" in p and p[:20].isdigit()), default=-1)
    return [
        Problem(
            commit_path(v), "this commit is missing" + (" (a later checkpoint holds it)" if v <= checkpoint else "")
        )
        for v in missing_commits(store)
    ]


def _index(store: Store, problems: list[Problem]) -> dict[Owner, Entry]:
    """What the index holds, or the data files where it is damaged."""
    hint = "`secondsight log LOG --compact` makes the index again; until then answers are slower"
    published = load(store)
    if published is None or published[0] is DAMAGED:
        problems.append(Problem(HEAD, f"the index is missing or damaged; {hint}"))
    else:
        try:
            head = published[0]
            return {(entry.video_id, entry.run_id): entry for entry in IndexFinder(store, head).all()}
        except DAMAGE as error:
            problems.append(Problem("_index", f"the index is damaged: {error}; {hint}"))
    try:
        return {(entry.video_id, entry.run_id): entry for entry in scan_finder(store).all()}
    except LogError:  # a damaged data file, which is named by itself
        return {}


def _fault(file: DataFile, size: int | None) -> str | None:
    if size is None:
        return "this data file is missing"
    if size != file.size_bytes:
        return f"this data file has {size} bytes, the log says {file.size_bytes}"
    return None


def _read(store: Store, file: DataFile) -> tuple[pa.Table | None, str | None]:
    try:
        table = pq.read_table(pa.BufferReader(store.read(file.path)), use_threads=False)
    except (pa.ArrowException, OSError, LogError) as error:
        return None, f"this data file is damaged ({' '.join(str(error).split())[:200]})"
    if file.rows and table.num_rows != file.rows:
        return None, f"this data file has {table.num_rows} rows, the log says {file.rows}"
    return table, None


def _counts(
    said: Mapping[Owner, Mapping[str, Any]],
    events: Counter[Owner],
    places: Mapping[Owner, set[str]],
    entries: Mapping[Owner, Entry],
) -> list[Problem]:
    """Where the events of a video are not as many as its row says, or lie in several files."""
    found = []
    for owner, row in said.items():
        if events[owner] != row["events"]:
            what = f"run {owner[1]} said {row['events']} events, there are {events[owner]}"
            found.append(_problem("", what, {owner}, entries))
        elif len(places.get(owner, ())) > 1:
            found.append(_problem("", f"events of run {owner[1]} lie in several files", {owner}, entries))
    strays = events.keys() - said.keys()
    found += [_problem("", f"events of run {o[1]} without a row in videos", {o}, entries) for o in strays]
    return found


def _problem(path: str, what: str, owners: Iterable[Owner], entries: Mapping[Owner, Entry]) -> Problem:
    concerned = tuple(sorted(owners))
    names = {(entries[o].uris or (o[0],))[0] if o in entries else o[0] for o in concerned}
    return Problem(path, what, tuple(sorted(names)), concerned)
