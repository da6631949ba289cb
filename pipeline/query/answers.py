"""Rows of events as callers want them: Arrow tables for Python, dictionaries for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from arro3.core import RecordBatch


def as_table(batches: Sequence[RecordBatch]) -> pa.Table:
    """arro3 batches of events as one pyarrow table with exactly the columns of `events`."""
    import pyarrow as pa

    from pipeline.log.schema import EVENTS

    tables = []
    for batch in batches:
        found = pa.table(batch)
        if found.schema.names != EVENTS.names or found.schema.types != EVENTS.types:  # written by others, or long ago
            have = set(found.column_names)
            columns = [found[f.name] if f.name in have else pa.nulls(found.num_rows, f.type) for f in EVENTS]
            found = pa.table(columns, names=EVENTS.names).cast(EVENTS)
        tables.append(found)
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables) if tables else EVENTS.empty_table()


def as_rows(batches: Iterable[RecordBatch]) -> list[dict[str, Any]]:
    """arro3 batches of events as dictionaries."""
    return [row for batch in batches for row in batch.to_struct_array().to_pylist()]
