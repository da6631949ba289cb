"""The engines that answer "what goes on in video v at second t" over the same rows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.log.schema import EVENTS
from pipeline.query import Query

Answer = Callable[[str, int], int]


SQL = "video_id = '{0}' and start_us < {2} and end_us > {1}"


def engines(
    path: Path, files: list[str], sqlite: Path, size: int
) -> Iterator[tuple[str, Callable[[], tuple[Answer, dict[str, Any]]], str]]:
    """(name, a function that prepares it, a program that answers once) of each engine; ours first."""

    def ours() -> tuple[Answer, dict[str, Any]]:
        query = Query(str(path))
        return lambda video, us: query.at(video, us).num_rows, {"reads": lambda: query._store.bytes_read}

    yield (
        "secondsight",
        ours,
        "from pipeline.log.lookup import Filter; from pipeline.query import Query, as_rows; q = Query('{path}');"
        "print(as_rows(q.overlapping(q.find('{video}'), {us}, {us} + 1000000, Filter())))",
    )

    def in_duckdb() -> tuple[Answer, dict[str, Any]]:
        import duckdb

        connection = duckdb.connect(config={"threads": 1})
        connection.execute(f"create view events as select * from read_parquet({files!r})")
        sql = "select * from events where video_id = $1 and start_us < $2 and greatest(end_us, start_us + 1) > $3"
        return lambda video, us: len(connection.execute(sql, [video, us + 1_000_000, us]).fetchall()), {}

    yield (
        "DuckDB",
        in_duckdb,
        "import duckdb; print(duckdb.execute('select * from read_parquet($f) where video_id = $v and start_us < $e and"
        " greatest(end_us, start_us + 1) > $s', dict(f={files}, v='{video}', s={us}, e={us} + 1000000)).fetchall())",
    )

    def in_polars() -> tuple[Answer, dict[str, Any]]:
        import polars as pl

        frame = pl.scan_parquet(files)

        def answer(video: str, us: int) -> int:
            end = pl.max_horizontal("end_us", pl.col("start_us") + 1)
            wanted = (pl.col("video_id") == video) & (pl.col("start_us") < us + 1_000_000) & (end > us)
            return len(frame.filter(wanted).collect())

        return answer, {}

    yield (
        "Polars",
        in_polars,
        "import polars as pl; print(pl.scan_parquet({files}).filter((pl.col('video_id') == '{video}') &"
        " (pl.col('start_us') < {us} + 1000000) & (pl.col('end_us') > {us})).collect())",
    )

    def in_delta() -> tuple[Answer, dict[str, Any]]:
        from deltalake import DeltaTable, QueryBuilder

        table = DeltaTable(str(path))

        def answer(video: str, us: int) -> int:
            sql = "select * from log where record = 'events' and " + SQL.format(video, us, us + 1_000_000)
            return int(pa.table(QueryBuilder().register("log", table).execute(sql)).num_rows)

        return answer, {}

    yield (
        "delta-rs (DataFusion)",
        in_delta,
        "from deltalake import DeltaTable, QueryBuilder; print(QueryBuilder().register('log', DeltaTable('{path}'))"
        ".execute(\"select * from log where record = 'events' and video_id = '{video}' and start_us < {us} + 1000000"
        ' and end_us > {us}").read_all())',
    )

    def in_dataset() -> tuple[Answer, dict[str, Any]]:
        import pyarrow.compute as pc
        import pyarrow.dataset as ds

        dataset = ds.dataset(files)

        def answer(video: str, us: int) -> int:
            wanted = pc.field("video_id") == video
            wanted &= (pc.field("start_us") < us + 1_000_000) & (pc.field("end_us") > us)
            return int(dataset.to_table(filter=wanted, use_threads=False).num_rows)

        return answer, {}

    yield (
        "pyarrow.dataset",
        in_dataset,
        "import pyarrow.dataset as ds, pyarrow.compute as pc; print(ds.dataset({files}).to_table(filter="
        "(pc.field('video_id') == '{video}') & (pc.field('start_us') < {us} + 1000000) & (pc.field('end_us') > {us})))",
    )

    def in_sqlite() -> tuple[Answer, dict[str, Any]]:
        import sqlite3

        made = 0.0 if sqlite.exists() else make_sqlite(sqlite, files)
        connection = sqlite3.connect(sqlite)

        def answer(video: str, us: int) -> int:
            sql = "select * from events where video_id = ? and start_us < ? and max(end_us, start_us + 1) > ?"
            return len(connection.execute(sql, (video, us + 1_000_000, us)).fetchall())

        return answer, {"made in s": made or None, "bytes/event": os.stat(sqlite).st_size / size}

    yield (
        "SQLite, index",
        in_sqlite,
        "import sqlite3; c = sqlite3.connect('{sqlite}'); print(c.execute('select * from events where video_id = ?"
        " and start_us < ? and max(end_us, start_us + 1) > ?', ('{video}', {us} + 1000000, {us})).fetchall())",
    )


def make_sqlite(path: Path, files: list[str]) -> float:
    """The events of Parquet files as a table of SQLite with an index on (video_id, start_us, end_us); the seconds."""
    import sqlite3

    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    start = time.perf_counter()
    unfinished = path.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    connection = sqlite3.connect(unfinished)
    connection.execute("pragma journal_mode = off")  # what is made from scratch need not be rolled back
    connection.execute("pragma synchronous = off")
    connection.execute(f"create table events ({', '.join(EVENTS.names)})")
    marks = ", ".join("?" * len(EVENTS.names))
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(65_536):
            evidence = pc.binary_join(batch["evidence_us"].cast(pa.list_(pa.string())), ",")
            columns = [evidence if name == "evidence_us" else batch[name] for name in EVENTS.names]
            rows = zip(*(column.to_pylist() for column in columns), strict=True)
            connection.executemany(f"insert into events values ({marks})", rows)
    connection.execute("create index by_second on events (video_id, start_us, end_us)")
    connection.commit()
    connection.close()
    unfinished.rename(path)
    return time.perf_counter() - start
