"""A short calibration run on this machine: what decoding a window costs and, where it can run here, watching one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.forecasting.storage import measured_bytes
from model.interface import Model, ModelProfile
from model.registry import ModelFactory
from pipeline.config import RunConfig, new_run_id
from pipeline.decode import decode_windows
from pipeline.errors import ModelError, VideoError
from pipeline.event import WindowEvents
from pipeline.frames import Frames
from pipeline.log import VideoResult, WindowRecord
from pipeline.plan import Window, Windowing
from pipeline.reduce import reduce_events
from pipeline.video import Video

RUN = 4  # windows in a row: what seeking to the first of them costs is shared by as many or more in a run


@dataclass(frozen=True, slots=True)
class Calibration:
    """Means of one window, of this machine. `windows`: decoded; `watched`: of them, by the model.

    `decode_s` and `model_s`: CPU seconds of one core (None: no model ran). `server_s`: of a served model, wall seconds
    for each window of full calls, which keep the server as busy as a replica does; None: nobody else did the work.
    `frame_bytes`: of its frames. `log_bytes`: of the event log, with its rows; `features_bytes`: of these, what the
    model's eye made of the frames; None where nothing was watched.
    """

    windows: int
    decode_s: float
    frame_bytes: float
    watched: int = 0
    model_s: float | None = None
    server_s: float | None = None
    events: float | None = None
    log_bytes: float | None = None
    features_bytes: float | None = None


@dataclass(slots=True)
class _Watched:
    """Answers of a model, by video, and what they took. `calls_s`: wall seconds of calls, `called`: their windows."""

    model: Model
    batch: int
    answers: dict[int, list[WindowEvents]] = field(default_factory=dict)
    records: dict[int, list[WindowRecord]] = field(default_factory=dict)
    cpu_s: float = 0.0
    calls_s: float = 0.0
    called: int = 0
    full: bool = False

    def watch(self, held: Sequence[tuple[int, Window, Frames]]) -> None:
        """Raises ModelError. A call that is not full counts for the server only while there is no full one."""
        wall, cpu = time.monotonic(), time.process_time()
        try:
            answers = self.model.watch([(window, frames) for _, window, frames in held])
        except RuntimeError as error:  # what a run would try again, with another replica
            raise ModelError(f"the model does not watch: {error}") from error
        self.cpu_s += time.process_time() - cpu
        if len(held) == self.batch or not self.full:
            if len(held) == self.batch and not self.full:
                self.full, self.calls_s, self.called = True, 0.0, 0
            self.calls_s += time.monotonic() - wall
            self.called += len(held)
        for (number, window, frames), answer in zip(held, answers, strict=True):
            self.answers.setdefault(number, []).append(answer)
            record = WindowRecord(
                window,
                frames.time_us.tolist(),
                model_s=answer.model_s,
                input_tokens=answer.input_tokens,
                output_tokens=answer.output_tokens,
                truncated=answer.truncated,
                answer=answer.answer,
                features=answer.features,
            )
            self.records.setdefault(number, []).append(record)

    @property
    def windows(self) -> int:
        return sum(map(len, self.answers.values()))


def calibrate(
    videos: Sequence[Video],
    config: RunConfig,
    profile: ModelProfile,
    factory: ModelFactory | None,
    settings: Mapping[str, Any],
    budget_s: float,
    served: bool = False,
) -> Calibration | None:
    """Decode (and with `factory` watch) windows of `videos` for about `budget_s` seconds; None: none was decoded.

    The model gets as many windows in a call as in a run. `served`: a server does its work. Raises ModelError where it
    cannot be loaded, or does not watch.
    """
    watched = _Watched(factory.load(settings), max(1, profile.batch_windows)) if factory is not None else None
    try:
        return _calibrate(videos, config, profile, watched, budget_s, served)
    finally:
        if watched is not None:
            watched.model.close()


def _calibrate(
    videos: Sequence[Video],
    config: RunConfig,
    profile: ModelProfile,
    watched: _Watched | None,
    budget_s: float,
    served: bool,
) -> Calibration | None:
    decode_s = frame_bytes = 0.0
    windows = 0
    held: list[tuple[int, Window, Frames]] = []
    of_one = RUN if watched is None else max(RUN, -(-watched.batch // len(videos)))
    until = time.monotonic() + budget_s
    for number, video in enumerate(videos):
        if windows and time.monotonic() > until:
            break
        mine = replace(video, video_id=f"{number:032x}")
        try:
            began = time.process_time()
            for window, frames in decode_windows(mine, _some(mine, config.windowing, of_one), config.sampling):
                decode_s += time.process_time() - began
                windows += 1
                frame_bytes += frames.frame_bytes
                held.append((number, window, frames))
                if watched is None:
                    held.clear()
                elif len(held) == watched.batch:
                    watched.watch(held)
                    held.clear()
                began = time.process_time()
        except VideoError:
            continue
    if not windows:
        return None
    if watched is None:
        return Calibration(windows, decode_s / windows, frame_bytes / windows)
    if held:
        watched.watch(held)
    results, events = _results(videos, config, profile, watched)
    return Calibration(
        windows,
        decode_s / windows,
        frame_bytes / windows,
        watched.windows,
        watched.cpu_s / watched.windows,
        watched.calls_s / watched.called if served else None,
        events / watched.windows,
        *measured_bytes(results, config),
    )


def _results(
    videos: Sequence[Video], config: RunConfig, profile: ModelProfile, watched: _Watched
) -> tuple[list[VideoResult], int]:
    """What was watched as a run would commit it, and how many events there are."""
    results, events, run_id = [], 0, new_run_id()
    for number, answers in watched.answers.items():
        video = videos[number]
        found = reduce_events(answers, profile.rules, video.duration_us).events
        events += len(found)
        results.append(
            VideoResult(
                f"{number:032x}", run_id, config.config_hash, video.uris, video.size_bytes, "done",
                duration_us=video.duration_us, windows=tuple(watched.records[number]), events=tuple(found),
            )
        )  # fmt: skip
    return results, events


def _some(video: Video, windowing: Windowing, at_most: int) -> list[Window]:
    """A few windows in a row from the middle of a video."""
    count = windowing.count(video.duration_us)
    first = max(0, count // 2 - at_most // 2)
    return [windowing.window(video.video_id, i, video.duration_us) for i in range(first, min(count, first + at_most))]
