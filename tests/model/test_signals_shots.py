"""Cuts, dissolves and fades against generated footage whose edits are known, and its distractors."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.bench.footage import Clip, Editor, Scene, flash, mix
from model.signals.model import RULES, SAMPLING, WINDOWING, SignalSettings, SignalsModel
from pipeline.decode import decode_windows
from pipeline.event import Event
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Windowing
from pipeline.probe import probe
from pipeline.reduce import reduce_events

RATE = 20


def new_clip(seed: int, rate: int = RATE) -> Clip:
    return Clip("test", 320, 180, Fraction(rate), seed, noise=2.0)


def sampled(clip: Clip, fps: int = 4, jitter: int = 0) -> Frames:
    """Every (rate / fps)-th frame, moved by up to `jitter` frames where times shall be irregular."""
    rng = np.random.default_rng(clip.seed)
    rate = int(clip.rate)
    wanted = [max(0, i + int(rng.integers(-jitter, jitter + 1))) for i in range(0, clip.frames, rate // fps)]
    pictures = {i: p for i, p in enumerate(clip.pictures()) if i in set(wanted)}
    index = np.array(sorted(pictures))
    step_us = SECOND_US // rate
    return Frames(np.stack([pictures[i] for i in index]), index * step_us, (index + 1) * step_us)


def watch(frames: Frames, windowing: Windowing = WINDOWING) -> list[Event]:
    model = SignalsModel(SignalSettings(text=False))
    duration_us = int(frames.end_us[-1])
    answers = []
    for i in range(windowing.count(duration_us)):
        window = windowing.window("v", i, duration_us)
        inside = (frames.time_us >= window.start_us) & (frames.time_us < window.end_us)
        part = Frames(frames.pixels[inside], frames.time_us[inside], frames.end_us[inside])
        answers += model.watch([(window, part)])
    return list(reduce_events(answers, RULES, duration_us).events)


def spans(events: list[Event], *kinds: str) -> list[tuple[str, float, float]]:
    return [(e.kind, e.start_us / 1e6, e.end_us / 1e6) for e in events if e.kind in kinds]


TRANSITIONS = ("cut", "dissolve", "fade_in", "fade_out")


def edit(seed: int, join: str, pace: str = "low") -> Clip:
    clip = new_clip(seed)
    rng = np.random.default_rng(seed)
    editor = Editor(clip, rng)
    first, second = Scene(rng, clip, pace), Scene(rng, clip, pace)
    clip.append(60, lambda i: first.at(i / RATE))
    scene, age = getattr(editor, f"join_{join}")(first, 3.0, second)
    clip.append(60, lambda i: scene.at(age + i / RATE))
    return clip


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("jitter", [0, 2])
def test_a_cut_is_the_first_frame_of_the_new_shot(seed: int, jitter: int) -> None:
    frames = sampled(edit(seed, "cut"), jitter=jitter)
    first = int(np.searchsorted(frames.time_us, 3 * SECOND_US))
    (cut,) = [e for e in watch(frames) if e.kind in TRANSITIONS]
    assert (cut.kind, cut.start_us, cut.end_us) == ("cut", frames.time_us[first], frames.time_us[first] + 1)
    assert cut.start_us - cut.attributes["uncertainty_us"] == frames.end_us[first - 1] <= 3 * SECOND_US
    assert cut.evidence_us == (frames.time_us[first - 1], frames.time_us[first])


@pytest.mark.parametrize(("join", "kinds"), [("dissolve", ["dissolve"]), ("fade", ["fade_out", "fade_in"])])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gradual_transitions_lie_where_they_were_made(join: str, kinds: list[str], seed: int) -> None:
    clip = edit(seed, join)
    true = {t.kind: t for t in clip.truth}
    found = spans(watch(sampled(clip)), *TRANSITIONS)
    assert [kind for kind, _, _ in found] == kinds
    for kind, start_s, end_s in found:
        assert start_s == pytest.approx(true[kind].start_s, abs=0.35)
        assert end_s == pytest.approx(true[kind].end_s, abs=0.35)


def whip_pan(clip: Clip, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    scene = Scene(rng, clip, "high")
    return lambda i: scene.at(i / RATE)


def flashes(clip: Clip, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    for first in (20, 50, 80):
        flash(clip, first, 4)
    scene = Scene(rng, clip, "low")
    return lambda i: scene.at(i / RATE)


def light_goes_down(clip: Clip, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    scene, black = Scene(rng, clip, "low"), np.zeros((180, 320, 3), np.uint8)
    return lambda i: mix(scene.at(i / RATE), black, min(0.5, i / 120))


@pytest.mark.parametrize("distractor", [whip_pan, flashes, light_goes_down])
@pytest.mark.parametrize("seed", [11, 12])
def test_distractors_are_no_transitions(distractor: Callable[..., Callable[[int], np.ndarray]], seed: int) -> None:
    clip = new_clip(seed)
    clip.append(120, distractor(clip, np.random.default_rng(seed)))
    assert spans(watch(sampled(clip)), *TRANSITIONS) == []


def test_windows_and_the_whole_say_the_same() -> None:
    """Short windows, whose seams fall on shots, states and transitions, give the events of one long window."""
    clip = new_clip(5, rate=4)
    Editor(clip, np.random.default_rng(5)).run(30, ("low", "moderate"), ("cut", "black", "frozen", "fade"))
    frames = sampled(clip)
    whole = watch(frames, Windowing(60 * SECOND_US, 0))
    for length_s in (10, 14):
        parts = watch(frames, Windowing(length_s * SECOND_US, 3 * SECOND_US))
        for kind in ("cut", "black", "blank", "frozen", "fade_in", "fade_out"):
            assert spans(parts, kind) == spans(whole, kind), (length_s, kind)
        levels = [e for e in parts if e.kind == "activity"]
        for a, b in pairwise(levels):
            assert a.end_us <= b.start_us  # one level at a time


def test_a_cut_within_grey_footage_needs_no_colour() -> None:
    frames = sampled(edit(2, "cut"))
    grey = np.stack([cv2.cvtColor(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for p in frames.pixels])
    assert [k for k, _, _ in spans(watch(Frames(grey, frames.time_us, frames.end_us)), *TRANSITIONS)] == ["cut"]


@pytest.mark.parametrize("stream_index", [0, 3])
def test_real_footage(shared_videos: Path, stream_index: int) -> None:
    """Both renditions of the NASA clip: a dissolve from 5.0 to 6.0 s and a cut at 8.2 s, as seen by eye."""
    path = shared_videos / "nasa_13013.mp4"
    video = probe(str(path), path.stat().st_size, "nasa", (str(path),), stream_index)
    windows = [WINDOWING.window("nasa", i, video.duration_us) for i in range(WINDOWING.count(video.duration_us))]
    answers = SignalsModel(SignalSettings(text=False)).watch(list(decode_windows(video, windows, SAMPLING)))
    events = reduce_events(answers, RULES, video.duration_us).events
    (dissolve, cut) = spans(list(events), *TRANSITIONS)
    assert dissolve == ("dissolve", pytest.approx(5.0, abs=0.05), pytest.approx(6.0, abs=0.05))
    assert cut == ("cut", pytest.approx(8.24, abs=0.01), pytest.approx(8.24, abs=0.01))
    assert {e.kind for e in events} == {"dissolve", "cut", "activity"}
