"""The event log against its peers: writing it, its size, and "what goes on in video v at second t" as it grows.

    python -m jobs.bench.log --quick           10^5 and 10^6 events, about a minute
    python -m jobs.bench.log                   10^6 and 10^7
    python -m jobs.bench.log --large           10^8 too (8 GB of disk, minutes)

Every engine answers the same random questions over the same rows, one process and one thread each where it can be
told; answers are compared. Peers read the log's own Parquet files (sorted by video and start, 10^6 rows each) or, for
SQLite, its own table with an index on (video_id, start_us, end_us). A cold time is a whole process: interpreter,
imports, opening, one answer.
"""

from __future__ import annotations

import argparse
import binascii
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.bench.s3 import s3_server
from pipeline.event import Event
from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
from pipeline.log.datafile import ROW_GROUP, write_data_file
from pipeline.log.delta import Delta, create_table
from pipeline.log.head import HEAD, Head
from pipeline.log.index import Entry, Templates, bucket_keys
from pipeline.log.indexing import Rows, index_file
from pipeline.log.schema import EVENTS, VIDEOS
from pipeline.log.store import fresh_name, open_store
from pipeline.plan import Window
from pipeline.query import Query

PER_VIDEO = 400
VIDEO_US = 3_600_000_000
RUN = "bench-run"
FILE_ROWS = 1_000_000
SENTENCE = (
    "a person walks across the yard past two parked cars and waves to someone at the door while it rains then the"
    " camera pans left over the crowd as the player in red shoots and the keeper saves the ball near the post"
)
WORDS = SENTENCE.split()

Question = tuple[str, int]
Answer = Callable[[str, int], int]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.log", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10^5 and 10^6 events")
    parser.add_argument("--large", action="store_true", help="10^8 events too")
    parser.add_argument("--questions", type=int, default=200, help="asked of each engine (default: 200)")
    parser.add_argument("--no-s3", action="store_true", help="leave out the S3 server")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--picture", metavar="FILE", help="draw the growth curve there (SVG)")
    args = parser.parse_args(argv)
    sizes = [10**5, 10**6] if args.quick else [10**6, 10**7, *([10**8] if args.large else [])]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures["write"] = writing(folder / "written", 100 if args.quick else 500)
        _table("writing through EventLog.commit", figures["write"])
        figures["commit"] = committing(folder, quick=args.quick, s3=not args.no_s3)
        _table("commits of small videos (10 events each), one committer", figures["commit"])
        figures["by second"] = []
        for size in sizes:
            rows = by_second(folder / f"log-{size}", size, args.questions)
            figures["by second"] += rows
            _table(f"by second, {size:.0e} events", rows)
        if not args.no_s3:
            figures["cold on S3"] = cold_on_s3(10**5 if args.quick else 10**6)
            _table("one lookup by id on an S3 server, nothing cached", figures["cold on S3"])
        figures["model"] = [at_a_billion(figures["by second"][-1]["keys"], folder / f"log-{sizes[-1]}")]
        _table("bytes of a cold lookup at 10^9 events, computed from this log's index", figures["model"])
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    if args.picture:
        Path(args.picture).write_text(picture(figures["by second"]))
    return 0


def _table(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))))
    sys.stdout.flush()


def _cell(value: object) -> str:
    if isinstance(value, float) and value < 100:
        return f"{value:,.2f}"
    return f"{value:,.0f}" if isinstance(value, int | float) else "" if value is None else str(value)


# -- writing


def some_result(name: str, events: int, generator: random.Random) -> VideoResult:
    """A video as the flow hands it over."""
    identity = f"{generator.getrandbits(128):032x}"
    starts = sorted(generator.randrange(VIDEO_US) for _ in range(events))
    found = tuple(
        Event(
            start,
            start + generator.randrange(1, 30_000_000),
            generator.choice(("shot", "text", "activity", "goal", "black")),
            " ".join(generator.choices(WORDS, k=8)),
            generator.random(),
            start // 15_000_000,
            start // 15_000_000 + 1,
            (start, start + 500_000),
            {"level": generator.randrange(10)},
        )
        for start in starts
    )
    window = WindowRecord(Window(identity, 0, 0, 16_000_000), tuple(range(0, 16_000_000, 500_000)))
    return VideoResult(
        identity, RUN, "bench", (f"/archive/{name}",), 1, "done", duration_us=VIDEO_US, windows=(window,), events=found
    )


