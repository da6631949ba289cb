"""Small logs with vision features that nobody saw: for tests of searching by picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.event import Event
from pipeline.features.search import PictureSearch
from pipeline.features.vectors import FrameFeatures
from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
from pipeline.plan import SECOND_US as S
from pipeline.plan import Window

D = 8
MADE, OTHER = "w:mean-1", "x:mean-1"


def unit(place: int, tilt: float = 0.0) -> np.ndarray:
    """A vector along one axis, tilted a little towards the next."""
    vector = np.zeros(D, np.float32)
    vector[place], vector[(place + 1) % D] = 1.0, tilt
    return vector


def run(writer: EventLog, run_id: str = "run-a", number: int = 0, model: str = "bundled", weights: str = "w") -> None:
    config = {"sampling": {"short_side": None, "max_pixels": 8192, "multiple": 32}}
    writer.begin_run(RunRecord(run_id, f"c{number}", config, model, weights, "0", {}, 10**15 + number))


def result(
    name: str, vectors: Sequence[np.ndarray], run_id: str = "run-a", config: str = "c0", made_by: str = MADE
) -> VideoResult:
    """A video with a vector a second, and one event a second that names it."""
    video_id = f"{abs(hash(name)) % 16**8:08x}".rjust(32, "0")
    times = [i * S for i in range(len(vectors))]
    features = FrameFeatures.of(made_by, times, np.stack(vectors)) if len(vectors) else None
    window = WindowRecord(Window(video_id, 0, 0, len(vectors) * S), times, features=features)
    events = [Event(t, t + S, "thing", f"{name} at {t // S}", 0.5, 0, 0, (), {}) for t in times]
    return VideoResult(
        video_id,
        run_id,
        config,
        (f"/a/{name}",),
        1,
        "done",
        duration_us=len(vectors) * S,
        windows=(window,),
        events=events,
    )


def log_of(folder: Path) -> str:
    """Three videos of one run and checkpoint."""
    writer = EventLog.open(str(folder / "log"), create=True)
    run(writer)
    writer.commit([result("one.mp4", [unit(0), unit(1), unit(1, 0.1), unit(2), unit(2)])])
    writer.commit([result("two.mp4", [unit(3), unit(4), unit(5)]), result("three.mp4", [unit(6), unit(1, 0.4)])])
    return str(folder / "log")


def two_of(log: str) -> str:
    """The same, then one video by another, and a video again by what leaves no features."""
    writer = EventLog.open(log)
    run(writer, "run-b", 1, "/models/b", "x")
    writer.commit([result("new.mp4", [unit(0), unit(1)], "run-b", "c1", OTHER)])
    run(writer, "run-s", 2, "signals", "s")
    writer.commit([replace(result("one.mp4", [unit(7)] * 5, "run-s", "c2"), windows=())])
    return log


def updated(log: str) -> PictureSearch:
    search = PictureSearch(log)
    search.update()
    return search
