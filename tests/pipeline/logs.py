"""Making records for tests of the event log."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from pipeline.event import Event
from pipeline.log import RunRecord, VideoResult, WindowRecord
from pipeline.log.records import Status
from pipeline.plan import Window


def run_record(run_id: str = "run-1", config_hash: str = "c1") -> RunRecord:
    return RunRecord(
        run_id, config_hash, {"fps": 2, "bad": float("nan")}, "signals", "w0", "0.1", {"cpus": 2}, 1_000_000
    )


def video_id(name: object) -> str:
    return hashlib.blake2b(str(name).encode(), digest_size=16).hexdigest()


def event(start_us: int, end_us: int, kind: str = "shot", text: str = "a text") -> Event:
    return Event(start_us, end_us, kind, text, 0.5, 0, 0, (start_us,), {"level": 1})


def video_result(
    name: str,
    events: Sequence[Event] = (event(0, 2_000_000), event(1_000_000, 3_000_000, "text", "EXIT")),
    run_id: str = "run-1",
    config_hash: str = "c1",
    status: Status = "done",
    reason: str = "",
    duration_us: int | None = 60_000_000,
) -> VideoResult:
    identity = video_id(name)
    window = WindowRecord(Window(identity, 0, 0, 16_000_000), (0, 500_000), replica="r0", decode_s=0.1, model_s=0.2)
    return VideoResult(
        video_id=identity,
        run_id=run_id,
        config_hash=config_hash,
        uris=(f"/archive/{name}",),
        size_bytes=1000,
        status=status,
        reason=reason,
        duration_us=duration_us,
        offset_us=0,
        width=320,
        height=240,
        rotation=0,
        codec="h264",
        frame_rate=25.0,
        lost_us=((5, 9),),
        windows=(window,) if status == "done" else (),
        events=tuple(events) if status == "done" else (),
    )


def random_events(generator: random.Random, count: int, span_us: int) -> list[Event]:
    """Events that nest, touch and repeat, in the log's order."""
    found = []
    for _ in range(count):
        start = generator.randrange(span_us)
        length = generator.choice([0, 1, 1000, span_us // 50, span_us // 3, span_us - start])
        kind = generator.choice(["shot", "text", "black"])
        found.append(event(start, min(start + length, span_us), kind, f"t{generator.randrange(5)}"))
    return sorted(found, key=lambda e: (e.start_us, e.end_us, e.kind, e.text))
