"""Archives that do not exist, for measuring the flow alone: stand-ins for identifying, probing and decoding.

Videos are named `synthetic:NUMBER:SECONDS`. Their windows hold one small grey frame each and cost a given time to
"decode", asleep. Everything else is real: tasks, parcels, object store, replicas,
reducing, commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import ray

from model.interface import ModelProfile
from model.registry import find_model
from pipeline.config import RunConfig
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Sampling, Segment, Windowing
from pipeline.video import Source, Video
from workers.work import Decoded, Parcel

WIDTH, HEIGHT = 64, 48
WINDOW_S = 4


def sources(videos: int, seconds: float) -> Iterator[Source]:
    return (Source(f"synthetic:{number}:{seconds:g}", 1000 + number) for number in range(videos))


def video_of(source: Source) -> Video:
    _, number, seconds = source.uri.split(":")
    return Video(
        f"{int(number):032x}",
        (source.uri,),
        source.size_bytes,
        round(float(seconds) * SECOND_US),
        0,
        WIDTH,
        HEIGHT,
        0,
        "none",
        1.0,
        0,
    )


@cache
def tasks(decode_s: float = 0.0) -> Any:
    """`workers.flow.Tasks` of stand-ins; `decode_s`: what decoding one window takes."""
    from workers.flow import Tasks

    @ray.remote(num_cpus=0, max_retries=0)
    def fingerprints(found: Sequence[Source]) -> list[str]:
        return [video_of(source).video_id for source in found]

    @ray.remote(num_cpus=0, max_retries=0)
    def probes(found: Sequence[tuple[Source, str]]) -> list[Video]:
        return [video_of(source) for source, _ in found]

    @ray.remote(num_returns="streaming", max_retries=0)
    def decode(
        segments: tuple[Segment, ...], windowing: Windowing, sampling: Sampling, memory: int | None, most: int
    ) -> Iterator[Any]:
        node = ray.get_runtime_context().get_node_id()
        yield node
        pixels = np.full((1, HEIGHT, WIDTH, 3), 128, np.uint8)
        frames: list[Frames] = []
        decoded: list[Decoded] = []
        since = time.monotonic()
        for segment in segments:
            video = segment.video
            for index in range(segment.first, segment.last + 1):
                window = windowing.window(video.video_id, index, video.duration_us)
                if decode_s:
                    time.sleep(decode_s)
                at = np.array([window.start_us], np.int64)
                frames.append(Frames(pixels, at, at + SECOND_US))
                decoded.append(Decoded(window, (window.start_us,), (), decode_s, pixels.nbytes))
                if len(decoded) >= most or time.monotonic() - since > 0.2:
                    yield frames
                    yield Parcel(tuple(decoded), node=node)
                    frames, decoded, since = [], [], time.monotonic()
        if decoded:
            yield frames
            yield Parcel(tuple(decoded), node=node)

    return Tasks(fingerprints, probes, decode)


@dataclass(frozen=True, slots=True)
class Ran:
    """A run over a synthetic archive. `steady_per_s`: windows per second once a quarter is answered, `driver_us`: CPU
    time of the driver for each of them, all its threads together, in microseconds."""

    windows: int
    seconds: float
    steady_per_s: float
    driver_us: float
    decoders: int


def run(
    log: Path,
    videos: int,
    seconds: float,
    *,
    model: str = "nothing",
    settings: dict[str, Any] | None = None,
    decode_s: float = 0.0,
    replicas: int = 1,
    decoders: int | None = None,
    most_decoders: int = 2,
    on_progress: Callable[[Any], None] = lambda progress: None,
) -> Ran:
    """Watch a synthetic archive on the Ray that runs here. `decoders`: fixed; None: steered, `most_decoders` at most.

    Neither replicas nor decoders reserve CPUs: they sleep.
    """
    from dataclasses import replace

    from pipeline.config import new_run_id
    from pipeline.log import EventLog, RunRecord
    from workers.flow import Flow, Limits
    from workers.metrics import MetricsReport
    from workers.replica import ModelChoice
    from workers.shares import share_out

    spec = f"python:jobs.bench.models:{model}"
    settings = {"window_s": WINDOW_S, "overlap_s": 0, "fps": 0.25, "cpus": 0, **(settings or {})}
    profile: ModelProfile = find_model(spec).profile(settings)
    sampling = Sampling(fps=Fraction(1, WINDOW_S), short_side=None)
    config = RunConfig(sampling, Windowing(WINDOW_S * SECOND_US, 0), model, "1", {"log": str(log)})
    shares = replace(
        share_out(ray.cluster_resources(), profile, replicas),
        decoders=decoders or most_decoders,
        decode_cpus=0.0,
        replica_cpus=0.0,
    )
    event_log = EventLog.open(str(log), create=True)
    run_id = new_run_id()
    event_log.begin_run(RunRecord(run_id, config.config_hash, config.as_json(), model, "1", "", {}, 0))
    seen: list[tuple[float, int, float]] = []

    def note(progress: Any) -> None:
        if progress.windows and (not seen or progress.windows > seen[-1][1]):
            seen.append((time.perf_counter(), progress.windows, time.process_time()))
        on_progress(progress)

    flow = Flow(
        sources(videos, seconds),
        event_log,
        run_id,
        config,
        ModelChoice(spec, settings),
        profile,
        shares,
        tasks=tasks(decode_s),
        limits=Limits(decoders=decoders),
        on_progress=note,
        observers=[MetricsReport(run_id, model)],
    )
    began = time.perf_counter()
    progress = flow.run()
    elapsed_s = time.perf_counter() - began
    event_log.finish_run(run_id, progress.totals(elapsed_s), "done")
    if progress.failed or progress.quarantined:
        raise RuntimeError(f"{progress.failed} failed: {progress.failures[:3]}")
    # A quarter of the windows is left out: workers and replicas start in it.
    late = [s for s in seen if s[1] >= progress.windows / 4] or seen
    (first_s, first, first_cpu), (last_s, last, last_cpu) = late[0], late[-1]
    steady = (last - first) / max(last_s - first_s, 1e-9)
    driver_us = (last_cpu - first_cpu) / max(last - first, 1) * 1e6
    return Ran(progress.windows, elapsed_s, steady, driver_us, progress.decoders)
