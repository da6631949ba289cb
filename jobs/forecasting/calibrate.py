"""A short calibration run on this machine: what decoding a window costs and, where it can run here, watching one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.interface import ModelProfile
from model.registry import ModelFactory
from pipeline.config import RunConfig, new_run_id
from pipeline.decode import decode_windows
from pipeline.errors import VideoError
from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
from pipeline.plan import Windowing
from pipeline.reduce import reduce_events
from pipeline.video import Video

RUN = 4  # windows in a row: what seeking to the first of them costs is shared by as many or more in a run


@dataclass(frozen=True, slots=True)
class Calibration:
    """Means of one window, on one core of this machine. `decode_s` and `model_s`: CPU seconds (None: it did not run).

    `frame_bytes`: of its frames. `log_bytes`: of the event log, with its rows; None where nothing was watched.
    """

    windows: int
    decode_s: float
    frame_bytes: float
    model_s: float | None
    events: float | None
    log_bytes: float | None


def calibrate(
    videos: Sequence[Video],
    config: RunConfig,
    profile: ModelProfile,
    factory: ModelFactory | None,
    settings: Mapping[str, Any],
    budget_s: float,
) -> Calibration | None:
    """Decode (and with `factory` watch) windows of `videos` for about `budget_s` seconds; None: none was decoded."""
    model = factory.load(settings) if factory is not None else None
    decode_s = model_s = frame_bytes = 0.0
    windows = events = 0
    results: list[VideoResult] = []
    until = time.monotonic() + budget_s
    run_id = new_run_id()
    for number, video in enumerate(videos):
        if windows and time.monotonic() > until:
            break
        pieces = _some(video, config.windowing)
        answers, records = [], []
        try:
            began = time.process_time()
            for window, frames in decode_windows(video, pieces, config.sampling):
                decode_s += time.process_time() - began
                windows += 1
                frame_bytes += frames.frame_bytes
                if model is not None:
                    began = time.process_time()
                    answers += model.watch([(window, frames)])
                    model_s += time.process_time() - began
                    records.append(WindowRecord(window, frames.time_us.tolist()))
                began = time.process_time()
        except VideoError:
            continue
        if model is not None:
            found = reduce_events(answers, profile.rules, video.duration_us).events
            events += len(found)
            results.append(
                VideoResult(
                    f"{number:032x}", run_id, config.config_hash, video.uris, video.size_bytes, "done",
                    duration_us=video.duration_us, windows=tuple(records), events=tuple(found),
                )
            )  # fmt: skip
    if model is not None:
        model.close()
    if not windows:
        return None
    log_bytes = _logged(results, config, run_id) / windows if results else None
    return Calibration(
        windows,
        decode_s / windows,
        frame_bytes / windows,
        model_s / windows if model is not None else None,
        events / windows if model is not None else None,
        log_bytes,
    )


def _some(video: Video, windowing: Windowing) -> list[Any]:
    """A few windows in a row from the middle of a video."""
    count = windowing.count(video.duration_us)
    first = max(0, count // 2 - RUN // 2)
    return [windowing.window(video.video_id, i, video.duration_us) for i in range(first, min(count, first + RUN))]


def _logged(results: list[VideoResult], config: RunConfig, run_id: str) -> int:
    """Bytes of data files of an event log with these results; those of an empty group are taken off."""
    with tempfile.TemporaryDirectory(prefix="secondsight-forecast-") as folder:
        log = EventLog.open(folder, create=True)
        log.begin_run(RunRecord(run_id, config.config_hash, config.as_json(), config.model, "", "", {}, 0))
        bare = [replace(r, video_id=f"f{r.video_id[1:]}", windows=(), events=()) for r in results]

        def size() -> int:
            files = Path(folder).rglob("*.parquet")
            return sum(f.stat().st_size for f in files)

        before = size()
        log.commit(bare)
        between = size()
        log.commit(results)
        return max(0, (size() - between) - (between - before))
