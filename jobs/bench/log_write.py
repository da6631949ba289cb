"""Writing into the event log: events and videos per second, and commits of one committer in groups."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path
from typing import Any

from jobs.bench.s3 import s3_server
from pipeline.event import Event
from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
from pipeline.plan import Window

PER_VIDEO = 400
VIDEO_US = 3_600_000_000
RUN = "bench-run"
SENTENCE = (
    "a person walks across the yard past two parked cars and waves to someone at the door while it rains then the"
    " camera pans left over the crowd as the player in red shoots and the keeper saves the ball near the post"
)
WORDS = SENTENCE.split()


def some_result(name: str, events: int, generator: random.Random, run_id: str = RUN) -> VideoResult:
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
        identity,
        run_id,
        "bench",
        (f"/archive/{name}",),
        1,
        "done",
        duration_us=VIDEO_US,
        windows=(window,),
        events=found,
    )


def begun(uri: str) -> EventLog:
    log = EventLog.open(uri, create=True)
    log.begin_run(RunRecord(RUN, "bench", {}, "bench", "", "", {}, time.time_ns() // 1000))
    return log


def writing(path: Path, videos: int) -> list[dict[str, Any]]:
    """Events per second of one process, from records to committed rows; then of the compaction of the result.

    "MB more": the memory that this took beside the records.
    """
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
        before = _memory(reset=True)
        wall, cpu = time.perf_counter(), time.process_time()
        for at in range(0, len(batch), group):
            log.commit(batch[at : at + group])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        events = sum(len(r.events) for r in batch)
        rows.append({"what": what, "events": events, "events/s": events / wall, "events/s of CPU": events / cpu})
        rows[-1] |= {"videos/s": len(batch) / wall, "videos/s of CPU": len(batch) / cpu}
        rows[-1]["MB more"] = _memory() - before
    size = sum(f.size_bytes for f in log.snapshot().files("events"))
    total = sum(row["events"] for row in rows)
    rows[0]["bytes/event"] = size / total
    before = _memory(reset=True)
    wall, cpu = time.perf_counter(), time.process_time()
    log.compact()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rates = {"events/s": total / wall, "events/s of CPU": total / cpu, "MB more": _memory() - before}
    rows.append({"what": "compaction of all that", "events": total, **rates})
    size = sum(f.size_bytes for f in log.snapshot().files("events"))
    rows[-1]["bytes/event"] = size / total
    return rows


def _memory(reset: bool = False) -> float:
    """The most memory in MB that this process has had since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (at for at in Path("/proc/self/status").read_text().splitlines() if at.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


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
