"""The event log: a Delta Lake table of Parquet files with an index by video and time beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.log.eventlog import CommitReport, EventLog
    from pipeline.log.records import RunRecord, Status, VideoResult, WindowRecord
    from pipeline.log.snapshot import Snapshot

__all__ = ["CommitReport", "EventLog", "RunRecord", "Snapshot", "Status", "VideoResult", "WindowRecord"]

_HOME = {
    "RunRecord": "pipeline.log.records",
    "Status": "pipeline.log.records",
    "VideoResult": "pipeline.log.records",
    "WindowRecord": "pipeline.log.records",
    "CommitReport": "pipeline.log.eventlog",
    "EventLog": "pipeline.log.eventlog",
    "Snapshot": "pipeline.log.snapshot",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: a lookup does not wait for the writing side (Arrow, delta-rs)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
