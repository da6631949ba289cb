"""On-screen text: what is read, from when to when, how seldom a frame is read for it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from jobs.bench.captions import STYLES, clock_clip, place_caption
from jobs.bench.footage import Clip, Scene
from model.signals.measures import measure
from model.signals.model import SignalSettings, SignalsModel
from model.signals.text_change import frames_to_read
from model.signals.text_reader import Line
from model.signals.text_track import same_line
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Window

RATE = 4


@pytest.fixture(scope="module")
def model() -> Iterator[SignalsModel]:
    loaded = SignalsModel(SignalSettings())
    yield loaded
    loaded.close()


def scene_clip(seconds: int, pace: str, seed: int = 3, size: tuple[int, int] = (640, 360)) -> Clip:
    clip = Clip("test", *size, Fraction(RATE), seed, noise=1.5)
    scene = Scene(np.random.default_rng(seed), clip, pace)
    clip.append(seconds * RATE, lambda i: scene.at(i / RATE))
    return clip


def sampled(clip: Clip) -> Frames:
    pictures = np.stack(list(clip.pictures()))
    time_us = np.arange(len(pictures)) * SECOND_US // RATE
    return Frames(pictures, time_us, time_us + 40_000)


def watch(model: SignalsModel, frames: Frames) -> tuple[list[WindowEvent], int]:
    """(text events, frames read)"""
    assert model.reader is not None
    before = model.reader.reads
    (answer,) = model.watch([(Window("v", 0, 0, int(frames.end_us[-1])), frames)])
    return [e for e in answer.events if e.kind == "text"], model.reader.reads - before


@pytest.mark.parametrize("pace", ["low", "high"])
def test_captions_are_events_with_their_own_times_and_places(model: SignalsModel, pace: str) -> None:
    clip = scene_clip(8, pace)
    assert place_caption(clip, "Storm warning", STYLES[0], 24, 4, 12, (0.5, 0.9))
    assert place_caption(clip, "记者现场报道", STYLES[4], 24, 16, 8, (0.1, 0.1))
    events, reads = watch(model, sampled(clip))
    assert [(e.text.replace(" ", ""), e.start_us, e.end_us) for e in events] == [
        ("Stormwarning", 1_000_000, 3_790_000),
        ("记者现场报道", 4_000_000, 5_790_000),
    ]
    assert events[0].text == "Storm warning"
    box = events[0].attributes
    assert 0.3 < box["box_left"] < box["box_right"] < 0.7
    assert 0.75 < box["box_top"] < box["box_bottom"] <= 1
    assert not events[0].continues_before
    assert not events[1].continues_after
    assert reads <= 12  # of 32 frames


def test_a_still_picture_is_read_once(model: SignalsModel) -> None:
    clip = scene_clip(1, "still")
    place_caption(clip, "EXIT ONLY", STYLES[1], 20, 0, RATE, (0.5, 0.5))
    frames = sampled(clip)
    still = Frames(np.repeat(frames.pixels[:1], 40, axis=0), np.arange(40) * 250_000, np.arange(40) * 250_000 + 40_000)
    (event,), reads = watch(model, still)
    assert (event.text, event.start_us, event.end_us, reads) == ("EXIT ONLY", 0, 9_790_000, 1)
    assert event.continues_before
    assert event.continues_after


def test_every_tick_of_a_clock_is_an_event(model: SignalsModel) -> None:
    clip = clock_clip(seed=5, seconds=5, rate=RATE)
    events, _ = watch(model, sampled(clip))
    assert [(e.text, e.start_us) for e in events] == [(t.detail, round(t.start_s * 1e6)) for t in clip.truth]


def test_pictures_without_text_give_none(model: SignalsModel) -> None:
    events, _ = watch(model, sampled(scene_clip(4, "moderate", seed=8)))
    assert events == []


def test_the_change_test_sees_the_smallest_word_come_and_go() -> None:
    """One read before, one with, one after: for small sizes, in several styles."""
    for style in STYLES[:3]:
        for size_px in (8, 16):
            clip = scene_clip(6, "still")
            place_caption(clip, "no", style, size_px, 8, 8, (0.4, 0.6))
            chosen = frames_to_read(sampled(clip), Thresholds())
            assert 8 in chosen, (style, size_px)
            assert 16 in chosen, (style, size_px)
            assert len(chosen) < 12


def test_constant_change_is_read_at_the_steady_pace() -> None:
    frames = sampled(scene_clip(16, "high"))
    thresholds = Thresholds()
    chosen = frames.time_us[frames_to_read(frames, thresholds)]
    assert len(chosen) <= 16 * SECOND_US / thresholds.read_interval_us + thresholds.read_burst
    assert np.diff(chosen).max() <= thresholds.read_interval_us + 250_000


def test_frames_of_any_rate_and_gaps_are_chosen_by_time() -> None:
    frames = sampled(scene_clip(16, "high"))
    slow = Frames(frames.pixels[:10], np.arange(10) * 3 * SECOND_US, np.arange(10) * 3 * SECOND_US + 40_000)
    assert frames_to_read(slow, Thresholds()) == list(range(10))


def test_readings_of_one_line() -> None:
    thresholds = Thresholds()
    box = (0.1, 0.8, 0.4, 0.85)
    line = Line("BREAKING NEWS", 0.9, box)
    assert same_line(line, Line("BREAKlNG NEWS", 0.8, box), thresholds)
    assert not same_line(line, Line("WEATHER", 0.9, box), thresholds)
    assert not same_line(Line("12:01", 0.9, box), Line("12:02", 0.9, box), thresholds)
    assert not same_line(line, Line("BREAKING NEWS", 0.9, (0.1, 0.1, 0.4, 0.15)), thresholds)
    assert same_line(line, Line("BREAKING NEWS", 0.9, (0.1, 0.7, 0.4, 0.75)), thresholds)  # credits roll


def test_pictures_too_small_to_read(model: SignalsModel) -> None:
    for height, width in ((1, 1), (1, 640), (15, 200), (40, 40)):
        pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3)).astype(np.uint8)
        frames = Frames(pixels, np.arange(3) * 250_000, np.arange(3) * 250_000 + 40_000)
        measure(frames, 0)
        assert watch(model, frames)[0] == []
