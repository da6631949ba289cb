"""Bringing the index of words up to the log: from the commits since, or from all of it where they do not tell enough.

What counts is which videos and runs (owners) the log holds. A commit adds owners, with all their events; a compaction
changes none; where a commit takes rows away (`log --check --forget`, other writers), or commits are gone, or the log is
another one, the owners of both are compared.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import pyarrow as pa

from pipeline.errors import LogError
from pipeline.log.delta import Delta
from pipeline.log.protocol import Commit, DataFile, commit_path, read_commit
from pipeline.log.ranged import open_parquet
from pipeline.log.reader import damaged, read_rows
from pipeline.log.schema import EVENTS
from pipeline.log.store import Store
from pipeline.search.owner import Owner, State, hashed
from pipeline.search.words import WordIndex, Writer

#: Events after which a long intake makes what it has so far durable: a killed one goes on from there.
SAVE_EVERY = 500_000

_COLUMNS = ["video_id", "run_id", "uris", "status", "finished_at_us", "events", "duration_us"]


def take_in(store: Store, index: WordIndex, progress: Callable[[str], None] = lambda _: None) -> int:
    """Bring the index up to the newest version of the log; returns how many events came new into it.

    To be called with the folder locked. Raises LogError: no log there, a damaged data file, an index that cannot be
    written to; what was taken in before stays as it was.
    """
    state, log = index.state(), log_mark(store)
    commits = commits_since(store, state.version) if state is not None and state.log == log else None
    if state is not None and commits is not None and not _takes_away(commits):
        files = [f for commit in commits if commit.data_change for f in commit.added]
        version = state.version + len(commits)
        if not commits:
            return 0
        fresh = _owners(store, files)
        several = state.several or _any_again(fresh.values(), index)
        return _write(store, index, State(version, log, several), fresh, _names(store, files), files, (), progress)
    delta = Delta(store)
    there = _owners(store, delta.files())
    indexed = index.view().all_owners()
    # Of a run that did a video again (after `forget`) the time tells.
    have = {key for key, finished in indexed if key in there and there[key].finished_at_us == finished}
    fresh = {key: owner for key, owner in there.items() if key not in have}
    several = _any_again(there.values())
    gone = {key for key, _ in indexed} - have
    names, files = _names(store, delta.files()), delta.files("events")
    return _write(store, index, State(delta.version, log, several), fresh, names, files, gone, progress)


def log_mark(store: Store) -> str:
    """What tells a log from another one that takes its place: a hash of its first commit, "" where that is gone."""
    try:
        return hashlib.blake2b(store.read(commit_path(0)), digest_size=16).hexdigest()
    except FileNotFoundError:
        return ""


def commits_since(store: Store, version: int) -> list[Commit] | None:
    """The commits after a version, in order; None where they are not all there any more."""
    listed = store.list("_delta_log", after=commit_path(version))
    names = (path.rsplit("/", 1)[-1] for path, _, _ in listed)
    newer = sorted(int(n[:20]) for n in names if len(n) == 25 and n.endswith(".json") and n[:20].isdigit())
    if newer != list(range(version + 1, version + 1 + len(newer))):
        return None
    commits = [read_commit(store, number) for number in newer]
    return None if None in commits else [c for c in commits if c is not None]


def _takes_away(commits: Sequence[Commit]) -> bool:
    """Whether rows that can be searched may have gone."""
    paths = [path for commit in commits if commit.data_change for path in commit.removed]
    return any(not path.startswith(("record=runs/", "record=names/", "record=windows/")) for path in paths)


def _owners(store: Store, files: Sequence[DataFile]) -> dict[int, Owner]:
    """The videos and runs of which rows lie in data files, by their keys."""
    found: dict[int, Owner] = {}
    for row in read_rows(store, [f for f in files if f.record == "videos"], _COLUMNS):
        name, *others = row["uris"] or [row["video_id"]]
        finished, events = row["finished_at_us"] or 0, row["events"] or 0
        owner = Owner(row["video_id"], row["run_id"], name, row["status"], finished, events, row["duration_us"], others)
        before = found.get(owner.key)
        if before is None or before.finished_at_us <= finished:  # a failed one has given way to this
            found[owner.key] = owner
    return found


def _names(store: Store, files: Sequence[DataFile]) -> list[tuple[str, str]]:
    """(name, video_id) of the names in data files that videos were found under later. Those of a video that is gone
    stay in the index, where nothing shows them (View.named)."""
    rows = read_rows(store, [f for f in files if f.record == "names"], ["uri", "video_id"])
    return [(row["uri"], row["video_id"]) for row in rows]


def _any_again(owners: Collection[Owner], index: WordIndex | None = None) -> bool:
    """Whether there is a video with two runs, among the owners or with those in the index."""
    videos = [hashed(o.video_id) for o in owners]
    if len(set(videos)) < len(videos):
        return True
    return index is not None and bool(videos) and bool(index.view().owners_of(videos))


def _write(
    store: Store,
    index: WordIndex,
    state: State,
    fresh: Mapping[int, Owner],
    names: Sequence[tuple[str, str]],
    files: Sequence[DataFile],
    gone: Collection[int],
    progress: Callable[[str], None],
) -> int:
    """Take out the owners that are gone, put in the fresh ones with their events, which lie in `files`, and `names`."""
    writer = index.writer()
    try:
        for key in (*gone, *fresh):  # of a fresh one: what a killed intake may have left
            writer.remove(key)
        owners = {(o.video_id, o.run_id): key for key, o in fresh.items()}
        waiting = Counter({key: o.events for key, o in fresh.items()})
        files = _holding(files, sorted({o.video_id for o in fresh.values() if o.events}))
        total, saved = 0, 0
        for number, file in enumerate(files):
            total += _take_file(store, writer, file, owners, waiting)
            progress(f"{total} events, file {number + 1} of {len(files)}")
            if total - saved >= SAVE_EVERY:
                _finish_owners(writer, fresh, waiting)
                writer.commit()
                saved = total
        for key in waiting:
            writer.add_owner(fresh[key])
        for name, video_id in names:
            writer.add_name(name, video_id)
        writer.set_state(state)
        writer.commit()
        return total
    except ValueError as error:
        raise LogError(f"{index.folder}: the search index cannot be written: {' '.join(str(error).split())}") from error
    finally:
        writer.close()


def _holding(files: Sequence[DataFile], videos: Sequence[str]) -> list[DataFile]:
    """The files of events that may hold one of the videos (in order)."""

    def may(file: DataFile) -> bool:
        at = bisect_left(videos, file.first_video)
        return at < len(videos) and (not file.last_video or videos[at] <= file.last_video)

    return [f for f in files if f.record == "events" and may(f)]


def _take_file(
    store: Store,
    writer: Writer,
    file: DataFile,
    owners: Mapping[tuple[str, str], int],
    waiting: Counter[int],
) -> int:
    count = 0
    try:
        source = open_parquet(store, file)
        present = [name for name in EVENTS.names if name in source.schema_arrow.names]
        for group in range(source.num_row_groups):
            rows = source.read_row_group(group, columns=present, use_threads=False)
            columns = {
                name: rows[name].to_pylist() if name in present else [None] * rows.num_rows for name in EVENTS.names
            }
            count += writer.add_events(columns, owners)
            for owner, added in Counter(zip(columns["video_id"], columns["run_id"], strict=True)).items():
                if owner in owners:
                    waiting[owners[owner]] -= added
    except (pa.ArrowException, OSError) as error:
        raise damaged(store, file, error) from error
    return count


def _finish_owners(writer: Writer, fresh: Mapping[int, Owner], waiting: Counter[int]) -> None:
    """Note the owners of which all events are in: they are left alone by the next intake, should this one be killed."""
    for key in [key for key, left in waiting.items() if left <= 0]:
        writer.add_owner(fresh[key])
        del waiting[key]
