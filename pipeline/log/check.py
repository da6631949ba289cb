"""Looking for damage: what is wrong, in which file, and which videos to run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LogError
from pipeline.log.delta import Delta
from pipeline.log.finder import DAMAGE, IndexFinder, scan_finder
from pipeline.log.head import DAMAGED, HEAD, load, stem_of
from pipeline.log.index import Entry
from pipeline.log.indexing import Owner
from pipeline.log.protocol import DataFile, commit_path
from pipeline.log.schema import RECORDS
from pipeline.log.store import Store


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: the file (or "" for the log as a whole), what is wrong, and the names of the videos it concerns."""

    path: str
    what: str
    videos: tuple[str, ...] = ()


def check(store: Store, deep: bool = True) -> list[Problem]:
    """Every fault found, none if the log is sound. `deep` reads all data files whole, else only their sizes."""
    problems = _commits(store)
    try:
        files = Delta(store).files()
    except LogError as error:
        return [*problems, Problem("", str(error))]
    entries = _index(store, problems)
    by_stem: dict[str, set[Owner]] = {}
    for owner, entry in entries.items():
        for span in entry.spans:
            by_stem.setdefault(span.file, set()).add(owner)
    sizes = {path: size for record in RECORDS for path, size, _ in store.list(f"record={record}")}
    owners: Counter[Owner] = Counter()  # events of each video and run
    places: dict[Owner, set[str]] = {}
    done: Counter[tuple[str, str]] = Counter()
    said: dict[Owner, tuple[int, str]] = {}  # events that the videos row says, and a name
    unread: set[str] = set()
    for file in files:
        fault = _fault(store, file, sizes.get(file.path))
        table = None
        if fault is None and (deep or file.record in ("videos", "runs", "names")):
            table, fault = _read(store, file)
        if fault is not None:
            unread.add(file.record)
            concerned = by_stem.get(stem_of(file.path), set())
            if file.record != "events":
                concerned = {o for o in entries if _in(file, o[0])} if file.record in ("videos", "windows") else set()
            problems.append(Problem(file.path, fault, _names(entries, concerned)))
        elif table is not None and file.record == "events":
            pairs = Counter(zip(table["video_id"].to_pylist(), table["run_id"].to_pylist(), strict=True))
            owners += pairs
            for owner in pairs:
                places.setdefault(owner, set()).add(file.path)
        elif table is not None and file.record == "videos":
            for row in table.select(["video_id", "run_id", "config_hash", "status", "events", "uris"]).to_pylist():
                said[row["video_id"], row["run_id"]] = (row["events"], (row["uris"] or [row["video_id"]])[0])
                if row["status"] == "done":
                    done[row["video_id"], row["config_hash"]] += 1
    problems += [
        Problem("", f"video {video_id} is done {count} times under configuration {config}")
        for (video_id, config), count in done.items()
        if count > 1
    ]
    if deep and not unread & {"events", "videos"}:
        problems += _counts(said, owners, places)
    return problems


def _commits(store: Store) -> list[Problem]:
    """Commits missing between those that are there."""
    paths = [path.rsplit("/", 1)[-1] for path, _, _ in store.list("_delta_log")]
    there = sorted(int(p[:20]) for p in paths if p.endswith(".json") and p[:20].isdigit())
    missing = sorted(set(range(there[0], there[-1] + 1)) - set(there)) if there else []
    checkpoint = max((int(p[:20]) for p in paths if ".checkpoint" in p and p[:20].isdigit()), default=-1)
    return [
        Problem(
            commit_path(v), "this commit is missing" + (" (a later checkpoint holds it)" if v <= checkpoint else "")
        )
        for v in missing
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


def _fault(store: Store, file: DataFile, size: int | None) -> str | None:
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


def _counts(said: dict[Owner, tuple[int, str]], owners: Counter[Owner], places: dict[Owner, set[str]]) -> list[Problem]:
    """Where the events of a video are not as many as its row says, or lie in several files."""
    found = []
    for owner, (events, name) in said.items():
        if owners[owner] != events:
            found.append(Problem("", f"run {owner[1]} said {events} events, there are {owners[owner]}", (name,)))
        elif len(places.get(owner, ())) > 1:
            found.append(Problem("", f"its events of run {owner[1]} lie in {len(places[owner])} files", (name,)))
    strays = owners.keys() - said.keys()
    found += [Problem("", f"events of run {run_id} without a row in videos", (video,)) for video, run_id in strays]
    return found


def _in(file: DataFile, video_id: str) -> bool:
    return not file.first_video or file.first_video <= video_id <= file.last_video


def _names(entries: dict[Owner, Entry], concerned: Iterable[Owner]) -> tuple[str, ...]:
    return tuple(sorted({(entries[o].uris or (o[0],))[0] for o in concerned if o in entries}))
