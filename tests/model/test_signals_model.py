"""The analysers as a model: what the flow relies on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import model.signals.model as signals
from model.registry import find_model
from model.signals import load, profile
from model.signals.model import RULES, SignalSettings, SignalsModel
from pipeline.errors import UsageError
from pipeline.frames import Frames
from pipeline.plan import Window


def random_frames(count: int, height: int, width: int, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    time_us = np.cumsum(rng.integers(1, 900_000, count)).astype(np.int64)
    end_us = np.append(time_us[1:], time_us[-1:] + 40_000) if count else time_us
    return Frames(rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8), time_us, end_us)


def test_the_profile_loads_nothing_heavy() -> None:
    code = (
        "import sys; from model.signals import profile; profile({});"
        "assert not {'rapidocr', 'onnxruntime', 'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_registry_knows_it_and_its_identity_is_json() -> None:
    found = find_model("signals").profile({})
    assert found == profile({})
    json.dumps([found.identity.weights_hash, dict(found.identity.settings)])
    assert found.rules == RULES


def test_what_changes_answers_changes_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = profile({}).identity
    assert profile({"threads": 2}).identity == identity
    assert profile({"text": False}).identity != identity
    monkeypatch.setattr(signals, "ALGORITHM_VERSION", signals.ALGORITHM_VERSION + 1)
    assert profile({}).identity.weights_hash != identity.weights_hash


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"txt": True}, "txt"), ({"text": "yes"}, "text"), ({"threads": 0}, "threads"), ({"threads": True}, "threads")],
)
def test_wrong_settings_are_refused(settings: dict[str, object], says: str) -> None:
    for refuse in (profile, load):
        with pytest.raises(UsageError, match=says):
            refuse(settings)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2), (90, 160), (300, 8)])
def test_any_frames_are_watched(count: int, size: tuple[int, int]) -> None:
    frames = random_frames(count, *size)
    model = SignalsModel(SignalSettings(text=False))
    window = Window("v", 3, 100_000, 30_000_000)
    (answer,) = model.watch([(window, frames)])
    assert answer.window is window
    times = set((frames.time_us - window.start_us).tolist())
    for event in answer.events:
        assert event.kind in RULES
        assert 0 <= event.start_us <= event.end_us
        assert set(event.evidence_us) <= times
        assert event.confidence is not None
        assert 0 <= event.confidence <= 1
        json.dumps(dict(event.attributes), allow_nan=False)


def test_times_are_relative_to_the_window_and_answers_do_not_depend_on_the_batch() -> None:
    model = SignalsModel(SignalSettings(text=False))
    frames = random_frames(12, 45, 80)
    later = replace(frames, time_us=frames.time_us + 10**12, end_us=frames.end_us + 10**12)
    end_us = int(frames.end_us[-1])
    windows = [Window("v", 0, 0, end_us), Window("w", 9, 10**12, 10**12 + end_us)]
    one, two = model.watch([(windows[0], frames), (windows[1], later)])
    assert one.events == two.events
    assert model.watch([(windows[1], later)])[0].events == two.events
    assert one.events


def test_frames_are_not_written_to() -> None:
    frames = random_frames(5, 45, 80)
    for array in (frames.pixels, frames.time_us, frames.end_us):
        array.setflags(write=False)  # as they come from the object store
    SignalsModel(SignalSettings()).watch([(Window("v", 0, 0, 9_000_000), frames)])
