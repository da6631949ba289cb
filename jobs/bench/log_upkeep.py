"""Readers and a writer beside a compaction: what they lose."""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.bench.log_write import begun, some_result
from pipeline.log import EventLog, RunRecord
from pipeline.query import Query

GROUP = 16
EVENTS = 100
COMPACT = "import sys; from pipeline.log import EventLog; EventLog.open(sys.argv[1]).compact()"


def beside_a_compaction(folder: Path, commits: int) -> list[dict[str, Any]]:
    """Lookups and commits alone, and while a compaction of `commits` small commits runs in another process.

    The compaction takes CPU time from whoever shares its cores: the CPU time of an operation tells what the log itself
    costs more.
    """
    generator = random.Random(1)
    log = begun(str(folder / "base"))
    videos: list[str] = []
    for i in range(commits):
        results = [some_result(f"{i}-{k}.mp4", EVENTS, generator) for k in range(GROUP)]
        log.commit(results)
        videos += [r.video_id for r in results]
    rows: list[dict[str, Any]] = []
    for what in ("lookup", "commit of 16 videos"):
        for compacting in (False, True):
            path = folder / f"copy-{len(rows)}"
            shutil.copytree(folder / "base", path)
            operation = reading(path, videos) if what == "lookup" else writing_to(path)
            operation()
            process = subprocess.Popen([sys.executable, "-c", COMPACT, str(path)]) if compacting else None
            laps: list[float] = []
            start, cpu = time.perf_counter(), time.process_time()
            while (process is not None and process.poll() is None) or len(laps) < 100:
                lap = time.perf_counter()
                operation()
                laps.append(1e3 * (time.perf_counter() - lap))
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
            if process is not None and process.returncode:
                raise AssertionError(f"the compaction ended with status {process.returncode}")
            if EventLog.open(str(path)).check(deep=False):
                raise AssertionError("the log is damaged")
            row: dict[str, Any] = {
                "what": what,
                "beside": "a compaction" if compacting else "nothing",
                "times": len(laps),
            }
            row |= {"p50 ms": statistics.median(laps), "p99 ms": sorted(laps)[int(0.99 * len(laps))]}
            rows.append(row | {"CPU ms": 1e3 * cpu / len(laps), "s": took})
            shutil.rmtree(path)
    return rows


def reading(path: Path, videos: list[str]) -> Callable[[], object]:
    """A lookup of a random second, by a reader that moves on to the newest version now and then."""
    generator, query = random.Random(2), Query(str(path))
    count = iter(range(10**9))

    def lookup() -> object:
        if next(count) % 20 == 0:
            query.refresh()
        return query.at(generator.choice(videos), generator.randrange(3600) * 1_000_000)

    return lookup


def writing_to(path: Path) -> Callable[[], object]:
    """A commit of small videos."""
    generator, log = random.Random(3), EventLog.open(str(path))
    log.begin_run(RunRecord("second-run", "bench", {}, "bench", "", "", {}, time.time_ns() // 1000))
    count = iter(range(10**9))

    def commit() -> object:
        number = next(count)
        return log.commit([some_result(f"new-{number}-{k}.mp4", EVENTS, generator, "second-run") for k in range(GROUP)])

    return commit
