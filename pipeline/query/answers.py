"""Answers as callers want them: events as Arrow tables or dictionaries; sums that say which run they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa
    from arro3.core import RecordBatch


T = TypeVar("T")


class Rows(list[T]):
    """A list that also says which run of its video it is of."""

    def __init__(self, rows: Iterable[T], run_id: str) -> None:
        super().__init__(rows)
        self.run_id = run_id


class Kinds(dict[str, int]):
    """How many events of each kind, and which run of the video they are of; None: of several videos."""

    def __init__(self, counts: Mapping[str, int], run_id: str | None) -> None:
        super().__init__(counts)
        self.run_id = run_id


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
