"""DuckDB over one version of the log: a view for each kind of record, and nothing else in reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.errors import LogError, UsageError
from pipeline.log.localstore import LocalStore
from pipeline.log.objectstore import ObjectStore
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
    remote = not isinstance(snapshot.store, LocalStore)
    if remote:
        _register(connection, snapshot.store)
    allowed: list[str] = []
    for record, schema in RECORDS.items():
        files = [_address(snapshot, f.path, remote) for f in snapshot.files(record)]
        allowed += files
        if files:
            columns = ", ".join(f'"{name}"' for name in schema.names)
            listed = ", ".join(_quoted(f) for f in files)
            # An empty relation first: columns that no file has yet are there all the same, as nulls.
            connection.register(f"_{record}", schema.empty_table())
            try:
                connection.execute(
                    f"create view {record} as select {columns} from (select * from _{record} union all by name"
                    f" select * from read_parquet([{listed}], union_by_name = true, hive_partitioning = false))"
                )
            except duckdb.Error as error:
                raise _unreadable(snapshot, error) from error
        else:
            connection.register(record, schema.empty_table())
    connection.execute(f"set allowed_paths = [{', '.join(map(_quoted, allowed))}]")
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
    refuses, by a duckdb.Error.
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
            raise UsageError(f"the log is only read here: {kind} statements are refused, ask with SELECT")
        found = connection.sql(sql, params=parameters)
        return (found if rows is None else found.limit(rows)).to_arrow_table()
    except duckdb.IOException as error:
        raise _unreadable(snapshot, error) from error
    except duckdb.Error as error:
        raise UsageError(f"DuckDB: {_said(error)}") from error
    finally:
        connection.close()


def _register(connection: duckdb.DuckDBPyConnection, store: Any) -> None:
    """Let DuckDB read an object store through obstore, with the credentials and endpoint that the log uses."""
    from obstore.fsspec import FsspecStore

    protocol = store.uri.split("://", 1)[0]
    assert isinstance(store, ObjectStore)
    connection.register_filesystem(FsspecStore(protocol, client_options=store.client_options()))


def _address(snapshot: Snapshot, path: str, remote: bool) -> str:
    store = snapshot.store
    return f"{store.uri}/{path}" if remote else store.path(path)  # type: ignore[attr-defined]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _unreadable(snapshot: Snapshot, error: duckdb.Error) -> LogError:
    return LogError(f"{snapshot.store.uri}: {_said(error)}; `secondsight log LOG --check` looks for damage")


def _said(error: Exception) -> str:
    return str(error).strip()
