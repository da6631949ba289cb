"""Models for benchmarks and for tests of the flow, named `python:jobs.bench.models:NAME`. None knows anything.

- `nothing` answers at once, with no event.
- `sleeping` takes `{"seconds": S}` for each window.
- `colours` says the mean colour of every frame: an answer that depends on every pixel.
- `wordy` is `colours`, with an answer in words and a vector of what it saw for each frame.
- `fragile` is `colours`, until a window holds one of `{"at_us": [...]}`: then it does what `{"how": ...}` says,
  "exit" (its process ends), "memory" (it asks for more than it may have), "raise" (a fault), "stray" (it answers
  another window), "refuse" (ModelError); `{"times": N}` does so only the first N times (counted in the file
  `{"count": PATH}`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from model.interface import ModelIdentity, ModelProfile
from pipeline.errors import ModelError
from pipeline.event import KindRule, WindowEvent, WindowEvents
from pipeline.features.vectors import FrameFeatures
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Sampling, Window, Windowing

Watch = Callable[[Mapping[str, Any], Window, Frames], WindowEvents]


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model factory (model/registry.py) around a function of one window.

    Settings of all: `cpus`, `batch_windows`, `fps`, `window_s`, `overlap_s`, `short_side`.
    """

    name: str
    watch: Watch

    def profile(self, settings: Mapping[str, Any]) -> ModelProfile:
        return ModelProfile(
            identity=ModelIdentity(self.name, "1", {}),
            sampling=Sampling(fps=Fraction(str(settings.get("fps", 2))), short_side=settings.get("short_side", 224)),
            windowing=Windowing(
                round(settings.get("window_s", 16) * SECOND_US), round(settings.get("overlap_s", 1) * SECOND_US)
            ),
            rules={"colour": KindRule(point=True)},
            batch_windows=int(settings.get("batch_windows", 1)),
            cpus=float(settings.get("cpus", 1)),
        )

    def load(self, settings: Mapping[str, Any]) -> _Loaded:
        if settings.get("load") == "refuse":
            raise ModelError("these weights cannot be read: settings say so")
        if settings.get("load") == "exit":
            os._exit(3)
        return _Loaded(self.watch, settings)


@dataclass(frozen=True, slots=True)
class _Loaded:
    function: Watch
    settings: Mapping[str, Any]

    def watch(self, batch: Sequence[tuple[Window, Frames]]) -> list[WindowEvents]:
        return [self.function(self.settings, window, frames) for window, frames in batch]

    def close(self) -> None:
        pass


def _watch_nothing(settings: Mapping[str, Any], window: Window, frames: Frames) -> WindowEvents:
    return WindowEvents(window, ())


def _watch_sleeping(settings: Mapping[str, Any], window: Window, frames: Frames) -> WindowEvents:
    began = time.perf_counter()
    time.sleep(settings["seconds"])
    return WindowEvents(window, (), model_s=time.perf_counter() - began)


def _watch_colours(settings: Mapping[str, Any], window: Window, frames: Frames) -> WindowEvents:
    began = time.perf_counter()
    events = []
    for pixels, time_us in zip(frames.pixels, frames.time_us.tolist(), strict=True):
        mean = ",".join(f"{x:.0f}" for x in pixels.mean(axis=(0, 1)))
        at = max(time_us, window.start_us) - window.start_us
        events.append(WindowEvent(at, at, "colour", mean, evidence_us=(time_us - window.start_us,)))
    return WindowEvents(window, tuple(events), model_s=time.perf_counter() - began)


def _watch_wordy(settings: Mapping[str, Any], window: Window, frames: Frames) -> WindowEvents:
    said = _watch_colours(settings, window, frames)
    answer = json.dumps({"events": [{"start": e.start_us / 1e6, "kind": e.kind, "text": e.text} for e in said.events]})
    vectors = np.stack([np.random.default_rng(int(pixels.sum())).standard_normal(64) for pixels in frames.pixels])
    features = FrameFeatures.of("wordy", [e.start_us for e in said.events], vectors)
    return replace(said, answer=answer, features=features)


def _watch_fragile(settings: Mapping[str, Any], window: Window, frames: Frames) -> WindowEvents:
    if any(window.start_us <= t < window.end_us for t in settings["at_us"]) and _still(settings):
        if settings["how"] == "exit":
            os._exit(9)
        if settings["how"] == "memory":
            from workers.limits import memory_limit

            with memory_limit(64 << 20):
                bytearray(256 << 20)
        if settings["how"] == "raise":
            raise ValueError("cannot bear this window")
        if settings["how"] == "stray":
            return WindowEvents(replace(window, index=window.index + 1), ())
        if settings["how"] == "refuse":
            raise ModelError("this window is longer than the context")
    return _watch_colours(settings, window, frames)


def _still(settings: Mapping[str, Any]) -> bool:
    """Whether it is to fail once more. Appends a byte to the counting file each time."""
    if "times" not in settings:
        return True
    count = Path(settings["count"])
    with count.open("ab") as file:
        file.write(b".")
    return count.stat().st_size <= settings["times"]


nothing = BenchModel("nothing", _watch_nothing)
sleeping = BenchModel("sleeping", _watch_sleeping)
colours = BenchModel("colours", _watch_colours)
wordy = BenchModel("wordy", _watch_wordy)
fragile = BenchModel("fragile", _watch_fragile)
