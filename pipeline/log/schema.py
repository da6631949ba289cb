"""The rows of the event log, as Arrow types.

One Delta table holds every kind of row, told apart (and stored apart) by its partition column `record`: "events",
"videos", "windows", "runs", "names". Delta commits are atomic within one table and not across tables, so this is what
makes a video's events, windows and own row appear together or not at all to *every* reader of the Delta log.
A data file carries only the columns of its own record; to a reader of the whole table the others are null.

All times are integer microseconds: `*_us` on the video's timeline, `*_at_us` Unix time.
"""

from __future__ import annotations

import pyarrow as pa

#: Raised when a log written by older code could be misread by this one. Columns may be added without raising it.
TABLE_VERSION = 1

#: Key of the schema version in the Delta table's configuration; its presence marks the table as an event log.
SCHEMA_KEY = "secondsight.schemaVersion"

EVENTS = pa.schema(
    [
        ("video_id", pa.string()),
        ("run_id", pa.string()),
        ("event_id", pa.string()),
        ("start_us", pa.int64()),
        ("end_us", pa.int64()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("confidence", pa.float32()),
        ("model", pa.string()),
        ("window_first", pa.int32()),
        ("window_last", pa.int32()),
        ("evidence_us", pa.list_(pa.int64())),
        ("attributes", pa.string()),  # JSON object
    ]
)

VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),
        ("run_id", pa.string()),
        ("config_hash", pa.string()),
        ("uris", pa.list_(pa.string())),
        ("duration_us", pa.int64()),
        ("offset_us", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("codec", pa.string()),
        ("frame_rate", pa.float64()),
        ("size_bytes", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("windows", pa.int64()),
        ("frames", pa.int64()),
        ("events", pa.int64()),
        ("decode_s", pa.float64()),
        ("model_s", pa.float64()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("lost_us", pa.list_(pa.struct([("start_us", pa.int64()), ("end_us", pa.int64())]))),
        ("finished_at_us", pa.int64()),
    ]
)

WINDOWS = pa.schema(
    [
        ("video_id", pa.string()),
        ("run_id", pa.string()),
        ("window", pa.int32()),
        ("start_us", pa.int64()),
        ("end_us", pa.int64()),
        ("frame_us", pa.list_(pa.int64())),
        ("model", pa.string()),
        ("attempt", pa.int32()),
        ("replica", pa.string()),
        ("decode_s", pa.float64()),
        ("model_s", pa.float64()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("truncated", pa.bool_()),
        ("answer", pa.string()),
    ]
)

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("config_hash", pa.string()),
        ("config", pa.string()),  # JSON
        ("model", pa.string()),
        ("weights_hash", pa.string()),
        ("code_version", pa.string()),
        ("host", pa.string()),  # JSON
        ("status", pa.string()),  # "running" until finish_run
        ("started_at_us", pa.int64()),
        ("finished_at_us", pa.int64()),
        ("forecast", pa.string()),  # JSON
        ("totals", pa.string()),  # JSON
    ]
)

#: The same content found under another name after its video was committed.
NAMES = pa.schema([("video_id", pa.string()), ("uri", pa.string())])

RECORDS: dict[str, pa.Schema] = {
    "events": EVENTS,
    "videos": VIDEOS,
    "windows": WINDOWS,
    "runs": RUNS,
    "names": NAMES,
}


def table_schema() -> pa.Schema:
    """Every column of the Delta table: `record`, then the columns of all records; equal names have equal types."""
    columns: dict[str, pa.Field] = {"record": pa.field("record", pa.string())}
    for record in RECORDS.values():
        for column in record:
            if columns.setdefault(column.name, column).type != column.type:
                raise TypeError(f"column {column.name} has two types")
    return pa.schema(columns.values())
