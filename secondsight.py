"""Secondsight in three lines of Python:

>>> import secondsight
>>> secondsight.run(["clips/"], log="LOG")            # doctest: +SKIP
>>> secondsight.open("LOG").at("match.mp4", 45)       # doctest: +SKIP

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

    from pipeline.query import Query

__all__ = ["Log", "RunSummary", "SecondsightError", "open", "run"]

Time = float | str


def open(log: str) -> Log:
    """The event log at a path or an fsspec URI, to be asked. Raises LogError where there is none."""
    return Log(log)


class Log:
    """Questions to one event log. `video` is its whole name, the end of it, or the beginning of its id.

    `kinds`: only events of these kinds; `text`: only events whose text holds this; `run`: as this run saw it (its id)
    instead of the newest one. All raise UsageError where the video is not found.
    """

    def __init__(self, uri: str) -> None:
        from pipeline.query import Query

        self.uri = uri
        self.query: Query = Query(uri)

    def at(self, video: str, time: Time, **only: Any) -> pa.Table:
        """What goes on in the second that begins at `time`."""
        return self.query.at(video, _us(time), **_only(**only))

    def between(self, video: str, start: Time, end: Time, **only: Any) -> pa.Table:
        """What goes on at any moment from `start` to before `end`."""
        return self.query.between(video, _us(start), _us(end), **_only(**only))

    def before(self, video: str, time: Time, count: int = 5, **only: Any) -> pa.Table:
        """The last `count` events that begin before `time`."""
        return self.query.before(video, _us(time), count, **_only(**only))

    def after(self, video: str, time: Time, count: int = 5, **only: Any) -> pa.Table:
        """The first `count` events that begin at `time` or later."""
        return self.query.after(video, _us(time), count, **_only(**only))

    def sql(self, query: str) -> pa.Table:
        """The answer of DuckDB to a SELECT over `events`, `videos`, `windows` and `runs`."""
        from pipeline.log.sql import select

        return select(self._log.snapshot(), query)

    def refresh(self) -> None:
        """Answer from the newest version of the log from now on."""
        self.query.refresh()

    @cached_property
    def _log(self) -> Any:
        from pipeline.log import EventLog

        return EventLog.open(self.uri)


def _only(kinds: Collection[str] | None = None, text: str | None = None, run: str | None = None) -> dict[str, Any]:
    return {"kinds": [kinds] if isinstance(kinds, str) else kinds, "text": text, "run": run}


def _us(time: Time) -> int:
    """Seconds, or a time as people write it, in microseconds."""
    if isinstance(time, str):
        return parse_time(time)
    if not 0 <= time < 1e12:
        raise UsageError(f"{time} is not a time: write seconds, or text such as '1:02:45.5'")
    return round(time * 1_000_000)
