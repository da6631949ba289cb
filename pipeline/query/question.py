"""The questions, each answered from one version of a log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError, shortened
from pipeline.log.lookup import Filter
from pipeline.plan import SECOND_US
from pipeline.query import spans
from pipeline.query.answers import Kinds, Rows, as_rows, as_table
from pipeline.query.names import Match
from pipeline.query.reading import EARLIEST, LATEST, Anchor, Reader, Videos, reaching

if TYPE_CHECKING:
    import pyarrow as pa
    from arro3.core import RecordBatch


class Query(Reader):
    """Answers from one version of a log; `refresh` moves on to the newest. Thread-safe.

    Wherever events are asked for, `kinds` means only these kinds, `text` only events with this in their text (case
    does not matter), and `run` the run to answer from (its id or the beginning of one) instead of each video's newest
    done one. A video is meant by its whole uri or path, the end of one, or the beginning of its id. Every method
    raises UsageError where a video or run is not found (with the nearest names), and LogError for a damaged log.
    """

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
        matches = reaching(self.matches(video, run), start_us)
        return self._table(matches, lambda m: self.overlapping(m, start_us, end_us, wanted))

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
        """The first `count` events of each video that begin at or after a time, or once an event has ended; errors as
        for `at`."""
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

    def _each(self, video: Videos, run: str | None, ask: Callable[[Match], list[RecordBatch]]) -> pa.Table:
        return self._table(self.matches(video, run), ask)

    def _table(self, matches: Sequence[Match], ask: Callable[[Match], list[RecordBatch]]) -> pa.Table:
        return as_table([batch for _, batches in self.each(matches, ask) for batch in batches])

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
        return self._table(
            matches,
            lambda m: self._read(m.entry, lambda e: self._lookup.overlapping(e, start_us, end, wanted)),
        )

    def kinds(self, video: Videos, run: str | None = None) -> Kinds:
        """How many events of each kind there are, the most frequent first; with the run, of one video."""
        import pyarrow.compute as pc

        matches = self.matches(video, run)
        found = self._table(matches, self._whole)
        counts = pc.value_counts(found["kind"]).to_pylist()
        ordered = {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: (-c["counts"], c["values"]))}
        return Kinds(ordered, matches[0].entry.run_id if len(matches) == 1 else None)

    def density(
        self,
        video: str,
        step_us: int = SECOND_US,
        run: str | None = None,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
    ) -> Rows[int]:
        """How many events go on in each `[k * step_us, (k + 1) * step_us)` of a video, from 0 to its end.

        Raises UsageError for a step that is not positive, or so small that there are more than spans.MAX_STEPS.
        """
        match = self.find(video, run)
        counts = spans.density(self._times(match, Filter(kinds, text)), step_us, match.entry.duration_us or 0)
        return Rows(counts, match.entry.run_id)

    def gaps(
        self,
        video: str,
        min_us: int = 1,
        run: str | None = None,
        *,
        kinds: Collection[str] | None = None,
        text: str | None = None,
    ) -> Rows[tuple[int, int]]:
        """The spans of a video, of at least `min_us`, in which no event (of these) goes on, from 0 to its end."""
        match = self.find(video, run)
        found = spans.gaps(self._times(match, Filter(kinds, text)), match.entry.duration_us, min_us)
        return Rows(found, match.entry.run_id)

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
