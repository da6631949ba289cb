"""Many committers on one log, killed at random: nothing lost, nothing twice, readable by others at every moment.

    python -m jobs.bench.log_race                      8 processes x 200 commits on a disk
    python -m jobs.bench.log_race --store s3           the same on an S3 server on loopback (moto)

Writers are processes with a run each, under one configuration, over overlapping sets of videos; after each commit they
note in a journal which videos were acknowledged. One more process compacts the log over and over. All of them are
killed with SIGKILL at random moments and replaced by new ones (writers with new runs). Meanwhile, again and again,
Polars reads the Delta table, DuckDB reads it as an Arrow dataset and by its own Parquet reader, and our own lookups
read the index: each sees whole videos, each once, and all see the same. In the end: every acknowledged video is there
once, with all its events and windows, under one run; `check` finds no fault.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from jobs.bench.s3 import storage
from pipeline.event import Event
from pipeline.log.records import RunRecord, VideoResult, WindowRecord
from pipeline.plan import Window

CONFIG = "race"
EVENTS = 7  # of each video
GROUP = 4  # videos of a commit


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.log_race", description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--commits", type=int, default=200, help="commits of each process (default: 200)")
    parser.add_argument("--store", choices=["disk", "s3"], default="disk")
    parser.add_argument("--quick", action="store_true", help="4 processes x 25 commits")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--writer", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--compactor", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.writer:
        uri, journal, run, seed, commits = args.writer
        write(uri, Path(journal), run, int(seed), int(commits), args.processes * args.commits * GROUP // 2)
        return 0
    if args.compactor:
        compact_often(args.compactor)
    if args.quick:
        args.processes, args.commits = 4, 25
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the writers are ended too
    with tempfile.TemporaryDirectory() as folder, storage(args.store, Path(folder)) as uri:
        figures = race(uri, Path(folder), args.processes, args.commits, args.seed)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    return 0


# -- a writer


def result(name: str, run: str) -> VideoResult:
    """A video whose rows say who wrote them."""
    identity = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    events = tuple(
        Event(i * 1000, i * 1000 + 1500, "race", f"{name} {i}", None, 0, 0, (i * 1000,), {}) for i in range(EVENTS)
    )
    window = WindowRecord(Window(identity, 0, 0, EVENTS * 1000), (0,))
    return VideoResult(
        identity, run, CONFIG, (f"/race/{name}",), 1, "done", duration_us=10_000, windows=(window,), events=events
    )


def write(uri: str, journal: Path, run: str, seed: int, commits: int, pool: int) -> None:
    """Commit groups of random videos out of `pool`, a line in the journal for each that is acknowledged."""
    from pipeline.log import EventLog

    generator = random.Random(seed)
    log = EventLog.open(uri)
    log.begin_run(RunRecord(run, CONFIG, {}, "race", "", "", {}, time.time_ns() // 1000))
    with journal.open("a") as lines:
        for _ in range(commits):
            names = {f"v{generator.randrange(pool)}" for _ in range(GROUP)}
            report = log.commit([result(name, run) for name in sorted(names)])
            lines.write(json.dumps([report.committed, report.already]) + "\n")
            lines.flush()
    log.finish_run(run, {}, "done")


def compact_often(uri: str) -> NoReturn:
    """Merge the small files of a log again and again, until killed."""
    from pipeline.log import EventLog

    while True:
        EventLog.open(uri).compact()
        time.sleep(1)


# -- the race


def race(uri: str, folder: Path, processes: int, commits: int, seed: int) -> dict[str, Any]:
    """Run it; raises AssertionError where a promise is broken. Returns what was counted."""
    from pipeline.log import EventLog

    generator = random.Random(seed)
    log = EventLog.open(uri, create=True)
    journals = [folder / f"journal-{i}" for i in range(processes)]
    writers: list[subprocess.Popen[bytes] | None] = [None] * processes
    compactor = None
    kills = killed_compactors = starts = 0
    began = time.monotonic()
    # After so many commits of all, one process is killed: often enough to hit every moment, and few enough to end.
    kill_at = sorted(generator.randrange(1, processes * commits) for _ in range(6 * processes))
    readers = Readers(uri, random.Random(seed))
    try:
        while True:
            readers.look()
            for i, writer in enumerate(writers):
                if writer is not None and writer.poll() is None:
                    continue
                if writer is not None and writer.returncode not in (0, -signal.SIGKILL):
                    raise AssertionError(f"writer {i} ended with status {writer.returncode}")
                left = commits - len(_lines(journals[i]))
                if left > 0:
                    starts += 1
                    mine = [uri, str(journals[i]), f"run-{i}-{starts}", str(seed * 1000 + starts), str(left)]
                    writers[i] = _start("--processes", str(processes), "--commits", str(commits), "--writer", *mine)
                else:
                    writers[i] = None
            alive = [w for w in writers if w is not None and w.poll() is None]
            if not alive and all(w is None for w in writers):
                break
            if compactor is None or compactor.poll() is not None:
                if compactor is not None and compactor.returncode != -signal.SIGKILL:
                    raise AssertionError(f"the compaction ended with status {compactor.returncode}")
                compactor = _start("--compactor", uri)
            if kills < len(kill_at) and alive and sum(len(_lines(j)) for j in journals) >= kill_at[kills]:
                victim = generator.choice([*alive, compactor])
                victim.kill()
                kills += 1
                killed_compactors += victim is compactor
            time.sleep(generator.uniform(0.02, 0.2))
    finally:
        readers.stop()
        for process in (*writers, compactor):
            if process is not None:
                process.kill()
                process.wait()
    took = time.monotonic() - began
    readers.look()
    counts = _settle(log, uri, journals)
    lines = [json.loads(line) for journal in journals for line in _lines(journal)]
    return {
        "processes": processes,
        "commits": len(lines),
        "already there": sum(len(already) for _, already in lines),
        "kill -9": kills,
        "of these, compactions": killed_compactors,
        "writers started": starts,
        "compactions": _compactions(uri),
        "reads meanwhile": readers.count,
        "seconds": round(took, 1),
        **counts,
    }


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "jobs.bench.log_race", *arguments])


def _compactions(uri: str) -> int:
    from deltalake import DeltaTable

    from pipeline.log.store import open_store

    history = DeltaTable(uri, storage_options=open_store(uri).options()).history()
    return sum(commit.get("operation") == "OPTIMIZE" for commit in history)


def _lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


@dataclass
class Readers:
    """Reads the log as others do, again and again in a thread of its own, until stopped."""

    uri: str
    generator: random.Random
    count: int = 0
    _fault: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.count += _read(self.uri, self.generator)
                self._stop.wait(self.generator.random())  # so that those who write get on
        except BaseException as error:  # noqa: BLE001 (a panic in Rust is no Exception)
            self._fault = error

    def look(self) -> None:
        """Raise what went wrong while reading."""
        if self._fault is not None:
            raise AssertionError(f"a reader failed: {self._fault!r}") from self._fault

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _read(uri: str, generator: random.Random) -> int:
    """What other engines see right now: whole videos, each once. Returns how many reads were made."""
    import duckdb
    import polars
    from deltalake import DeltaTable

    from pipeline.log.snapshot import Snapshot
    from pipeline.log.sql import select
    from pipeline.log.store import open_store
    from pipeline.query import Query

    options = open_store(uri).options()
    table = DeltaTable(uri, storage_options=options)
    dataset = table.to_pyarrow_dataset()
    sql = "select record, video_id, count(*), count(distinct run_id) from dataset where record <> 'runs' group by all"
    connection = duckdb.connect()
    connection.register("dataset", dataset)
    rows = connection.execute(sql).fetchall()
    expected = {"events": EVENTS, "videos": 1, "windows": 1}
    for record, video, count, runs in rows:
        assert (count, runs) == (expected[record], 1), f"DuckDB sees {count} {record} of {video} from {runs} runs"
    assert set(Counter(video for _, video, _, _ in rows).values()) <= {3}, "DuckDB: half a video"
    frame = polars.scan_delta(uri, storage_options=options, version=table.version())
    counts = frame.filter(polars.col("record") == "events").group_by("video_id").len().collect()
    assert set(counts["len"].to_list()) <= {EVENTS}, "Polars sees part of a video"
    assert len(counts) == sum(1 for row in rows if row[0] == "events"), "Polars and DuckDB disagree"
    sql = "select count(*) as events, count(distinct video_id) as videos from events"
    (row,) = select(Snapshot(open_store(uri), table.version()), sql).to_pylist()
    assert row == {"events": EVENTS * len(counts), "videos": len(counts)}, f"DuckDB's own reader sees {row}"
    query = Query(uri)
    for video in generator.sample(counts["video_id"].to_list(), min(5, len(counts))):
        if uri.startswith("s3://") and table.version() > query.version:
            break  # an object store's head may be a commit behind
        assert query.between(video, 0, 10_000).num_rows == EVENTS, f"our index does not find {video}"
    return 4


def _settle(log: Any, uri: str, journals: list[Path]) -> dict[str, int]:
    """The promises, after everything; returns what was counted."""
    from pipeline.query import Query

    acknowledged = Counter[str]()
    for journal in journals:
        for line in journal.read_text().splitlines():
            committed, already = json.loads(line)
            acknowledged.update(committed)
            for video in already:
                acknowledged[video] += 0
    assert max(acknowledged.values()) == 1, "a video was acknowledged to two runs"
    there = Counter(log.snapshot().table("videos", ["video_id"])["video_id"].to_pylist())
    lost = acknowledged.keys() - there.keys()
    twice = [video for video, count in there.items() if count > 1]
    assert not lost, f"acknowledged videos are lost: {sorted(lost)[:5]}"
    assert not twice, f"videos are there twice: {twice[:5]}"
    faults = log.check()
    assert not faults, f"check: {faults}"
    log.compact()
    faults = log.check()
    assert not faults, f"check after compaction: {faults}"
    query = Query(uri)
    for video in there:
        assert query.between(video, 0, 10_000).num_rows == EVENTS, f"our index does not find {video}"
    return {"videos in the log": len(there), "lost": len(lost), "twice": len(twice)}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
