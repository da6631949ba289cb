"""Secondsight in four lines of Python:

>>> import secondsight
>>> secondsight.run(["clips/"], log="LOG")            # doctest: +SKIP
>>> secondsight.open("LOG").at("match.mp4", 45)       # doctest: +SKIP
>>> secondsight.open("LOG").search("red circle")      # doctest: +SKIP

Times are seconds (45, 45.5) or as people write them ("1:02:45.5"); answers are pyarrow tables, with times in integer
microseconds on the video's own timeline.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jobs.run import RunSummary, run
from pipeline.clock import parse_time
from pipeline.errors import SecondsightError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.features.search import Moment, PictureSearch
    from pipeline.query import Anchor, Query
    from pipeline.query.answers import Kinds, Rows
    from pipeline.query.reading import Videos
    from pipeline.search import Hit, Search
    from pipeline.search.ask import Found

__all__ = ["Log", "RunSummary", "SecondsightError", "open", "run"]

Time = float | str


def open(log: str) -> Log:
    """The event log at a path or an fsspec URI, to be asked. Raises LogError where there is none."""
    return Log(log)


class Log:
    """Questions to one event log. Thread-safe. `video` is its whole name, the end of it, or the beginning of its id;
    where several are asked about, a list of them, or None for all.

    `kinds`: only events of these kinds; `text`: only events whose text holds this; `run`: as this run saw it (its id)
    instead of the newest one. All raise UsageError where the video is not found.
    """

    def __init__(self, uri: str) -> None:
        from pipeline.query import Query

        self.uri = uri
        self.query: Query = Query(uri)

    def at(self, video: Videos, time: Time, **only: Any) -> pa.Table:
        """What goes on in the second that begins at `time`."""
        return self.query.at(video, _us(time), **_only(**only))

    def between(self, video: Videos, start: Time, end: Time, **only: Any) -> pa.Table:
        """What goes on at any moment from `start` to before `end`."""
        return self.query.between(video, _us(start), _us(end), **_only(**only))

    def before(self, video: Videos, time: Time | Anchor, count: int = 5, **only: Any) -> pa.Table:
        """The last `count` events that begin before `time`, or before an event (see `anchor`)."""
        return self.query.before(video, _when(time), count, **_only(**only))

    def after(self, video: Videos, time: Time | Anchor, count: int = 5, **only: Any) -> pa.Table:
        """The first `count` events that begin at `time` or later, or once an event (see `anchor`) has ended."""
        return self.query.after(video, _when(time), count, **_only(**only))

    def meanwhile(self, video: str, event: Anchor, **only: Any) -> pa.Table:
        """What else was on while an event (see `anchor`) was."""
        return self.query.meanwhile(video, event, **_only(**only))

    def anchor(self, video: str, what: str, run: str | None = None) -> Anchor:
        """An event to ask around: by its id, or the first of a kind or with a text."""
        return self.query.anchor(video, what, run)

    def first(self, video: Videos = None, **only: Any) -> pa.Table:
        """The first such event of each video."""
        return self.query.first(video, **_only(**only))

    def last(self, video: Videos = None, **only: Any) -> pa.Table:
        """The such event of each video that begins last."""
        return self.query.last(video, **_only(**only))

    def gaps(self, video: str, longer_than: Time = 0, **only: Any) -> Rows[tuple[int, int]]:
        """The spans, in microseconds, in which no such event goes on; `.run_id`: in which run."""
        return self.query.gaps(video, max(1, _us(longer_than)), **_only(**only))

    def density(self, video: str, step: Time = 1, **only: Any) -> Rows[int]:
        """How many such events go on in each step of a video; `.run_id`: in which run."""
        return self.query.density(video, _us(step), **_only(**only))

    def kinds(self, video: Videos = None, run: str | None = None) -> Kinds:
        """How many events of each kind there are, the most frequent first; `.run_id`: in which run, of one video."""
        return self.query.kinds(video, run)

    def provenance(self, event: dict[str, Any]) -> dict[str, Any]:
        """The run, and the windows with their frames, behind an event (a row of an answer as a dictionary)."""
        return self.query.provenance(event)

    def search(self, words: str, **how: Any) -> list[Hit]:
        """Events by words and meaning, the best first; `how`: see pipeline.search.Search.find (times in microseconds).

        Takes in what was committed since the last search, wherever that was.
        """
        self._search.update()
        return self._search.find(words, **how)

    def search_image(self, image: str, model: str | None = None, **only: Any) -> list[Moment]:
        """The moments that look most like a picture file, by the model that watched (`model`: where it lies; None: the
        bundled one); `only`: see pipeline.features.search.PictureSearch.find. Raises UsageError where the log holds no
        vision features."""
        from jobs.picturing import embedded
        from pipeline.features.search import read_picture

        pixels = read_picture(image)
        self._pictures.update()
        return self._pictures.find(*embedded(self._pictures, pixels, model), **only)

    def search_like(self, video: str, time: Time, **only: Any) -> list[Moment]:
        """The moments that look most like one of a video; `only` as for `search_image`."""
        self._pictures.update()
        return self._pictures.find(*self._pictures.like(video, _us(time), only.get("run")), **only)

    def ask(self, question: str, **how: Any) -> Found:
        """The events that answer a question in a person's words; `how`: see pipeline.search.ask.ask.
        `pipeline.search.answer.answer` has a language model put them into words."""
        from pipeline.search.ask import ask

        self._search.update()
        self.refresh()
        return ask(self._search, self.query, question, **how)

    def sql(self, query: str) -> pa.Table:
        """The answer of DuckDB to a SELECT over `events`, `videos`, `windows` and `runs`."""
        from pipeline.log.sql import select

        return select(self._log.snapshot(), query)

    def refresh(self) -> None:
        """Answer from the newest version of the log from now on."""
        self.query.refresh()

    @cached_property
    def _search(self) -> Search:
        from pipeline.search import Search

        return Search(self.uri)

    @cached_property
    def _pictures(self) -> PictureSearch:
        from pipeline.features.search import PictureSearch

        return PictureSearch(self.uri)

    @cached_property
    def _log(self) -> Any:
        from pipeline.log import EventLog

        return EventLog.open(self.uri)


def _when(time: Time | Anchor) -> int | Anchor:
    return _us(time) if isinstance(time, (int, float, str)) else time


def _only(kinds: Collection[str] | None = None, text: str | None = None, run: str | None = None) -> dict[str, Any]:
    return {"kinds": [kinds] if isinstance(kinds, str) else kinds, "text": text, "run": run}


def _us(time: Time) -> int:
    """Seconds, or a time as people write it, in microseconds."""
    if isinstance(time, str):
        return parse_time(time)
    if not 0 <= time < 1e12:
        raise UsageError(f"{time} is not a time: write seconds, or text such as '1:02:45.5'")
    return round(time * 1_000_000)
