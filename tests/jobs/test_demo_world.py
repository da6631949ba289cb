"""The generated world: the same for the same seed, and what it says happens is what is drawn."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import combinations, pairwise

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from jobs.demo.draw import Painter
from jobs.demo.shapes import ANGLES, SHAPES, outline
from jobs.demo.story import Style, story
from jobs.demo.truth import TruthEvent, activitynet, events, on_frames
from jobs.demo.world import Act, Glow, Scene, Shot, Thing, Transition, World, pose

SEEDS = range(24)
ASPECTS = ((1.0, 1.0), (16 / 9, 1.0), (1.0, 16 / 9), (4 / 3, 1.0))
BUSY = Style(frozen=0.6)


def world(seed: int, seconds: int = 30, style: Style = BUSY) -> World:
    return story(np.random.default_rng([4, seed]), seconds * 1_000_000, *ASPECTS[seed % 4], style=style)


def digest(seed: int) -> str:
    return hashlib.sha256(repr(world(seed)).encode()).hexdigest()


def test_same_seed_same_world_in_another_process() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; import {__name__} as t; print(*map(t.digest, range(4)))"
    code = code.replace(f"import {__name__} as t", f"import runpy; t = runpy.run_path({__file__!r})").replace(
        "t.digest", "t['digest']"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [digest(seed) for seed in range(4)]
    assert len({digest(seed) for seed in SEEDS}) == len(SEEDS)


def test_same_pixels_in_any_order() -> None:
    one, other = Painter(world(1), 160, 90), Painter(world(1), 160, 90)
    times = [0, 29_999_999, 12_000_000, 4_000_000, 12_000_000]
    there = [one.frame(t) for t in times]
    back = [other.frame(t) for t in reversed(times)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(there, back, strict=True))
    assert there[0].shape == (90, 160, 3) and there[0].dtype == np.uint8


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_have_equal_area_and_all_their_corners(shape: str) -> None:
    radius = outline(shape)
    angles = np.arange(ANGLES) * 2 * np.pi / ANGLES
    points = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1).astype(np.float32)
    assert cv2.contourArea(points) == pytest.approx(np.pi, rel=1e-3)
    tips = sum(a < b > c for a, b, c in zip(np.roll(radius, 1), radius, np.roll(radius, -1), strict=True))
    expected = {"circle": 0, "square": 4, "triangle": 3, "star": 5, "diamond": 4, "cross": 8}
    assert tips == expected.get(shape, tips)


@pytest.mark.parametrize("seed", SEEDS)
def test_story_fills_its_time(seed: int) -> None:
    made = world(seed)
    assert made.shots[0].start_us == 0 and made.shots[-1].end_us == made.duration_us
    for before, after in pairwise(made.shots):
        between = [t for t in made.transitions if before.start_us < t.start_us <= after.start_us]
        kinds = [t.kind for t in between]
        assert kinds in (["cut"], ["dissolve"], ["fade_out", "black"], ["fade_out", "black", "fade_in"])
        if kinds == ["cut"]:
            assert before.end_us == after.start_us == between[0].start_us
    found = events(made)
    assert found == sorted(found) and len(found) >= 5
    for event in found:
        assert 0 <= event.start_us <= event.end_us <= made.duration_us
        assert event.text and (event.end_us > event.start_us or event.kind == "cut")


@pytest.mark.parametrize("seed", SEEDS)
def test_acts_follow_one_another_and_are_said_truly(seed: int) -> None:
    for shot in world(seed).shots:
        colours = [
            c for thing in shot.scene.things for c in {thing.colour, *(a.colour for a in thing.acts if a.colour)}
        ]
        assert len(colours) == len(set(colours))  # "the red circle" is one thing throughout
        for thing in shot.scene.things:
            for before, after in pairwise(thing.acts):
                assert before.end_us <= after.start_us and before.kind != "leave" and after.kind != "appear"
            for act in thing.acts:
                start, end = pose(thing, act.start_us), pose(thing, act.end_us)
                if act.text:
                    assert start is not None
                    colour, shape = (
                        before if share == 0 else after for before, after, share in (start.colour, start.shape)
                    )
                    assert f" {colour} {shape} " in act.text + " ", act
                if act.kind == "leave":
                    assert end is None
                if act.kind == "appear":
                    assert pose(thing, act.start_us - 1) is None
                if act.kind == "move":
                    assert start is not None and end is not None
                    dx, dy = end.x - start.x, end.y - start.y
                    across, way = abs(dx) > abs(dy), act.text.rsplit(" ", 1)[1]
                    assert way == (("left", "right")[dx > 0] if across else ("up", "down")[dy > 0])


def cover(thing: Thing, clock_us: int, width: float, height: float) -> npt.NDArray[np.uint8]:
    """The pixels of a thing, drawn here independently of the painter."""
    scale = 200
    mask = np.zeros((round(height * scale), round(width * scale)), np.uint8)
    at = pose(thing, clock_us)
    if at is None:
        return mask
    radius = outline(at.shape[0]) * (1 - at.shape[2]) + outline(at.shape[1]) * at.shape[2]
    turn = np.arange(ANGLES) * 2 * np.pi / ANGLES
    points = np.stack([at.x + at.size * radius * np.cos(turn), at.y + at.size * radius * np.sin(turn)], 1) * scale
    cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    return mask


@pytest.mark.parametrize("seed", SEEDS)
def test_things_touch_when_they_meet_and_only_then(seed: int) -> None:
    made = world(seed)
    near = np.ones((5, 5), np.uint8)
    for shot in made.shots:
        meetings = [(a.start_us, a.end_us) for t in shot.scene.things for a in t.acts if a.kind == "meet" and a.text]
        # Corners touch a little before sides do; one that leaves goes or shrinks away until the end of that act.
        after = [(a, b) for t in shot.scene.things for a, b in pairwise(t.acts) if a.kind == "meet" and a.text]
        partings = [(a.start_us, b.end_us) for a, b in after]
        times = {m for start, end in meetings for m in (start - 600_000, (start + end) // 2, end - 10_000)}
        times |= set(range(0, shot.clock_us(shot.end_us), 700_000))
        for clock_us in times:
            meeting = [
                t for t in shot.scene.things for a in t.acts if a.kind == "meet" and a.start_us <= clock_us < a.end_us
            ]
            for one, other in combinations(shot.scene.things, 2):
                masks = [cover(t, clock_us, made.width, made.height) for t in (one, other)]
                if one in meeting and other in meeting:
                    assert np.any(cv2.dilate(masks[0], near) & masks[1])
                elif not any(start - 700_000 < clock_us < parted for start, parted in partings):
                    assert not np.any(masks[0] & masks[1])


@pytest.mark.parametrize("seed", range(8))
def test_things_and_words_are_drawn_exactly_while_they_are_there(seed: int) -> None:
    """A world with and without a thing (a caption) has the same pixels before and after it, and others during it."""
    made = world(seed)
    for number, shot in enumerate(made.shots):
        without_things = [
            (thing.acts, Scene(s.top, s.bottom, s.glows, tuple(t for t in s.things if t is not thing), s.captions))
            for s in [shot.scene]
            for thing in s.things
            if thing.acts and thing.acts[0].kind == "appear"
        ]
        for acts, scene in without_things:
            shots = (
                *made.shots[:number],
                Shot(scene, shot.start_us, shot.end_us, shot.frozen),
                *made.shots[number + 1 :],
            )
            full, less = (
                Painter(w, 96, 96) for w in (made, World(made.width, made.height, made.duration_us, shots, ()))
            )
            appears = shot.time_us(acts[0].start_us)
            assert not any(t.start_us <= appears < t.end_us for t in made.transitions)
            assert np.array_equal(full.frame(appears - 1), less.frame(appears - 1))
            assert not np.array_equal(full.frame(appears), less.frame(appears))
        for caption in shot.scene.captions:
            start, end = shot.time_us(caption.start_us), shot.time_us(caption.end_us)
            painter = Painter(made, 96, 96)
            for inside_us, outside_us in ((start, start - 1), (end - 1, end)):
                shown = painter.frame(inside_us).astype(int) - painter.frame(outside_us)
                assert np.abs(shown).max() > 40


def test_black_frozen_and_fades_are_what_is_drawn() -> None:
    kinds = set()
    for seed in range(10):
        made = world(seed)
        painter = Painter(made, 96, 96)
        times = list(range(0, made.duration_us, 40_000))
        shown = on_frames(events(made), times, made.duration_us)
        frames = {}
        for event in shown:
            if event.kind not in ("black", "frozen", "fade_out", "fade_in"):
                continue
            kinds.add(event.kind)
            inside = range(event.start_us, event.end_us, 40_000)
            around = (event.start_us - 40_000, event.end_us)
            frames = {t: painter.frame(t) for t in (*inside, *around) if 0 <= t < made.duration_us}
            if event.kind == "black":
                assert not any(frames[t].any() for t in inside)
                assert all(frames[t].any() for t in around if t in frames)
            elif event.kind == "frozen":
                first = frames[event.start_us]
                assert all(np.array_equal(frames[t], first) for t in inside)
                assert not any(np.array_equal(frames[t], first) for t in around if t in frames)
            else:
                light = [float(frames[t].mean()) for t in inside]
                assert light == sorted(light, reverse=event.kind == "fade_out") and light[-1] != light[0]
                assert all(frames[t].any() for t in inside)
    assert kinds == {"black", "frozen", "fade_out", "fade_in"}


def test_on_frames_against_a_search() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        times = np.unique(rng.integers(0, 1000, 20)).tolist()
        start = int(rng.integers(0, 1000))
        event = TruthEvent(start, start + int(rng.integers(1, 300)), "text", "A")
        showing = [t for t in times if event.start_us <= t < event.end_us]
        (*found,) = on_frames([event], times, 1000)
        if not showing:
            assert found == []
            continue
        later = [t for t in times if t > showing[-1]]
        assert found == [TruthEvent(showing[0], later[0] if later else 1000, "text", "A")]
    assert on_frames([TruthEvent(150, 150, "cut", "cut")], [0, 100, 200, 300], 400) == [
        TruthEvent(200, 300, "cut", "cut")
    ]


def test_activitynet_layout() -> None:
    made = activitynet({"a.mp4": ({"duration": 2.0}, [TruthEvent(500_000, 1_500_000, "text", "A")])}, "v")
    (video,) = made["database"].values()
    assert video["duration"] == 2.0 and video["subset"] == "testing"
    assert video["annotations"][0]["segment"] == [0.5, 1.5] and video["annotations"][0]["label"] == "text"


def test_a_frozen_shot_stops_everything() -> None:
    thing = Thing(
        "circle", "red", 0.3, 0.5, 0.1, (Act("move", 1_000_000, 3_000_000, "the red circle moves right", (0.7, 0.5)),)
    )
    scene = Scene((0, 0, 40), (0, 0, 60), (Glow(0.5, 0.5, 0.05, 0, 0.2, 20),), (thing,))
    shot = Shot(scene, 0, 8_000_000, ((2_000_000, 5_000_000),))
    made = World(1.0, 1.0, 8_000_000, (shot,), ())
    assert events(made) == [
        TruthEvent(1_000_000, 6_000_000, "move", "the red circle moves right"),
        TruthEvent(2_000_000, 5_000_001, "frozen", "frozen"),
    ]
    assert [shot.clock_us(t) for t in (0, 2_000_000, 3_500_000, 5_000_000, 6_000_000)] == [
        0, 2_000_000, 2_000_000, 2_000_000, 3_000_000,
    ]  # fmt: skip


def test_layers_mix_to_one_in_a_dissolve() -> None:
    scene = Scene((0, 0, 0), (255, 255, 255), (), ())
    shots = (Shot(scene, 0, 200), Shot(scene, 100, 300))
    made = World(1.0, 1.0, 300, shots, (Transition("dissolve", 100, 200),))
    assert [share for _, share in made.layers(125)] == [0.75, 0.25]
    assert made.layers(99) == ((shots[0], 1.0),) and made.layers(200) == ((shots[1], 1.0),)
