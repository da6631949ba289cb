"""A small archive with a log, made without watching it: for tests of the service and of its page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.event import Event
from pipeline.fingerprint import fingerprint
from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
from pipeline.plan import Window
from pipeline.video import Source

S = 1_000_000

#: A text of a model that would like to be more than a text.
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@dataclass(frozen=True)
class Served:
    """`ids`: of the videos by file name."""

    log: Path
    archive: Path
    ids: dict[str, str]


def event(start_us: int, end_us: int, kind: str, text: str, confidence: float | None = 0.9) -> Event:
    return Event(start_us, end_us, kind, text, confidence, 0, 0, (start_us,), {"level": 1, "odd": float("nan")})


FIRST = (
    event(0, 2 * S, "shape", "a red circle appears"),
    event(1 * S, 4 * S, "text", "HARBOUR"),
    event(3 * S, 3 * S + 1, "cut", "cut"),
    event(4 * S, 6 * S, "shape", "a red circle leaves"),
    event(5 * S, 6 * S, "text", HOSTILE, None),
)
SECOND = (event(100_000, 2 * S, "shape", "a red circle appears"), event(4 * S, 5 * S, "shape", "a ball leaves"))


def make_served(folder: Path, make_clip: Callable[..., Path]) -> Served:
    """Two clips and one that could not be watched, in two runs, of which the newer one has done the first clip only."""
    archive, log = folder / "archive", folder / "log"
    clips = [make_clip(archive / "harbour.mp4", seed=1), make_clip(archive / "day 2" / "night bus.mp4", seed=2)]
    ids = {path.name: fingerprint(Source(str(path), path.stat().st_size)) for path in clips}
    ids["broken.mp4"] = "b" * 32
    writer = EventLog.open(str(log), create=True)
    for number, run_id in enumerate(("run-a", "run-b")):
        host = {"node": "here", "archive": [str(archive)]}
        writer.begin_run(RunRecord(run_id, f"c{number}", {"fps": 2}, "a model", "w", "0.1", host, 10**15 + number * S))

    def result(path: Path, run: int, events: tuple[Event, ...], status: str = "done", reason: str = "") -> VideoResult:
        identity = ids[path.name]
        window = WindowRecord(Window(identity, 0, 0, 6 * S), (0, S, 2 * S), answer="what the model said")
        done = status == "done"
        return VideoResult(
            video_id=identity,
            run_id="run-ab"[:4] + "ab"[run],
            config_hash=f"c{run}",
            uris=(str(path),),
            size_bytes=path.stat().st_size if done else 1,
            status=status,  # type: ignore[arg-type]
            reason=reason,
            duration_us=6 * S if done else None,
            offset_us=0,
            width=64,
            height=48,
            rotation=0,
            codec="h264",
            frame_rate=5.0,
            windows=(window,) if done else (),
            events=events,
        )

    broken = archive / "broken.mp4"
    failed = result(broken, 0, (), "failed", "unreadable: no container that can be recognised")
    writer.commit([result(clips[0], 0, FIRST), result(clips[1], 0, SECOND), failed])
    writer.commit([result(clips[0], 1, SECOND)])
    writer.finish_run("run-a", {"videos": 2}, "done")
    writer.finish_run("run-b", {"videos": 1}, "done")
    return Served(log, archive, ids)


def refused(answer: Any, status: int, code: str = "") -> str:
    """The message of an error, which is one clear sentence in the shape of all errors."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message"} and (not code or error["code"] == code)
    assert "Traceback" not in answer.text
    return str(error["message"])
