"""The event log: a Delta Lake table of Parquet files with an index by video and time beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.log.records import RunRecord, Status, VideoResult, WindowRecord

if TYPE_CHECKING:
    from pipeline.log.eventlog import CommitReport, EventLog
    from pipeline.log.snapshot import Snapshot

__all__ = ["CommitReport", "EventLog", "RunRecord", "Snapshot", "Status", "VideoResult", "WindowRecord"]

_LAZY = {
    "CommitReport": "pipeline.log.eventlog",
    "EventLog": "pipeline.log.eventlog",
    "Snapshot": "pipeline.log.snapshot",
}


def __getattr__(name: str) -> Any:
    """Import the writing side (Arrow, delta-rs) only when it is asked for: a lookup starts without it."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
