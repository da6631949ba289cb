"""Black, blank and frozen stretches, and levels of activity, on frames made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from model.signals.model import SignalSettings, SignalsModel
from pipeline.event import WindowEvent
from pipeline.frames import Frames
from pipeline.plan import Window

RNG = np.random.default_rng(7)
SCENE = np.kron(RNG.integers(0, 256, (18, 32, 3)), np.ones((5, 5, 1))).astype(np.uint8)  # 160 x 90


def frames(pictures: list[np.ndarray], times_s: list[float] | None = None, shown_s: float = 0.04) -> Frames:
    """Pictures at 4 fps, or at `times_s`, each known to be on screen for `shown_s`."""
    times = np.array([0.25 * i for i in range(len(pictures))] if times_s is None else times_s)
    time_us = np.round(times * 1e6).astype(np.int64)
    return Frames(np.stack(pictures), time_us, time_us + round(shown_s * 1e6))


def grain(picture: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def watch(given: Frames, start_us: int = 0) -> list[WindowEvent]:
    model = SignalsModel(SignalSettings(text=False))
    window = Window("v", 0, start_us, int(given.end_us[-1]))
    (answer,) = model.watch([(window, given)])
    assert answer.window == window
    return list(answer.events)


def of(events: list[WindowEvent], kind: str) -> list[WindowEvent]:
    return [e for e in events if e.kind == kind]


def test_black_stretch_has_the_times_of_its_frames_and_says_what_lies_between_samples() -> None:
    dark = np.full((90, 160, 3), 12, np.uint8)
    (black,) = of(watch(frames([SCENE] * 4 + [grain(dark, 4, i) for i in range(5)] + [SCENE] * 4)), "black")
    assert (black.start_us, black.end_us) == (1_000_000, 2_040_000)
    assert black.attributes == {"start_uncertainty_us": 210_000, "end_uncertainty_us": 210_000}
    assert black.evidence_us == (1_000_000, 1_500_000, 2_000_000)
    assert not black.continues_before
    assert not black.continues_after


def test_a_caption_on_black_is_not_black_and_a_title_card_is_not_blank() -> None:
    title = np.full((90, 160, 3), 5, np.uint8)
    title[40:46, 60:100] = 250  # 1.7 % of the picture: below ffmpeg's 2 %
    events = watch(frames([title] * 12))
    assert not of(events, "black")
    assert not of(events, "blank")
    assert of(events, "frozen")


def test_blank_changes_colour() -> None:
    blue, white = np.full((90, 160, 3), (10, 20, 240), np.uint8), np.full((90, 160, 3), 253, np.uint8)
    first, second = of(watch(frames([grain(blue, 2, 1)] * 6 + [white] * 6)), "blank")
    assert (first.text, first.attributes["colour"], first.start_us) == ("blue picture", "#0a14f0", 0)
    assert (second.text, second.start_us) == ("white picture", 1_500_000)
    assert first.continues_before
    assert second.continues_after


def test_frozen_needs_two_seconds_and_every_cell() -> None:
    noisy = [grain(SCENE, 6, i) for i in range(30)]
    long = of(watch(frames(noisy[:8] + [noisy[7]] * 12 + noisy[8:16])), "frozen")
    assert [(e.start_us, e.end_us) for e in long] == [(1_750_000, 4_790_000)]
    assert not of(watch(frames(noisy[:8] + [noisy[7]] * 5 + noisy[8:16])), "frozen")
    talking = []
    for i in range(20):  # a mouth of 6 x 4 px opens and closes in a still
        picture = SCENE.copy()
        picture[60:64, 80:86] = 255 * (i % 2)
        talking.append(picture)
    assert not of(watch(frames(talking)), "frozen")


def test_a_short_freeze_is_told_at_the_edges_where_its_rest_may_lie_next_door() -> None:
    noisy = [grain(SCENE, 6, i) for i in range(20)]
    (frozen,) = of(watch(frames(noisy + [noisy[-1]] * 4)), "frozen")
    assert frozen.continues_after
    assert frozen.start_us == 4_750_000


def test_a_slide_that_stays_for_seconds_is_frozen_by_its_own_time_on_screen() -> None:
    other = SCENE[::-1].copy()
    given = Frames(
        np.stack([SCENE, other, SCENE]),
        np.array([0, 5_000_000, 9_000_000]),
        np.array([5_000_000, 9_000_000, 9_500_000]),
    )
    frozen = of(watch(given), "frozen")
    assert [(e.start_us, e.end_us) for e in frozen][:2] == [(0, 5_000_000), (5_000_000, 9_000_000)]
    assert "start_uncertainty_us" not in frozen[1].attributes


def moving(step: float, count: int, side: int = 30) -> list[np.ndarray]:
    """A bright square crosses the scene, `step` px per picture."""
    pictures = []
    for i in range(count):
        picture = SCENE // 2
        left = int(i * step) % (160 - side)
        picture[20 : 20 + side, left : left + side] = 255
        pictures.append(picture)
    return pictures


@pytest.mark.parametrize("rate", [2, 4, 10])
def test_levels_of_activity_do_not_depend_on_the_sampling_rate(rate: int) -> None:
    """The same motion: 8 px a second of a square of 30 x 30 px in 160 x 90."""
    n = 4 * rate
    still, busy = [SCENE] * n, [np.roll(SCENE, 25 * i * 5 // rate, axis=1) for i in range(n)]
    pictures = still + moving(8 / rate, n) + busy
    levels = of(watch(frames(pictures, [i / rate for i in range(3 * n)])), "activity")
    assert [e.attributes["level"] for e in levels] == ["still", "low", "high"]
    assert [e.start_us for e in levels] == pytest.approx([0, 4e6, 8e6], abs=1.1e6)


def test_levels_do_not_flicker_around_a_threshold() -> None:
    rng = np.random.default_rng(3)
    pictures, scene = [], SCENE.copy()
    for _ in range(80):  # the share that changes is drawn around the threshold between low and moderate
        scene = scene.copy()
        rows = 4 + int(rng.integers(0, 14))
        scene[20 : 20 + rows] = 255 - scene[20 : 20 + rows]
        pictures.append(scene)
    assert len(of(watch(frames(pictures)), "activity")) <= 4
