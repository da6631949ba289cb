"""Structured logs: what happens in a run as JSON lines, one object each, for whatever collects a cluster's logs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.report import FlowEvent, Progress, VideoTrace, WindowTrace

INTERVAL_S = 10.0  # between two lines that say where the run stands

_LEVELS = {
    "failed": "error",
    "quarantined": "error",
    "retry": "warning",
    "replica_died": "warning",
    "node_lost": "warning",
    "node_draining": "warning",
    "stuck": "warning",
    "waiting": "warning",
}


class Journal:
    """A `workers.report.FlowObserver` that writes JSON lines to `out`.

    Every line has `time` (RFC 3339, UTC), `level`, `event` and `run_id`; the rest depends on `event`. Counts are of
    `workers.report.Progress`.
    """

    def __init__(self, run_id: str, out: IO[str], windows: bool = False, interval_s: float = INTERVAL_S) -> None:
        """`windows`: also a line for each window."""
        self.wants_traces = windows
        self._run_id, self._out, self._interval_s = run_id, out, interval_s
        self._said_s = -interval_s

    def begin(self, facts: Mapping[str, Any]) -> None:
        self._line("run_began", "info", facts)

    def end(self, progress: Progress, state: str, note: str) -> None:
        level = "info" if state == "done" else "error" if state == "failed" else "warning"
        self._line("run_ended", level, {"state": state, **({"note": note} if note else {}), **_counts(progress)})

    def handler(self) -> logging.Handler:
        """What writes the warnings of Python's logging as lines of the same kind, with event "log"."""
        return _Handler(self)

    def logged(self, record: logging.LogRecord) -> None:
        said = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            said["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        self._line("log", record.levelname.lower(), said, round(record.created * 1e6))

    def snapshot(self, progress: Progress) -> None:
        if time.monotonic() - self._said_s >= self._interval_s:
            self._said_s = time.monotonic()
            self._line("progress", "info", _counts(progress))

    def event(self, event: FlowEvent) -> None:
        facts = {"stage": event.stage, "what": event.what, "where": event.where, "detail": event.detail}
        known = {name: fact for name, fact in facts.items() if fact}
        self._line(event.kind, _LEVELS.get(event.kind, "info"), known, event.at_us)

    def traced(self, trace: WindowTrace) -> None:
        facts = {name: getattr(trace, name) for name in trace.__dataclass_fields__}
        self._line("window", "debug", facts, trace.answered_us)

    def recorded(self, trace: VideoTrace) -> None:
        self._line("video", "debug", {"video_id": trace.video_id, "events": trace.events}, trace.committed_us[1])

    def _line(self, event: str, level: str, facts: Mapping[str, Any], at_us: int | None = None) -> None:
        at = datetime.fromtimestamp(at_us / 1e6, UTC) if at_us else datetime.now(UTC)
        line = {"time": at.isoformat(timespec="milliseconds"), "level": level, "event": event, "run_id": self._run_id}
        self._out.write(json.dumps({**line, **facts}, default=str) + "\n")
        self._out.flush()


class _Handler(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._journal.logged(record)
        except Exception:  # noqa: BLE001 - as logging has it: what cannot be said ends nothing
            self.handleError(record)


def _counts(progress: Progress) -> dict[str, Any]:
    """The plain numbers of a progress."""
    names = progress.__dataclass_fields__
    return {n: v for n in names if isinstance(v := getattr(progress, n), int | float) and not isinstance(v, bool)}
