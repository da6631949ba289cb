"""The by-second table: the same random questions to every engine, warm and cold; and a lookup on an object store."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.log_large import large_log
from jobs.bench.log_peers import Answer, engines
from jobs.bench.log_write import PER_VIDEO, VIDEO_US, begun, some_result
from jobs.bench.s3 import s3_server
from pipeline.log import EventLog
from pipeline.query import Query

Question = tuple[str, int]


def by_second(path: Path, size: int, questions: int, keep: bool, leave: Collection[str] = ()) -> list[dict[str, Any]]:
    """The table of engines at one size, without those to `leave` out; `keep`: the SQLite database is left for the next
    time."""
    ids, facts = large_log(path, size)
    generator = random.Random(7)
    asked = [(generator.choice(ids), generator.randrange(VIDEO_US // 1_000_000) * 1_000_000) for _ in range(questions)]
    files = [str(path / f.path) for f in EventLog.open(str(path)).snapshot().files("events")]
    sqlite = path.with_suffix(".sqlite")
    rows: list[dict[str, Any]] = []
    expected: list[int] | None = None
    for name, make, cold in engines(path, files, sqlite, size):
        if name in leave:
            rows.append({"engine": name, "events": size, "left out": "its table was not made"})
            continue
        try:
            answer, prepared = make()
        except ImportError:
            continue
        fewer = (
            asked
            if name in ("secondsight", "SQLite, index")
            else asked[: max(20, questions // (5 if size < 10**8 else 10))]
        )
        with quiet():
            found, laps, cpu, read = _ask(answer, fewer, prepared.pop("reads", _bytes_read))
        expected = expected or found
        if found != expected[: len(found)]:
            raise AssertionError(f"{name} answers differently")
        row: dict[str, Any] = {"engine": name, "events": size, "p50 ms": laps[len(laps) // 2]}
        row |= {"p99 ms": laps[int(len(laps) * 0.99)], "CPU ms": cpu, "KB read": read}
        facts_of = {"path": path, "files": files, "sqlite": sqlite, "video": asked[0][0], "us": asked[0][1]}
        program = path.with_suffix(".py")  # a file: a list of many data files is too long for an argument
        program.write_text(cold.format(**facts_of))
        with quiet():
            row["cold ms"], row["cold CPU ms"] = _cold(program)
        row |= prepared
        rows.append(row)
        print(f"  {name} at {size:.0e}: p50 {row['p50 ms']:.2f} ms", file=sys.stderr)
    rows[0] |= facts
    if not keep:
        sqlite.unlink(missing_ok=True)
    return [*rows[1:], rows[0]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Around what is timed: where $BENCH_LOCK names a file, no other benchmark that does the same runs meanwhile."""
    name = os.environ.get("BENCH_LOCK")
    if name is None:
        yield
        return
    with open(name, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ask(
    answer: Answer, asked: list[Question], reads: Callable[[], int]
) -> tuple[list[int], list[float], float, float]:
    """(rows found per question, ms of each ascending, CPU ms and KB read by each on average). Warm: each has been asked
    once before, of who takes over 50 ms the first five."""
    start = time.perf_counter()
    for i, (video, us) in enumerate(asked):
        if i >= 5 and time.perf_counter() - start > 0.05 * i:
            break
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


def _cold(program: Path) -> tuple[float, float]:
    """(ms, CPU ms) of a process that answers once: medians of several."""
    laps, cpu = [], []
    for _ in range(7):
        start, used = time.perf_counter(), _children_cpu()
        command = [sys.executable, str(program)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.getcwd()})
        laps.append(1e3 * (time.perf_counter() - start))
        cpu.append(1e3 * (_children_cpu() - used))
    return statistics.median(laps), statistics.median(cpu)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
                query.at(result.video_id, list(result.events)[3].start_us)
                laps.append(1e3 * (time.perf_counter() - start))
                requests.append(query._store.requests)
                kilobytes.append(query._store.bytes_read / 1e3)
            rows.append(
                {"state": state, "events": size, "requests": max(requests), "KB": statistics.median(kilobytes)}
                | {"KB at most": max(kilobytes), "p50 ms": statistics.median(laps)}
            )
    return rows


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
        parts.append(f'<text x="{x(size)}" y="{top + height + 20}" text-anchor="middle">{size:,}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">events in the log</text>')
    for i, engine in enumerate(engines_):
        colour = colours[i % len(colours)]
        points = [(x(r["events"]), y(r["p50 ms"])) for r in rows if r["engine"] == engine and "p50 ms" in r]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        parts.append(f'<text x="{left + width + 15}" y="{top + 20 + 18 * i}" fill="{colour}">{engine}</text>')
    return "\n".join([*parts, "</svg>"])
