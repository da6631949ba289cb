"""Reading whole data files, without the table format in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LogError
from pipeline.log.protocol import DataFile
from pipeline.log.schema import RECORDS
from pipeline.log.store import Store

#: Data files that are read at once: in an object store each is a request's time.
THREADS = 16


def read_table(store: Store, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one data file, columns that it was written without as nulls. Raises LogError naming a bad file."""
    schema = RECORDS[file.record]
    if columns is not None:
        schema = pa.schema([schema.field(c) for c in columns])
    try:
        source = pq.ParquetFile(pa.BufferReader(store.read(file.path)))
        present = [c for c in schema.names if c in source.schema_arrow.names]
        table = source.read(columns=present, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise damaged(store, file, error) from error
    arrays = [table[f.name].cast(f.type) if f.name in present else pa.nulls(table.num_rows, f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def read_record(store: Store, files: Sequence[DataFile], record: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of several data files of one record."""
    schema = RECORDS[record]
    if columns is not None:
        schema = pa.schema([schema.field(c) for c in columns])
    files = [f for f in files if f.record == record]
    with ThreadPoolExecutor(min(THREADS, len(files)) or 1) as pool:
        tables = list(pool.map(lambda file: read_table(store, file, columns), files))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def read_rows(store: Store, files: Sequence[DataFile], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of several data files of one record, as dictionaries, one file in memory at a time."""
    for file in files:
        yield from read_table(store, file, columns).to_pylist()


def damaged(store: Store, file: DataFile, error: Exception) -> LogError:
    """The error that names a data file that cannot be read."""
    missing = isinstance(error, FileNotFoundError)
    what = "is missing" if missing else f"is damaged ({' '.join(str(error).split())[:200]})"
    return LogError(
        f"{store.uri}/{file.path}: this data file {what}; `secondsight log LOG --check` says which videos to run again"
    )
