"""Which videos are meant, and the events of one of them, as arro3 batches, from one version of a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.clock import format_time
from pipeline.errors import LogError, UsageError
from pipeline.log.entry import Entry
from pipeline.log.finder import open_finder, scan_finder
from pipeline.log.localstore import LocalStore
from pipeline.log.lookup import Filter, Lookup
from pipeline.log.store import Store, open_store
from pipeline.query.names import Match, Names

if TYPE_CHECKING:
    from arro3.core import RecordBatch

    from pipeline.log.eventlog import EventLog

T = TypeVar("T")

#: Before and after every event.
EARLIEST, LATEST = -(2**62), 2**62

#: Videos of a log in an object store that are asked side by side.
ABREAST = 8

#: One video by its name, several, or (None) every video of the log.
Videos = str | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """An event that others are asked for relative to: its row of the `events` table."""

    event: dict[str, Any]

    @property
    def start_us(self) -> int:
        return int(self.event["start_us"])

    @property
    def end_us(self) -> int:
        """Its end, at least one microsecond after its start."""
        return max(int(self.event["end_us"]), self.start_us + 1)


class Reader:
    """Finds videos and reads their events. Every method raises UsageError where a video or run is not found (with the
    nearest names), and LogError for a damaged log."""

    def __init__(self, log: EventLog | str, version: int | None = None) -> None:
        """On an open log, or on its path or URI; `version`: as it was then (slower). Raises LogError: no log there."""
        self._store: Store = open_store(log if isinstance(log, str) else log.uri)
        self._lookup = Lookup(self._store)
        finder = open_finder(self._store) if version is None else scan_finder(self._store, version)
        self._names = Names(finder, self._store.uri)

    def refresh(self) -> None:
        """Answer from the newest version from now on; questions under way end as they began."""
        self._names = Names(open_finder(self._store), self._store.uri)

    @property
    def version(self) -> int:
        """The version of the log that is answered from."""
        return self._names.version

    def resolve(self, name: str) -> tuple[str, str]:
        """(video_id, name) of the video that `name` means."""
        return self._names.resolve(name)

    def find(self, name: str, run: str | None = None) -> Match:
        """The video that `name` means, in its newest done run or in `run`."""
        return self._names.find(name, run)

    def runs_of(self, video_id: str) -> list[Entry]:
        """What the log holds of a video: one entry per run, in the order in which they finished it."""
        return self._names.runs_of(video_id)

    def entries(self, run: str | None = None) -> list[Entry]:
        """Every video in its newest done run (in `run`); those never done are left out."""
        return [match.entry for match in self._names.all(run)]

    def matches(self, videos: Videos, run: str | None = None) -> list[Match]:
        """The videos meant, each once: named ones in the order given, all of them in the order of their names."""
        if isinstance(videos, str):
            return [self.find(videos, run)]
        if videos is None:
            return list(self._names.all(run))
        return list({m.entry.video_id: m for m in (self.find(name, run) for name in videos)}.values())

    def each(
        self, matches: Sequence[Match], ask: Callable[[Match], T], within_s: float | None = None
    ) -> Iterator[tuple[Match, T]]:
        """(video, answer) of the videos in order, as far as `within_s` seconds take, but one at least. On an object
        store some are asked side by side."""
        ends = math.inf if within_s is None else time.monotonic() + within_s
        if isinstance(self._store, LocalStore) or len(matches) == 1:  # a disk's answer takes no waiting, but the CPU
            for match in matches:
                yield match, ask(match)
                if time.monotonic() >= ends:
                    return
            return
        from concurrent.futures import ThreadPoolExecutor  # a cold lookup of one video must not wait for it

        with ThreadPoolExecutor(ABREAST, thread_name_prefix="query") as threads:
            for at in range(0, len(matches), ABREAST):
                some = matches[at : at + ABREAST]
                yield from zip(some, threads.map(ask, some), strict=True)
                if time.monotonic() >= ends:
                    return

    # -- the events of a video that is found

    def overlapping(self, match: Match, start_us: int, end_us: int, wanted: Filter) -> list[RecordBatch]:
        if end_us <= start_us:
            raise UsageError(f"the span from {format_time(start_us)} to {format_time(end_us)} is empty")
        check_inside(match, start_us)
        return self._read(match.entry, lambda entry: self._lookup.overlapping(entry, start_us, end_us, wanted))

    def preceding(self, match: Match, us: int, count: int, wanted: Filter) -> list[RecordBatch]:
        _check_count(count)
        return self._read(match.entry, lambda entry: self._lookup.before(entry, us, count, wanted))

    def following(self, match: Match, us: int, count: int, wanted: Filter) -> list[RecordBatch]:
        check_inside(match, us)
        return self.from_on(match, us, count, wanted)

    def from_on(self, match: Match, us: int, count: int, wanted: Filter) -> list[RecordBatch]:
        """As `following`, but beyond the end nothing follows, which is an answer."""
        _check_count(count)
        return self._read(match.entry, lambda entry: self._lookup.after(entry, us, count, wanted))

    def beside(self, match: Match, anchor: Anchor, wanted: Filter) -> list[RecordBatch]:
        from arro3.core import Array, DataType

        start, end, mine = anchor.start_us, anchor.end_us, anchor.event["event_id"]
        found = []
        for batch in self._read(match.entry, lambda entry: self._lookup.overlapping(entry, start, end, wanted)):
            rows = [at for at, event_id in enumerate(batch.column("event_id").to_pylist()) if event_id != mine]
            if rows:
                found.append(batch.take(Array(rows, DataType.uint32())))
        return found

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


def reaching(matches: Iterable[Match], us: int) -> list[Match]:
    """Those of several videos that have not ended at a time: to the others the question does not apply."""
    return [m for m in matches if m.entry.duration_us is None or m.entry.duration_us > us]


def check_inside(match: Match, us: int) -> None:
    """Raises UsageError for a time that is not in the video."""
    duration = match.entry.duration_us
    if duration is not None and us >= duration:
        raise UsageError(
            f"{match.name} is {format_time(duration)} long: there is nothing at {format_time(us)}; ask for less"
        )


def _check_count(count: int) -> None:
    if count < 1:
        raise UsageError(f"a count of {count} events: ask for one at least")
