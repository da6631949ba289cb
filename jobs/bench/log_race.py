"""Many committers on one log, killed at random: nothing lost, nothing twice, readable by others at every moment.

    python -m jobs.bench.log_race                      8 processes x 200 commits on a disk
    python -m jobs.bench.log_race --store s3           the same on an S3 server on loopback (moto)

Writers are processes with a run each, under one configuration, over overlapping sets of videos; after each commit they
note in a journal which videos were acknowledged. They are killed with SIGKILL at random moments and replaced by new
ones with new runs. Meanwhile Polars and DuckDB read the Delta table, and our own lookups the index. In the end:
every acknowledged video is there once, with all its events and windows, under one run; `check` finds no fault.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    args = parser.parse_args(argv)
    if args.writer:
        uri, journal, run, seed, commits = args.writer
        write(uri, Path(journal), run, int(seed), int(commits), args.processes * args.commits * GROUP // 2)
        return 0
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


@contextlib.contextmanager
def storage(kind: str, folder: Path) -> Iterator[str]:
    """Where to put the log: a folder, or a bucket of an S3 server started here."""
    if kind == "disk":
        yield str(folder / "log")
        return
    with s3_server() as bucket:
        yield f"{bucket}/log"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """A moto server in a process of its own, on loopback; yields the URI of a bucket, the environment set for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ.update(settings)
    try:
        import boto3

        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the S3 server did not start")
            time.sleep(0.1)
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="secondsight")
        yield "s3://secondsight"
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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


# -- the race


def race(uri: str, folder: Path, processes: int, commits: int, seed: int) -> dict[str, Any]:
    """Run it; raises AssertionError where a promise is broken. Returns what was counted."""
    from pipeline.log import EventLog

    generator = random.Random(seed)
    log = EventLog.open(uri, create=True)
    journals = [folder / f"journal-{i}" for i in range(processes)]
    writers: list[subprocess.Popen[bytes] | None] = [None] * processes
    kills = starts = reads = 0
    began = time.monotonic()
    next_kill = began + generator.uniform(1.5, 4)
    allowed = processes + 2 * processes  # kills; enough to hit every moment, few enough to end
    try:
        while True:
            for i, writer in enumerate(writers):
                if writer is not None and writer.poll() is None:
                    continue
                if writer is not None and writer.returncode not in (0, -signal.SIGKILL):
                    raise AssertionError(f"writer {i} ended with status {writer.returncode}")
                left = commits - (len(journals[i].read_text().splitlines()) if journals[i].exists() else 0)
                if left > 0:
                    starts += 1
                    mine = [uri, str(journals[i]), f"run-{i}-{starts}", str(seed * 1000 + starts), str(left)]
                    command = [sys.executable, "-m", "jobs.bench.log_race", "--processes", str(processes)]
                    writers[i] = subprocess.Popen([*command, "--commits", str(commits), "--writer", *mine])
                else:
                    writers[i] = None
            alive = [w for w in writers if w is not None and w.poll() is None]
            if not alive and all(w is None for w in writers):
                break
            if time.monotonic() > next_kill and alive and kills < allowed:
                generator.choice(alive).kill()
                kills += 1
                next_kill = time.monotonic() + generator.uniform(0.3, 2)
            reads += _read(uri, generator)
            time.sleep(0.2)
    finally:
        for writer in writers:
            if writer is not None:
                writer.kill()
                writer.wait()
    took = time.monotonic() - began
    counts = _settle(log, uri, journals)
    lines = [json.loads(line) for journal in journals for line in journal.read_text().splitlines()]
    return {
        "processes": processes,
        "commits": len(lines),
        "already there": sum(len(already) for _, already in lines),
        "kill -9": kills,
        "writers started": starts,
        "reads meanwhile": reads,
        "seconds": round(took, 1),
        **counts,
    }


def _read(uri: str, generator: random.Random) -> int:
    """What other engines see right now: whole videos, each once. Returns how many reads were made."""
    import duckdb
    import polars
    from deltalake import DeltaTable

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
    query = Query(uri)
    for video in generator.sample(counts["video_id"].to_list(), min(5, len(counts))):
        if uri.startswith("s3://") and table.version() > query.version:
            break  # an object store's head may be a commit behind
        assert query.between(video, 0, 10_000).num_rows == EVENTS, f"our index does not find {video}"
    return 3


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