def begun(uri: str) -> EventLog:
    log = EventLog.open(uri, create=True)
    log.begin_run(RunRecord(RUN, "bench", {}, "bench", "", "", {}, time.time_ns() // 1000))
    return log


def writing(path: Path, videos: int) -> list[dict[str, Any]]:
    """Events per second of one process, from records to committed rows; then of the compaction of the result."""
    generator = random.Random(1)
    results = [some_result(f"{i}.mp4", PER_VIDEO, generator) for i in range(videos)]
    huge = some_result("huge.mp4", videos * PER_VIDEO, generator)
    tiny = [some_result(f"tiny{i}.mp4", 2, generator) for i in range(10 * videos)]
    log = begun(str(path))
    rows: list[dict[str, Any]] = []
    kinds: list[tuple[str, list[VideoResult], int]] = [
        ("videos of 400 events", results, 50),
        ("one huge video", [huge], 1),
        ("tiny videos", tiny, 500),
    ]
    for what, batch, group in kinds:
        wall, cpu = time.perf_counter(), time.process_time()
        for at in range(0, len(batch), group):
            log.commit(batch[at : at + group])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        events = sum(len(r.events) for r in batch)
        rows.append({"what": what, "events": events, "events/s": events / wall, "events/s of CPU": events / cpu})
        rows[-1]["videos/s"] = len(batch) / wall
    size = sum(f.size_bytes for f in log.snapshot().files("events"))
    total = sum(row["events"] for row in rows)
    rows[0]["bytes/event"] = size / total
    wall, cpu = time.perf_counter(), time.process_time()
    log.compact()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rates = {"events/s": total / wall, "events/s of CPU": total / cpu}
    rows.append({"what": "compaction of all that", "events": total, **rates})
    size = sum(f.size_bytes for f in log.snapshot().files("events"))
    rows[-1]["bytes/event"] = size / total
    return rows


def committing(folder: Path, quick: bool, s3: bool) -> list[dict[str, Any]]:
    """Videos per second through one committer, in groups, on a disk and on an S3 server."""
    rows = [_commits(str(folder / f"commits-{group}"), "disk", group, quick) for group in (1, 16, 64)]
    if s3:
        with s3_server() as bucket:
            rows += [_commits(f"{bucket}/commits-{group}", "S3 server", group, quick) for group in (1, 16, 64)]
    return rows


def _commits(uri: str, where: str, group: int, quick: bool) -> dict[str, Any]:
    generator = random.Random(2)
    count = (10 if quick else 40) * group
    results = [some_result(f"{i}.mp4", 10, generator) for i in range(count)]
    log = begun(uri)
    log.commit([some_result("first.mp4", 10, generator)])
    laps = []
    for at in range(0, count, group):
        start = time.perf_counter()
        log.commit(results[at : at + group])
        laps.append(time.perf_counter() - start)
    return {
        "where": where,
        "group": group,
        "videos/s": count / sum(laps),
        "commit p50 ms": 1e3 * statistics.median(laps),
        "worst ms": 1e3 * max(laps),
    }


# -- a large log, made quickly


def large_log(path: Path, size: int) -> tuple[list[str], dict[str, Any]]:
    """A compacted log of `size` events, as `compact` leaves it; the rows are made by numpy, not by Event objects.

    Returns its video ids and what it measures.
    """
    generator = np.random.default_rng(size)
    store = open_store(str(path))
    create_table(store)
    delta = Delta(store)
    videos = size // PER_VIDEO
    ids = sorted(binascii.hexlify(generator.bytes(16)).decode() for _ in range(videos))
    sentences = pa.array([" ".join(generator.choice(WORDS, 8)) for _ in range(20_000)])
    entries: list[Entry] = []
    files = []
    per_file = FILE_ROWS // PER_VIDEO
    began = time.perf_counter()
    for at in range(0, videos, per_file):
        some = ids[at : at + per_file]
        stem, noted = fresh_name(), Rows()
        written = write_data_file(store, "events", stem, EVENTS, noted.of(_batches(some, generator, sentences)))
        assert written is not None
        files.append(written.file)
        spans = noted.spans(stem, written.footer)
        for v in some:
            entry_spans = tuple(spans[v, RUN])
            entries.append(Entry(v, RUN, "done", "", VIDEO_US, 1, PER_VIDEO, (f"/archive/{v[:8]}.mp4",), entry_spans))
    listed = [
        {"video_id": e.video_id, "run_id": RUN, "config_hash": "bench", "uris": e.uris, "duration_us": VIDEO_US}
        | {"status": "done", "reason": "", "events": PER_VIDEO, "finished_at_us": 1}
        for e in entries
    ]
    batches = pa.Table.from_pylist(listed, schema=VIDEOS).to_batches(max_chunksize=16_384)
    videos_file = write_data_file(store, "videos", fresh_name(), VIDEOS, batches)
    assert videos_file is not None
    assert delta.commit([*files, videos_file.file])
    start, whole = index_file(entries, (), Templates())
    catalog = f"_index/catalog-{fresh_name()}.idx"
    store.create(catalog, whole)
    store.swap(HEAD, Head(delta.version, (catalog, start)).pack(), None)
    data = sum(f.size_bytes for f in files)
    facts = {
        "bytes/event": data / size,
        "index bytes/event": len(whole) / size,
        "head KB": len(start) / 1e3,
        "made in s": time.perf_counter() - began,
        "keys": json.loads(start[16 : 16 + int.from_bytes(start[8:12], "little")])["keys"],
    }
    return ids, facts


def _batches(ids: list[str], generator: np.random.Generator, sentences: pa.Array) -> Iterator[pa.RecordBatch]:
    n = len(ids) * PER_VIDEO
    starts = np.sort(generator.integers(0, VIDEO_US, (len(ids), PER_VIDEO)), axis=1).ravel()
    lengths = generator.lognormal(15.5, 1.2, n).astype(np.int64)  # median 5 s, some of minutes
    ends = np.minimum(starts + lengths, VIDEO_US)
    hexes = binascii.hexlify(generator.bytes(8 * n))
    offsets = pa.py_buffer(np.arange(0, 16 * (n + 1), 16, dtype=np.int32))
    evidence = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 2 * n + 1, 2, dtype=np.int32)), pa.array(np.stack([starts, starts + 500_000], 1).ravel())
    )
    levels = pa.array([json.dumps({"level": i}, separators=(",", ":")) for i in range(10)])
    kinds = pa.array(["shot", "text", "activity", "goal", "black"])
    columns = {
        "video_id": pa.array(np.repeat(np.array(ids, dtype=object), PER_VIDEO)),
        "run_id": pa.array([RUN]).take(pa.array(np.zeros(n, np.int32))),
        "event_id": pa.Array.from_buffers(pa.string(), n, [None, offsets, pa.py_buffer(hexes)]),
        "start_us": pa.array(starts),
        "end_us": pa.array(ends),
        "kind": kinds.take(pa.array(generator.integers(0, 5, n))),
        "text": sentences.take(pa.array(generator.integers(0, len(sentences), n))),
        "confidence": pa.array(generator.random(n, np.float32)),
        "model": pa.array(["bench"]).take(pa.array(np.zeros(n, np.int32))),
        "window_first": pa.array((starts // 15_000_000).astype(np.int32)),
        "window_last": pa.array((ends // 15_000_000).astype(np.int32)),
        "evidence_us": evidence.cast(pa.list_(pa.int64())),
        "attributes": levels.take(pa.array(generator.integers(0, 10, n))),
    }
    table = pa.table([columns[name] for name in EVENTS.names], schema=EVENTS)
    yield from table.to_batches(max_chunksize=ROW_GROUP)


# -- by second


def by_second(path: Path, size: int, questions: int) -> list[dict[str, Any]]:
    """The table of engines at one size."""
    ids, facts = large_log(path, size)
    generator = random.Random(7)
    asked = [(generator.choice(ids), generator.randrange(VIDEO_US // 1_000_000) * 1_000_000) for _ in range(questions)]
    files = [str(path / f.path) for f in EventLog.open(str(path)).snapshot().files("events")]
    sqlite = path.with_suffix(".sqlite")
    rows: list[dict[str, Any]] = []
    expected: list[int] | None = None
    for name, make, cold in engines(path, files, sqlite, size):
        try:
            answer, prepared = make()
        except ImportError:
            continue
        fewer = asked if name in ("secondsight", "SQLite, index") else asked[: max(20, questions // 5)]
        found, laps, cpu, read = _ask(answer, fewer, prepared.pop("reads", _bytes_read))
        expected = expected or found
        if found != expected[: len(found)]:
            raise AssertionError(f"{name} answers differently")
        row: dict[str, Any] = {"engine": name, "events": size, "p50 ms": laps[len(laps) // 2]}
        row |= {"p99 ms": laps[int(len(laps) * 0.99)], "CPU ms": cpu, "KB read": read}
        facts_of = {"path": path, "files": files, "sqlite": sqlite, "video": asked[0][0], "us": asked[0][1]}
        row["cold ms"], row["cold CPU ms"] = _cold(cold.format(**facts_of))
        row |= prepared
        rows.append(row)
    rows[0] |= facts
    sqlite.unlink(missing_ok=True)
    return [*rows[1:], rows[0]]


def _ask(
    answer: Answer, asked: list[Question], reads: Callable[[], int]
) -> tuple[list[int], list[float], float, float]:
    """(rows found per question, ms of each ascending, CPU ms and KB read by each on average)."""
    for video, us in asked[:5]:
        answer(video, us)
    found, laps, before, cpu = [], [], reads(), time.process_time()
    for video, us in asked:
        start = time.perf_counter()
        found.append(answer(video, us))
        laps.append(1e3 * (time.perf_counter() - start))
    cpu = 1e3 * (time.process_time() - cpu) / len(asked)
    return found, sorted(laps), cpu, (reads() - before) / len(asked) / 1e3


def _bytes_read() -> int:
    """Bytes that this process has read by system calls (reads through memory maps are not seen)."""
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])


def _cold(code: str) -> tuple[float, float]:
    """(ms, CPU ms) of a process that answers once: medians of several."""
    laps, cpu = [], []
    for _ in range(7):
        start, used = time.perf_counter(), _children_cpu()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        laps.append(1e3 * (time.perf_counter() - start))
        cpu.append(1e3 * (_children_cpu() - used))
    return statistics.median(laps), statistics.median(cpu)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
        "from pipeline.query import *; q = Query({path!r} + ''); m = q.find({video!r});"
        "print(as_rows(q.overlapping(m, {us}, {us} + 1000000, Filter())))".replace("{path!r} + ''", "'{path}'"),
    )

    def in_sqlite() -> tuple[Answer, dict[str, Any]]:
        import sqlite3

        import pyarrow.parquet as pq

        connection = sqlite3.connect(sqlite)
        columns = ", ".join(EVENTS.names)
        marks = ", ".join("?" * len(EVENTS.names))
        start = time.perf_counter()
        connection.execute(f"create table events ({columns})")
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(65_536):
                lists = [batch[c].to_pylist() for c in EVENTS.names]
                lists[11] = [json.dumps(x) for x in lists[11]]
                connection.executemany(f"insert into events values ({marks})", zip(*lists, strict=True))
        connection.execute("create index by_second on events (video_id, start_us, end_us)")
        connection.commit()
        took = time.perf_counter() - start

        def answer(video: str, us: int) -> int:
            sql = "select * from events where video_id = ? and start_us < ? and max(end_us, start_us + 1) > ?"
            return len(connection.execute(sql, (video, us + 1_000_000, us)).fetchall())

        return answer, {"made in s": took, "bytes/event": os.stat(sqlite).st_size / size}

    if size <= 10**7:
        yield (
            "SQLite, index",
            in_sqlite,
            "import sqlite3; c = sqlite3.connect('{sqlite}'); print(c.execute('select * from events where video_id = ?"
            " and start_us < ? and max(end_us, start_us + 1) > ?', ('{video}', {us} + 1000000, {us})).fetchall())",
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


# -- object store, and what cannot be measured here


def cold_on_s3(size: int) -> list[dict[str, Any]]:
    """Requests and bytes of one lookup on an S3 server, as written (index in the tail) and compacted."""
    generator = random.Random(3)
    rows = []
    with s3_server() as bucket:
        log = begun(f"{bucket}/cold")
        results = [some_result(f"{i}.mp4", PER_VIDEO, generator) for i in range(size // PER_VIDEO)]
        for at in range(0, len(results), 50):
            log.commit(results[at : at + 50])
        for state in ("as written", "compacted"):
            if state == "compacted":
                log.compact()
            asked = [generator.choice(results) for _ in range(20)]
            requests, kilobytes, laps = [], [], []
            for result in asked:
                start = time.perf_counter()
                query = Query(f"{bucket}/cold")
                query.at(result.video_id, result.events[3].start_us)
                laps.append(1e3 * (time.perf_counter() - start))
                requests.append(query._store.requests)
                kilobytes.append(query._store.bytes_read / 1e3)
            rows.append(
                {"state": state, "events": size, "requests": max(requests), "KB": statistics.median(kilobytes)}
                | {"KB at most": max(kilobytes), "p50 ms": statistics.median(laps)}
            )
    return rows


def at_a_billion(keys: int, path: Path) -> dict[str, Any]:
    """Bytes of a cold lookup at 10^9 events: head (2 bytes per bucket, compressed), one bucket, one row group."""
    store = open_store(str(path))
    catalog = max(Path(store.uri, "_index").glob("catalog-*"), key=lambda p: p.stat().st_size)
    billion = 10**9 / PER_VIDEO * 2  # an entry and a name each
    per_key = catalog.stat().st_size / keys
    buckets = 1
    while buckets * bucket_keys(int(billion)) < billion:
        buckets *= 2
    row_group = max(f.size_bytes / f.rows for f in EventLog.open(str(path)).snapshot().files("events")) * ROW_GROUP
    head, bucket = 2 * buckets / 1e3, billion / buckets * per_key / 1e3
    return {"keys": billion, "head KB": head, "bucket KB": bucket, "row group KB": row_group / 1e3} | {
        "together KB": head + bucket + row_group / 1e3,
        "requests": 3,
        "index GB": billion * per_key / 1e9,
    }


def picture(rows: list[dict[str, Any]]) -> str:
    """The growth of each engine's p50 over the number of events, both logarithmic, as SVG."""
    engines_ = list(dict.fromkeys(r["engine"] for r in rows))
    sizes = sorted({r["events"] for r in rows})
    left, top, width, height = 70, 30, 520, 360
    low, high = -2, 4  # 0.01 ms to 10 s

    def x(events: float) -> float:
        span = np.log10(sizes[-1]) - np.log10(sizes[0]) or 1
        return float(left + width * (np.log10(events) - np.log10(sizes[0])) / span)

    def y(ms: float) -> float:
        return float(top + height * (high - np.log10(max(ms, 10**low))) / (high - low))

    colours = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{top + height + 50}" font-family="sans-serif"'
        ' font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="18">p50 of "what goes on in video v at second t", warm (ms)</text>',
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4}" text-anchor="end">{10.0**power:g}</text>')
    for size in sizes:
        parts.append(f'<text x="{x(size)}" y="{top + height + 20}" text-anchor="middle">{size:.0e}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">events in the log</text>')
    for i, engine in enumerate(engines_):
        colour = colours[i % len(colours)]
        points = [(x(r["events"]), y(r["p50 ms"])) for r in rows if r["engine"] == engine]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        parts.append(f'<text x="{left + width + 15}" y="{top + 20 + 18 * i}" fill="{colour}">{engine}</text>')
    return "\n".join([*parts, "</svg>"])


if __name__ == "__main__":
    sys.exit(main())
