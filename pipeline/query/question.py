"""The questions, each answered from one version of a log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.clock import format_time
from pipeline.errors import LogError, UsageError, shortened
from pipeline.log.entry import Entry
from pipeline.log.finder import open_finder, scan_finder
from pipeline.log.lookup import Filter, Lookup
from pipeline.log.store import Store, open_store
from pipeline.plan import SECOND_US
from pipeline.query import spans
from pipeline.query.answers import as_rows, as_table
from pipeline.query.names import Match, Names

if TYPE_CHECKING:
    import pyarrow as pa
    from arro3.core import RecordBatch

    from pipeline.log.eventlog import EventLog

#: Before and after every event.
EARLIEST, LATEST = -(2**62), 2**62

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


class Query:
    """Answers from one version of a log; `refresh` moves on to the newest. Thread-safe.

    Wherever events are asked for, `kinds` means only these kinds, `text` only events with this in their text (case
    does not matter), and `run` the run to answer from (its id or the beginning of one) instead of each video's newest
    done one. A video is meant by its whole uri or path, the end of one, or the beginning of its id. Every method
    raises UsageError where a video or run is not found (with the nearest names), and LogError for a damaged log.
    """

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

    # -- which video, which run (names.py)

    def resolve(self, name: str) -> tuple[str, str]:
        """(video_id, name) of the video that `name` means."""
        return self._names.resolve(name)

    def find(self, name: str, run: str | None = None) -> Match:
        """The video that `name` means, in its newest done run or in `run`."""
        return self._names.find(name, run)

    def runs_of(self, video_id: str) -> list[Entry]:
        """What the log holds of a video: one entry per run, in the order in which they finished it."""
        return self._names.runs_of(video_id)

    def entries(self, run: str | None = None) -> Iterator[Entry]:
        """Every video in its newest done run (in `run`), in no order; those never done are left out."""
        return self._names.all(run)

    def matches(self, videos: Videos, run: str | None = None) -> list[Match]:
        """The videos meant, each once: named ones in the order given, all of them in the order of their names."""
        if isinstance(videos, str):
            return [self.find(videos, run)]
        if videos is None:
            found = [Match(e.uris[0] if e.uris else e.video_id, e) for e in self.entries(run)]
            return sorted(found, key=lambda m: (m.name, m.entry.video_id))
        return list({m.entry.video_id: m for m in (self.find(name, run) for name in videos)}.values())

    # -- at a time, relative to a time

    def at(
        self,
        video: Videos,
        us: int,
        *,
        span_us: int = SECOND_US,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """What goes on in `[us, us + span_us)`: by default in the second that begins at `us` (1: at that instant).

        Raises UsageError where a single video ends before `us`; of several, those that do are left out.
        """
        return self.between(video, us, us + span_us, kinds=kinds, text=text, run=run)

    def between(
        self,
        video: Videos,
        start_us: int,
        end_us: int,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """What goes on at any moment of `[start_us, end_us)`; errors as for `at`."""
        wanted = Filter(kinds, text)
        if isinstance(video, str):
            return as_table(self.overlapping(self.find(video, run), start_us, end_us, wanted))
        matches = [m for m in self.matches(video, run) if m.entry.duration_us is None or m.entry.duration_us > start_us]
        return as_table([b for m in matches for b in self.overlapping(m, start_us, end_us, wanted)])

    def before(
        self,
        video: Videos,
        when: int | Anchor,
        count: int = 5,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """The last `count` events of each video that begin before a time, or before an event begins."""
        us = when.start_us if isinstance(when, Anchor) else when
        return self._each(video, run, lambda m: self.preceding(m, us, count, Filter(kinds, text)))

    def after(
        self,
        video: Videos,
        when: int | Anchor,
        count: int = 5,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """The first `count` events of each video that begin at or after a time, or once an event has ended."""
        wanted = Filter(kinds, text)
        if isinstance(when, Anchor):  # may end with its video: then nothing follows, which is an answer
            return self._each(video, run, lambda m: self.from_on(m, when.end_us, count, wanted))
        if isinstance(video, str):
            return as_table(self.following(self.find(video, run), when, count, wanted))
        return self._each(video, run, lambda m: self.from_on(m, when, count, wanted))

    def meanwhile(
        self,
        video: str,
        anchor: Anchor,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """What else was on while an event of the video was: all that overlaps it, without itself."""
        return as_table(self.beside(self.find(video, run), anchor, Filter(kinds, text)))

    def first(
        self,
        video: Videos,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """The first such event of each video, if there is one."""
        return self._each(video, run, lambda m: self.from_on(m, EARLIEST, 1, Filter(kinds, text)))

    def last(
        self,
        video: Videos,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
        run: str | None = None,
    ) -> pa.Table:
        """The such event of each video that begins last, if there is one."""
        return self._each(video, run, lambda m: self.preceding(m, LATEST, 1, Filter(kinds, text)))

    def event(self, video: str, event_id: str, run: str | None = None) -> dict[str, Any]:
        """One event of a video by its id, as a row. Raises UsageError where the video has none of that id."""
        match = self.find(video, run)
        entries = [match.entry] if run is not None else [match.entry, *self._names.runs_of(match.entry.video_id)]
        for entry in entries:  # an id names an event of one run: any run of the video will do
            for batch in self._read(entry, lambda e: self._lookup.overlapping(e, EARLIEST, LATEST, Filter())):
                ids = list(batch.column("event_id").to_pylist())
                if event_id in ids:
                    return as_rows([batch.slice(ids.index(event_id), 1)])[0]
        raise UsageError(f"{match.name} has no event {shortened(event_id)!r}")

    def anchor(self, video: str, what: str, run: str | None = None) -> Anchor:
        """The event of a video that `what` means: its id, or else its first event of that kind or with that text.

        Raises UsageError where there is none, with the kinds that there are.
        """
        if _is_event_id(what):
            return Anchor(self.event(video, what, run))
        match = self.find(video, run)
        kind = next((k for k in self.kinds(video, run) if k.casefold() == what.casefold()), None)
        wanted = Filter(text=what) if kind is None else Filter(kinds=[kind])
        found = as_rows(self.from_on(match, EARLIEST, 1, wanted)) if what else []
        if not found:
            kinds = ", ".join(self.kinds(video, run)) or "none at all"
            raise UsageError(
                f"{match.name} has no event of kind or text {shortened(what)!r}; the kinds it has: {kinds}"
            )
        return Anchor(found[0])

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
        _check_inside(match, us)
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

    def _each(self, video: Videos, run: str | None, ask: Callable[[Match], list[RecordBatch]]) -> pa.Table:
        return as_table([batch for match in self.matches(video, run) for batch in ask(match)])

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

    # -- over whole videos

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

        Reads every row group that may hold one: for questions over a large archive use DuckDB (`secondsight sql`), and
        for words `pipeline.search`.
        """
        end, wanted = LATEST if end_us is None else end_us, Filter(kinds, text)
        matches = sorted(self.matches(videos, run), key=lambda m: m.entry.video_id)
        return as_table(
            [
                batch
                for match in matches
                for batch in self._read(match.entry, lambda e: self._lookup.overlapping(e, start_us, end, wanted))
            ]
        )

    def kinds(self, video: Videos, run: str | None = None) -> dict[str, int]:
        """How many events of each kind there are, the most frequent first."""
        import pyarrow.compute as pc

        counts = pc.value_counts(self._each(video, run, self._whole)["kind"]).to_pylist()
        return {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: (-c["counts"], c["values"]))}

    def density(
        self,
        video: str,
        step_us: int = SECOND_US,
        run: str | None = None,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
    ) -> list[int]:
        """How many events go on in each `[k * step_us, (k + 1) * step_us)` of a video, from 0 to its end.

        Raises UsageError for a step that is not positive, or so small that there are more than spans.MAX_STEPS.
        """
        match = self.find(video, run)
        return spans.density(self._times(match, Filter(kinds, text)), step_us, match.entry.duration_us or 0)

    def gaps(
        self,
        video: str,
        min_us: int = 1,
        run: str | None = None,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
    ) -> list[tuple[int, int]]:
        """The spans of a video, of at least `min_us`, in which no event (of these) goes on, from 0 to its end."""
        match = self.find(video, run)
        return spans.gaps(self._times(match, Filter(kinds, text)), match.entry.duration_us, min_us)

    def _times(self, match: Match, wanted: Filter) -> list[tuple[int, int]]:
        """(start, end) of a video's events, in order of start."""
        found = self._read(match.entry, lambda e: self._lookup.overlapping(e, EARLIEST, LATEST, wanted))
        starts = [us for batch in found for us in batch.column("start_us").to_pylist()]
        ends = [us for batch in found for us in batch.column("end_us").to_pylist()]
        return list(zip(starts, ends, strict=True))

    def _whole(self, match: Match) -> list[RecordBatch]:
        return self._read(match.entry, lambda e: self._lookup.overlapping(e, EARLIEST, LATEST, Filter()))

    # -- where an answer comes from

    def provenance(self, event: dict[str, Any]) -> dict[str, Any]:
        """What stands behind an event (a row of the `events` table): `run`, its row of `runs` without the whole
        configuration, and `windows`, the rows of `windows` that it was seen in, with the times of all their frames and
        the model's raw answer where it was kept. Takes some milliseconds: it opens the Delta table.
        """
        from pipeline.query.provenance import provenance

        return provenance(self._store, self.version, event)


def _is_event_id(what: str) -> bool:
    return len(what) == 16 and all(c in "0123456789abcdef" for c in what)


def _check_inside(match: Match, us: int) -> None:
    duration = match.entry.duration_us
    if duration is not None and us >= duration:
        raise UsageError(
            f"{match.name} is {format_time(duration)} long: there is nothing at {format_time(us)}; ask for less"
        )


def _check_count(count: int) -> None:
    if count < 1:
        raise UsageError(f"a count of {count} events: ask for one at least")
