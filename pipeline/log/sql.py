"""DuckDB over one version of the log: a view for each kind of record, and nothing else in reach."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.errors import LogError, UsageError
from pipeline.log.readonly import REFUSED, SCHEME, ReadOnly
from pipeline.log.schema import RECORDS
from pipeline.log.snapshot import Snapshot

#: Characters of a query: DuckDB takes minutes over a megabyte of columns.
MAX_QUERY = 65_536


def connect(snapshot: Snapshot, settings: Mapping[str, str | int] | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with a view per kind of record; it can open the data files of this version and no others.

    `settings`: DuckDB's own (memory_limit, threads). Raises LogError where one of them is missing or damaged.
    """
    fixed = {"autoinstall_known_extensions": "false", "python_enable_replacements": "false"}
    connection = duckdb.connect(":memory:", config={**(settings or {}), **fixed})
    connection.register_filesystem(ReadOnly(snapshot))
    allowed: list[str] = []
    for record, schema in RECORDS.items():
        files = [f"{SCHEME}{f.path}" for f in snapshot.files(record)]
        allowed += files
        if files:
            columns = ", ".join(f'"{name}"' for name in schema.names)
            # An empty relation first: columns that no file has yet are there all the same, as nulls.
            connection.register(f"_{record}", schema.empty_table())
            try:
                connection.execute(
                    f"create view {record} as select {columns} from (select * from _{record} union all by name"
                    f" select * from read_parquet([{_listed(files)}], union_by_name = true, hive_partitioning = false))"
                )
            except duckdb.Error as error:
                raise unreadable(snapshot, error) from error
        else:
            connection.register(record, schema.empty_table())
    connection.execute(f"set allowed_paths = [{_listed(allowed)}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def select(
    snapshot: Snapshot,
    sql: str,
    parameters: list[Any] | None = None,
    rows: int | None = None,
    settings: Mapping[str, str | int] | None = None,
) -> pa.Table:
    """The answer to one SELECT, or its first `rows`; `settings` as of `connect`.

    Raises UsageError for anything but a query, for one of more than MAX_QUERY characters, and for one that DuckDB
    refuses, by a duckdb.Error; LogError for a log that cannot be read.
    """
    if len(sql) > MAX_QUERY:
        raise UsageError(f"a query of {len(sql)} characters: at most {MAX_QUERY}")
    if not sql.isascii() and sql != sql.encode("utf-8", "replace").decode():
        raise UsageError("a query with bytes that are no text: write it in UTF-8")
    connection = connect(snapshot, settings)
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise UsageError(f"one query at a time: this is {len(statements)} statements")
        if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
            kind = str(statements[0].type).rsplit(".", 1)[-1]
            raise UsageError(f"{REFUSED}: {kind} statements are refused, ask with SELECT")
        found = connection.sql(sql, params=parameters)
        return _whole_numbers((found if rows is None else found.limit(rows)).to_arrow_table())
    except duckdb.Error as error:
        said = _said(error)
        if REFUSED in said:
            raise UsageError(f"{REFUSED}: ask with a SELECT that writes nothing") from error
        if isinstance(error, duckdb.IOException) or said != str(error).strip():  # our filesystem could not read
            raise unreadable(snapshot, error) from error
        raise UsageError(f"DuckDB: {said}") from error
    finally:
        connection.close()


def _whole_numbers(table: pa.Table) -> pa.Table:
    """DuckDB's sums of integers have 128 bits, which few readers know: 64 where they do."""
    for place, field in enumerate(table.schema):
        if field.type == pa.decimal128(38, 0):
            with contextlib.suppress(pa.ArrowInvalid):
                table = table.set_column(place, field.name, table.column(place).cast(pa.int64()))
    return table


def unreadable(snapshot: Snapshot, error: duckdb.Error) -> LogError:
    """What is said where DuckDB cannot read the log's own files."""
    return LogError(f"{snapshot.store.uri}: {_said(error)[:500]}; `secondsight log LOG --check` looks for damage")


def _listed(paths: Sequence[str]) -> str:
    return ", ".join("'" + path.replace("'", "''") + "'" for path in paths)


def _said(error: duckdb.Error) -> str:
    """Without the traceback of our own filesystem (readonly.py), which DuckDB puts into its text."""
    said = str(error).strip()
    return said.splitlines()[-1].split("Error: ", 1)[-1] if "Traceback (most recent" in said else said
