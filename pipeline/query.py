"""Questions to an event log: what happened at, between, before and after a time, in one video, many, or all.

    query = Query("LOG")
    query.at("clip.mp4", 45_000_000)             # what goes on in the second that begins at 45 s
    query.before("clip.mp4", 45_000_000, count=3)

All times are integer microseconds on the video's own timeline; spans are half-open. An event without length counts as
lying at its start. Answers are pyarrow tables with the columns of `events` (pipeline/log/schema.py), in order of start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.clock import format_time
from pipeline.errors import LogError, UsageError
from pipeline.log.finder import open_finder, scan_finder
from pipeline.log.index import Entry
from pipeline.log.lookup import Filter, Lookup
from pipeline.log.store import Store, open_store
from pipeline.plan import SECOND_US

if TYPE_CHECKING:
    import pyarrow as pa
    from arro3.core import RecordBatch

    from pipeline.log.eventlog import EventLog

#: Names listed in an error message at most.
LISTED = 10


@dataclass(frozen=True, slots=True)
class Match:
    """A video of the log in the run that a question is answered from."""

    name: str  # how it was asked for, made whole: the matching uri, or the id
    entry: Entry


class Query:
    """Answers from one version of a log; `refresh` moves on to the newest."""

    def __init__(self, log: EventLog | str, version: int | None = None) -> None:
        """On an open log, or on its path or URI; `version`: as it was then (slower). Raises LogError: no log there."""
        self._store: Store = open_store(log if isinstance(log, str) else log.uri)
        self._lookup = Lookup(self._store)
        self._finder = open_finder(self._store) if version is None else scan_finder(self._store, version)

    def refresh(self) -> None:
        """Answer from the newest version from now on."""
        self._finder = open_finder(self._store)

    @property
    def version(self) -> int:
        """The version of the log that is answered from."""
        return self._finder.version

    # -- which video, which run

    def resolve(self, name: str) -> tuple[str, str]:
        """(video_id, name) of the video meant by a whole uri or path, the end of one, or the beginning of an id.

        A path that was found with new content later means the content found last. Raises UsageError where no video is
        meant (with the nearest names) or more than one (with their names).
        """
        pairs = self._finder.named(name) if name else []
        absolute = os.path.abspath(name)
        for whole in (name, absolute):
            exact = {video_id for video_id, uri in pairs if uri == whole}
            if exact:
                return self._newest(exact), whole
        ending = {video_id: uri for video_id, uri in pairs if uri.endswith("/" + name.lstrip("/"))}
        if not ending and _is_id(name):
            ending = {video_id: video_id for video_id in self._finder.prefixed(name.lower())}
        if len(ending) == 1:
            return next(iter(ending.items()))
        if ending:
            listed = sorted((uri, video_id) for video_id, uri in ending.items())[:LISTED]
            shown = "\n  ".join(f"{uri}  ({video_id})" for uri, video_id in listed)
            more = f"\n  and {len(ending) - LISTED} more" if len(ending) > LISTED else ""
            raise UsageError(f"{name!r} is the name of {len(ending)} videos; say more of it:\n  {shown}{more}")
        raise UsageError(f"no video {name!r} in {self._store.uri}{self._suggestion(name)}")

    def _newest(self, video_ids: Iterable[str]) -> str:
        candidates = sorted(video_ids)
        if len(candidates) == 1:
            return candidates[0]
        return max(candidates, key=lambda v: max((e.finished_at_us for e in self._finder.entries(v)), default=0))

    def _suggestion(self, name: str) -> str:
        import difflib

        last = name.rstrip("/").rsplit("/", 1)[-1].casefold()
        known = sorted({uri.rsplit("/", 1)[-1] for entry in islice(self._finder.all(), 20_000) for uri in entry.uris})
        folded = {k.casefold(): k for k in known}
        near = difflib.get_close_matches(last, folded, n=3, cutoff=0.5)
        near += [k for k in folded if last and last in k and k not in near]
        if not known:
            return ": the log holds no videos yet"
        if not near:
            return "; `secondsight log LOG` lists them"
        return "; did you mean " + " or ".join(folded[k] for k in near[:3]) + "?"

    def find(self, name: str, run: str | None = None) -> Match:
        """The video meant by `name`, in its newest done run, or in `run` (a run id or the beginning of one).

        Raises UsageError: see `resolve`; not in that run; watched in no run to the end (with the reason).
        """
        video_id, shown = name.lower(), name
        entries = self._finder.entries(video_id) if len(name) == 32 and _is_id(name) else []
        if not entries:
            video_id, shown = self.resolve(name)
            entries = self._finder.entries(video_id)
        entries = sorted(entries, key=lambda e: (e.finished_at_us, e.run_id))
        if not entries:
            raise UsageError(f"{shown} is a name in {self._store.uri}, but no run has put its video there")
        if run is not None:
            chosen = [e for e in entries if e.run_id == run] or [e for e in entries if e.run_id.startswith(run)]
            if len({e.run_id for e in chosen}) != 1:
                which = ", ".join(e.run_id for e in entries)
                raise UsageError(f"{shown} is not in a run {run!r} of its own; its runs are: {which}")
            return Match(shown, chosen[-1])
        done = [e for e in entries if e.status == "done"] or [e for e in entries if e.events]
        if not done:
            last = entries[-1]
            raise UsageError(f"{shown} could not be watched ({last.status} in run {last.run_id}): {last.reason}")
        return Match(shown, done[-1])

    # -- one video

    def at(
        self,
        video: str,
        us: int,
        *,
        span_us: int = SECOND_US,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """What goes on in `[us, us + span_us)`: by default in the second that begins at `us` (1: at that instant).

        `kinds`: only these; `text`: only events with this in their text (case does not matter); `run`: instead of the
        video's newest done run. Raises UsageError where the video is not found, or ends before `us`.
        """
        return self.between(video, us, us + span_us, kinds=kinds, text=text, run=run)

    def between(
        self,
        video: str,
        start_us: int,
        end_us: int,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """What goes on at any moment of `[start_us, end_us)`; the other arguments and errors as for `at`."""
        match = self.find(video, run)
        return as_table(self.overlapping(match, start_us, end_us, Filter(kinds, text)))

    def before(
        self,
        video: str,
        us: int,
        count: int = 5,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """The last `count` events that begin before `us`; the other arguments and errors as for `at`."""
        return as_table(self.preceding(self.find(video, run), us, count, Filter(kinds, text)))

    def after(
        self,
        video: str,
        us: int,
        count: int = 5,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """The first `count` events that begin at or after `us`; the other arguments and errors as for `at`."""
        return as_table(self.following(self.find(video, run), us, count, Filter(kinds, text)))

    # -- the same for a video that is found already, as arro3 batches

    def overlapping(self, match: Match, start_us: int, end_us: int, wanted: Filter) -> list[RecordBatch]:
        if end_us <= start_us:
            raise UsageError(f"the span from {format_time(start_us)} to {format_time(end_us)} is empty")
        _check_inside(match, start_us)
        return self._read(match.entry, lambda entry: self._lookup.overlapping(entry, start_us, end_us, wanted))

    def preceding(self, match: Match, us: int, count: int, wanted: Filter) -> list[RecordBatch]:
        _check_count(count)
        return self._read(match.entry, lambda entry: self._lookup.before(entry, us, count, wanted))

    def following(self, match: Match, us: int, count: int, wanted: Filter) -> list[RecordBatch]:
        _check_count(count)
        _check_inside(match, us)
        return self._read(match.entry, lambda entry: self._lookup.after(entry, us, count, wanted))

    def _read(self, entry: Entry, answer: Callable[[Entry], list[RecordBatch]]) -> list[RecordBatch]:
        """An answer; where the index points to files that are gone or damaged, what the table itself says."""
        try:
            return answer(entry)
        except LogError:
            again = [
                e for e in scan_finder(self._store, self.version).entries(entry.video_id) if e.run_id == entry.run_id
            ]
            if not again or {s.path for s in again[0].spans} == {s.path for s in entry.spans}:
                raise
            return answer(again[0])

    # -- many videos

    def entries(self, run: str | None = None) -> Iterator[Entry]:
        """Every video of the log in its newest done run (in `run`), in no order; those never done are left out."""
        chosen: dict[str, Entry] = {}
        for entry in self._finder.all():
            if (run is None and entry.status == "done") or (run is not None and entry.run_id == run):
                other = chosen.get(entry.video_id)
                if other is None or (entry.finished_at_us, entry.run_id) > (other.finished_at_us, other.run_id):
                    chosen[entry.video_id] = entry
        yield from chosen.values()

    def search(
        self,
        videos: Sequence[str] | None = None,
        *,
        start_us: int = 0,
        end_us: int | None = None,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """Events of several videos (None: of all), each in its newest done run or in `run`, by video and start.

        Reads every row group that may hold one: for questions over a large archive use DuckDB (`secondsight sql`).
        """
        import pyarrow as pa

        entries = self.entries(run) if videos is None else (self.find(name, run).entry for name in videos)
        end = 2**62 if end_us is None else end_us
        wanted = Filter(kinds, text)
        tables = [
            as_table(self._read(entry, lambda e: self._lookup.overlapping(e, start_us, end, wanted)))
            for entry in sorted({e.video_id: e for e in entries}.values(), key=lambda e: e.video_id)
        ]
        return pa.concat_tables(tables) if tables else as_table([])

    def kinds(self, video: str, run: str | None = None) -> dict[str, int]:
        """How many events of each kind a video has, the most frequent first."""
        import pyarrow.compute as pc

        counts = pc.value_counts(as_table(self._whole(self.find(video, run)))["kind"]).to_pylist()
        return {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: (-c["counts"], c["values"]))}

    def density(self, video: str, step_us: int = SECOND_US, run: str | None = None) -> list[int]:
        """How many events go on in each `[k * step_us, (k + 1) * step_us)` of a video, from 0 to its end."""
        match = self.find(video, run)
        table = as_table(self._whole(match))
        starts, ends = table["start_us"].to_pylist(), table["end_us"].to_pylist()
        until = max(match.entry.duration_us or 0, max(ends, default=0), max(starts, default=-1) + 1)
        steps = -(-until // step_us)
        change = [0] * (steps + 1)
        for start, end in zip(starts, ends, strict=True):
            change[max(0, start // step_us)] += 1
            change[(max(end, start + 1) - 1) // step_us + 1] -= 1
        counts, running = [], 0
        for delta in change[:steps]:
            running += delta
            counts.append(running)
        return counts

    def _whole(self, match: Match) -> list[RecordBatch]:
        return self._read(match.entry, lambda e: self._lookup.overlapping(e, -(2**62), 2**62, Filter()))


def as_table(batches: Sequence[RecordBatch]) -> pa.Table:
    """arro3 batches of events as one pyarrow table with exactly the columns of `events`."""
    import pyarrow as pa

    from pipeline.log.schema import EVENTS

    tables = []
    for batch in batches:
        found = pa.table(batch)
        if found.schema.names != EVENTS.names or found.schema.types != EVENTS.types:  # written by others, or long ago
            have = set(found.column_names)
            columns = [found[f.name] if f.name in have else pa.nulls(found.num_rows, f.type) for f in EVENTS]
            found = pa.table(columns, names=EVENTS.names).cast(EVENTS)
        tables.append(found)
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables) if tables else EVENTS.empty_table()


def as_rows(batches: Iterable[RecordBatch]) -> list[dict[str, Any]]:
    """arro3 batches of events as dictionaries."""
    return [row for batch in batches for row in batch.to_struct_array().to_pylist()]


def _check_inside(match: Match, us: int) -> None:
    duration = match.entry.duration_us
    if duration is not None and us >= duration:
        raise UsageError(
            f"{match.name} is {format_time(duration)} long: there is nothing at {format_time(us)}; ask for less"
        )


def _check_count(count: int) -> None:
    if count < 1:
        raise UsageError(f"a count of {count} events: ask for one at least")


def _is_id(name: str) -> bool:
    return len(name) >= 4 and all(c in "0123456789abcdefABCDEF" for c in name)
