"""DuckDB over one version of the log: a view for each kind of record, and nothing else in reach."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.decimals import as_written
from pipeline.errors import LogError, UsageError
from pipeline.log.ahead import Ahead
from pipeline.log.readonly import REFUSED, SCHEME, ReadOnly
from pipeline.log.schema import RECORDS
from pipeline.log.snapshot import Snapshot

#: Characters of a query: DuckDB takes minutes over a megabyte of columns.
MAX_QUERY = 65_536


def connect(
    snapshot: Snapshot,
    settings: Mapping[str, str | int] | None = None,
    records: Collection[str] = tuple(RECORDS),
    ahead: Ahead | None = None,
) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with a view for each of `records`; it can open the data files of this version and no others.

    `settings`: DuckDB's own (memory_limit, threads); `ahead`: who keeps of the files what the next connection needs,
    too. Raises LogError where one of them is missing or damaged.
    """
    ahead = ahead or Ahead(snapshot.store)
    connection = _closed_in(snapshot, settings, ahead)
    _show(connection, snapshot, records, ahead)
    return connection


def _closed_in(snapshot: Snapshot, settings: Mapping[str, str | int] | None, ahead: Ahead) -> duckdb.DuckDBPyConnection:
    """A DuckDB that can open the data files of this version, knows none of them, and has nothing else in reach."""
    fixed = {"autoinstall_known_extensions": "false", "python_enable_replacements": "false"}
    connection = duckdb.connect(":memory:", config={**(settings or {}), **fixed})
    connection.register_filesystem(ReadOnly(snapshot, ahead))
    allowed = [f"{SCHEME}{f.path}" for record in RECORDS for f in snapshot.files(record)]
    connection.execute(f"set allowed_paths = [{_listed(allowed)}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def _show(connection: duckdb.DuckDBPyConnection, snapshot: Snapshot, records: Collection[str], ahead: Ahead) -> None:
    """Make the views of these records, each of which opens all its files: DuckDB looks at their columns."""
    ahead.fetch([file for record in records for file in snapshot.files(record)])
    for record in records:
        columns = ", ".join(f'"{name}"' for name in RECORDS[record].names)
        # An empty relation first: columns that no file has yet are there all the same, as nulls.
        relation = _empty(connection, RECORDS[record])
        if files := [f"{SCHEME}{f.path}" for f in snapshot.files(record)]:
            found = f"read_parquet([{_listed(files)}], union_by_name = true, hive_partitioning = false)"
            relation = f"{relation} union all by name select * from {found}"
        try:
            connection.execute(f"create or replace view {record} as select {columns} from ({relation})")
        except duckdb.Error as error:
            raise unreadable(snapshot, error) from error


def _empty(connection: duckdb.DuckDBPyConnection, schema: pa.Schema) -> str:
    """A SELECT of no rows with the columns of a schema."""
    relation = connection.from_arrow(schema.empty_table())
    columns = zip(relation.columns, relation.types, strict=True)
    return "select " + ", ".join(f'null::{kind} as "{name}"' for name, kind in columns) + " where false"


#: What tells of all views, whichever a query names, or takes a query out of a text.
_OF_ALL = re.compile(
    r"\b(show|pragma|duckdb_\w+|pg_\w+|sqlite_\w+|information_schema|json_execute\w+)\b", re.IGNORECASE
)


def named(connection: duckdb.DuckDBPyConnection, sql: str) -> Collection[str]:
    """The records that a query reads, or more: all where that is not plain to see."""
    try:
        names = {name.casefold() for name in connection.get_table_names(sql)}
    except duckdb.Error:  # such as a query with parameters, or a wrong one: the names that stand in it anywhere
        if re.search(r"\bquery(_table)?\b", sql, re.IGNORECASE):
            return RECORDS
        names = {record for record in RECORDS if record in sql.casefold()}
    found = [record for record in RECORDS if record in names]
    return RECORDS if _OF_ALL.search(sql) or (not found and "describe" in sql.casefold()) else found


def select(
    snapshot: Snapshot,
    sql: str,
    parameters: list[Any] | None = None,
    rows: int | None = None,
    settings: Mapping[str, str | int] | None = None,
) -> pa.Table:
    """The answer to one SELECT, or its first `rows`; `settings` as of `connect`. No two columns have one name.

    Only the files of the views that it names are read. Raises UsageError for anything but a query, for one of more than
    MAX_QUERY characters, and for one that DuckDB refuses, by a duckdb.Error; LogError for a log that cannot be read.
    """
    if len(sql) > MAX_QUERY:
        raise UsageError(f"a query of {len(sql)} characters: at most {MAX_QUERY}")
    if not sql.isascii() and sql != sql.encode("utf-8", "replace").decode():
        raise UsageError("a query with bytes that are no text: write it in UTF-8")
    ahead = Ahead(snapshot.store)
    connection = _closed_in(snapshot, settings, ahead)
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise UsageError(f"one query at a time: this is {len(statements)} statements")
        if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
            kind = str(statements[0].type).rsplit(".", 1)[-1]
            if kind == "MULTI" and re.search(r"\bpivot", sql, re.IGNORECASE):  # DuckDB would make a type
                raise UsageError("PIVOT needs its values here: pivot events on kind in ('a', 'b') using count(*)")
            raise UsageError(f"{REFUSED}: {kind} statements are refused, ask with SELECT")
        _show(connection, snapshot, named(connection, sql), ahead)
        try:
            found = connection.sql(sql, params=parameters)
        except duckdb.CatalogException:  # a name of nothing: with all views there, DuckDB says what may be meant
            _show(connection, snapshot, RECORDS, ahead)
            found = connection.sql(sql, params=parameters)
        table = (found if rows is None else found.limit(rows)).to_arrow_table()
        return _whole_numbers(table.rename_columns(_apart(found.columns)))
    except duckdb.Error as error:
        said = _said(error)
        if REFUSED in said:
            raise UsageError(f"{REFUSED}: ask with a SELECT that writes nothing") from error
        if isinstance(error, duckdb.IOException) or said != str(error).strip():  # our filesystem could not read
            raise unreadable(snapshot, error) from error
        raise UsageError(f"DuckDB: {said}") from error
    finally:
        connection.close()


def _apart(names: Sequence[str]) -> list[str]:
    """The names of columns, each different from all others in any case: a, a_1, a_2."""
    taken = {name.casefold() for name in names}
    found: list[str] = []
    seen: set[str] = set()
    for name in names:
        number, apart = 0, name
        while apart.casefold() in seen or (number and apart.casefold() in taken):
            number += 1
            apart = f"{name}_{number}"
        seen.add(apart.casefold())
        found.append(apart)
    return found


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    """The rows of an answer as Python's values. A column with dates that Python does not have (infinity, the year
    294247) is text, as DuckDB writes it."""
    return list(zip(*(_cells(column) for column in table.columns), strict=True))


def _cells(column: pa.ChunkedArray) -> list[Any]:
    try:
        cells = column.to_pylist()
    except (ValueError, OverflowError):
        with duckdb.connect(":memory:") as connection:
            texts = connection.from_arrow(pa.table({"cell": column})).project("cell::varchar")
            return [text for (text,) in texts.fetchall()]
    written = _written(column.type)
    return cells if written is None else [written(cell) for cell in cells]


def _written(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """Makes values of a type such whose numbers of single precision are as they were written; None: it has none."""
    if pa.types.is_float32(kind):
        return as_written
    if pa.types.is_struct(kind):
        fields = {field.name: written for field in kind if (written := _written(field.type)) is not None}
        if fields:
            return lambda cell: cell and {k: fields[k](v) if k in fields else v for k, v in cell.items()}
    elif pa.types.is_map(kind):
        key, item = _written(kind.key_type) or _as_it_is, _written(kind.item_type) or _as_it_is
        if key is not _as_it_is or item is not _as_it_is:
            return lambda cell: cell and [(key(k), item(v)) for k, v in cell]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        of_each = _written(kind.value_type)
        if of_each is not None:
            return lambda cell: cell and [of_each(each) for each in cell]
    return None


def _as_it_is(value: Any) -> Any:
    return value


def plain(cell: Any) -> Any:
    """A value as JSON has it: what it does not know (dates, decimals, bytes) is text, a number that is none null."""
    if cell is None or isinstance(cell, str | bool | int):
        return cell
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, list | tuple):
        return [plain(each) for each in cell]
    if isinstance(cell, dict):
        return {str(key): plain(each) for key, each in cell.items()}
    return cell.hex() if isinstance(cell, bytes) else str(cell)


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
