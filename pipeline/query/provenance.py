"""Where an event comes from: the run, and the windows in which the model saw it, read from the log's tables."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.log.protocol import DataFile
from pipeline.log.ranged import open_parquet
from pipeline.log.reader import damaged
from pipeline.log.schema import WINDOWS
from pipeline.log.snapshot import Snapshot
from pipeline.log.store import Store


def provenance(store: Store, version: int, event: dict[str, Any]) -> dict[str, Any]:
    """`run` and `windows` of a row of `events` (see Query.provenance)."""
    snapshot = Snapshot(store, version)
    runs = snapshot.table(
        "runs", ["run_id", "model", "weights_hash", "code_version", "status", "config_hash", "config"]
    )
    run = next((row for row in runs.to_pylist() if row["run_id"] == event["run_id"]), None)
    if run is not None:
        config = json.loads(run.pop("config") or "{}")
        run["sampling"] = {key: config[key] for key in ("sampling", "windowing") if key in config}
    wanted = (
        (pc.field("video_id") == event["video_id"])
        & (pc.field("run_id") == event["run_id"])
        & (pc.field("window") >= event["window_first"])
        & (pc.field("window") <= event["window_last"])
    )
    rows = []
    for file in snapshot.files("windows"):
        if not file.first_video or file.first_video <= event["video_id"] <= file.last_video:
            rows += _rows(store, file, event["video_id"], wanted)
    rows.sort(key=lambda row: row["window"])
    return {"run": run, "windows": [{k: v for k, v in r.items() if k not in ("video_id", "run_id")} for r in rows]}


def _rows(store: Store, file: DataFile, video_id: str, wanted: pc.Expression) -> list[dict[str, Any]]:
    """The wanted rows of a data file of windows, from the row groups that may hold the video."""
    try:
        source = open_parquet(store, file)
        column = source.schema_arrow.names.index("video_id")
        found: list[dict[str, Any]] = []
        for number in range(source.num_row_groups):
            bounds = source.metadata.row_group(number).column(column).statistics
            if bounds is None or not bounds.has_min_max or bounds.min <= video_id <= bounds.max:
                present = [name for name in WINDOWS.names if name in source.schema_arrow.names]
                found += source.read_row_group(number, columns=present, use_threads=False).filter(wanted).to_pylist()
        return found
    except (pa.ArrowException, OSError) as error:
        raise damaged(store, file, error) from error
