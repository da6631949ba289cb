"""Training samples of the generated world: the frames of a window as a decoder would give them, and the answer.

A sample is what inference would see: a window somewhere in a video, sampled at the prompt's rate, each frame with the
time of the last picture presented at or before the wanted time (constant rates off the grid, variable rates).
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot, sqrt

import cv2
import numpy as np
import numpy.typing as npt

from jobs.demo.archive import FILMS
from jobs.demo.draw import Painter
from jobs.demo.shapes import SHAPES
from jobs.demo.story import BACKGROUNDS, WORDS, Style, colours_on, random_glows, story
from jobs.demo.truth import TruthEvent, events
from jobs.demo.world import Act, Caption, Scene, Shot, Thing, World
from model.prompts import Prompt
from pipeline.plan import SECOND_US, Sampling, Windowing

TENTH_US = SECOND_US // 10
#: Kinds that take a whole act to be recognised: told only by a window that shows at least half of one. Windows overlap
#: by more than the longest act, so that one of them always does.
ACTS = frozenset({"appear", "move", "change", "meet", "leave", "fade_out", "fade_in", "dissolve"})
_LEAST_SHOWN_US = {"frozen": 1_200_000, "black": 300_000, "text": 400_000}
_ASPECTS = ((16, 9), (4, 3), (9, 16), (1, 1))
_RATES = (24.0, 25.0, 30.0, 30000 / 1001, 60.0, 15.0)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One window. `pixels` uint8 [T, h, w, 3], `frame_us` relative to the window's start, `told`: the events of the
    right answer, relative likewise. `world` and `start_us` say where it was taken from.
    """

    pixels: npt.NDArray[np.uint8]
    frame_us: tuple[int, ...]
    told: tuple[TruthEvent, ...]
    world: World
    start_us: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.pixels.shape[1], self.pixels.shape[2]


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What the curriculum turns: `aspects` weights of 16:9, 4:3, 9:16, 1:1; `full` windows that are not cut short by
    the end or the beginning of their video; `spoiled` frames that went through a lossy codec; `titles` videos that
    open on a card.
    """

    aspects: tuple[float, float, float, float] = (0.6, 0.2, 0.1, 0.1)
    full: float = 0.85
    spoiled: float = 0.3
    titles: float = 0.4


def samples(
    seed: Sequence[int],
    prompt: Prompt,
    batch: int,
    difficulty: Difficulty | None = None,
    style: Style | None = None,
) -> Iterator[list[Sample]]:
    """Batches without end; all samples of one batch have the same frame size and number of frames. The same seed
    gives the same batches."""
    difficulty = difficulty or Difficulty()
    rng = np.random.default_rng(list(seed))
    weights = np.array(difficulty.aspects) / sum(difficulty.aspects)
    while True:
        aspect = _ASPECTS[rng.choice(len(_ASPECTS), p=weights)]
        length_us = _length(rng, prompt, difficulty)
        found: list[Sample] = []
        while len(found) < batch:
            found += _windows(rng, prompt, aspect, length_us, min(4, batch - len(found)), difficulty, style)
        yield found


def glances(seed: Sequence[int], prompt: Prompt, count: int, difficulty: Difficulty | None = None) -> list[Sample]:
    """Pairs of frames half a second apart, each from a scene of its own in which things stand anywhere and are just
    changing: far more shapes and words in as many frames than windows of whole stories hold. Nothing is told of them.
    """
    difficulty = difficulty or Difficulty()
    rng = np.random.default_rng(list(seed))
    weights = np.array(difficulty.aspects) / sum(difficulty.aspects)
    aspect = _ASPECTS[rng.choice(len(_ASPECTS), p=weights)]
    found = []
    for _ in range(count):
        world = _still_life(rng, aspect[0] / min(aspect), aspect[1] / min(aspect))
        painter, size, shrink, quality = _look_of(rng, prompt, world, aspect, difficulty)
        at = (SECOND_US, SECOND_US + SECOND_US // 2)
        pixels = np.stack([_seen(painter.frame(t), size, shrink, quality) for t in at])
        found.append(Sample(pixels, (0, SECOND_US // 2), (), world, at[0]))
    return found


def _still_life(rng: np.random.Generator, width: float, height: float) -> World:
    """One shot of 3 s, with things that change throughout."""
    end_us = 3 * SECOND_US
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    colours = [str(c) for c in rng.permutation(colours_on(background))]
    things: list[Thing] = []
    for _ in range(rng.integers(1, 4)):
        x, y, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.08, 0.22)
        if any(hypot(x - t.x, y - t.y) < 1.5 * (size + t.size) for t in things):
            continue
        if len(colours) < 2:
            break
        shape, other = (str(s) for s in rng.choice(SHAPES, 2, replace=False))
        acts = (
            (),
            (Act("move", 0, end_us, "", to=(x + rng.uniform(-0.5, 0.5), y + rng.uniform(-0.5, 0.5))),),
            (Act("change", 0, end_us, "", colour=colours.pop()),),
            (Act("change", 0, end_us, "", shape=other),),
        )[rng.choice(4, p=(0.5, 0.3, 0.1, 0.1))]
        things.append(Thing(shape, colours.pop(), float(x), float(y), float(size), acts))
    captions: tuple[Caption, ...] = ()
    if (chance := rng.random()) < 0.85:
        title = _title(rng, Difficulty(titles=1.0)) if chance < 0.2 else None
        captions = (Caption(title or _words(rng), 0, end_us, "title" if title else "lower"),)
    scene = Scene(*background, random_glows(rng, width, height), tuple(things), captions)
    return World(width, height, end_us, (Shot(scene, 0, end_us),), ())


def answer(told: Sequence[TruthEvent]) -> str:
    """What the model should write, in the order of the schema (model/qwen3_vl/answer.py).

    The confidences in it are arbitrary: which to write is for the model to find out (network.AnswerLoss), and what
    comes after them must not depend on them.
    """
    items = [
        {
            "start": round(e.start_us / TENTH_US) / 10,
            "end": round(e.end_us / TENTH_US) / 10,
            "kind": e.kind,
            "text": e.text,
            "confidence": (5 + 10 * ((e.start_us + e.end_us) // TENTH_US % 10)) / 100,
        }
        for e in told
    ]
    return json.dumps({"events": items}, separators=(",", ":"))


def told_of(
    meant: Sequence[TruthEvent], start_us: int, length_us: int, frame_us: Sequence[int], most: int
) -> tuple[TruthEvent, ...]:
    """What should be told of a video's events by a window at `start_us`: clipped to it, in the order of the answer.

    Left out is what the window's frames do not show, or show too little of.
    """
    first, last = frame_us[0], frame_us[-1]
    found = []
    for e in meant:
        start, end = e.start_us - start_us, e.end_us - start_us
        shown = min(end, last) - max(start, first)
        if e.kind == "cut":
            tell = first < start <= last
        elif e.kind in ACTS:
            tell = shown >= (end - start) / 2
        else:
            tell = shown >= min(_LEAST_SHOWN_US.get(e.kind, 0), (end - start) / 2)
        if tell and shown >= 0:
            start = max(0, min(start, length_us - TENTH_US))
            end = start + TENTH_US if e.kind == "cut" else min(length_us, max(end, start + TENTH_US))
            found.append(
                TruthEvent(round(start / TENTH_US) * TENTH_US, round(end / TENTH_US) * TENTH_US, e.kind, e.text)
            )
    return tuple(sorted(found)[:most])


def _length(rng: np.random.Generator, prompt: Prompt, difficulty: Difficulty) -> int:
    """A window's length: the whole one, or what is left at the end of a video."""
    whole = (prompt.windowing or Windowing()).length_us
    if rng.random() < difficulty.full:
        return whole
    return int(rng.integers(SECOND_US // 2, whole))


def _windows(
    rng: np.random.Generator,
    prompt: Prompt,
    aspect: tuple[int, int],
    length_us: int,
    count: int,
    difficulty: Difficulty,
    style: Style | None,
) -> list[Sample]:
    """Some windows of one video."""
    short = min(aspect)
    duration_us = int(rng.integers(20, 41)) * SECOND_US
    world = story(rng, duration_us, aspect[0] / short, aspect[1] / short, style, _title(rng, difficulty))
    meant = events(world)
    assert prompt.fps is not None
    painter, size, shrink, quality = _look_of(rng, prompt, world, aspect, difficulty)
    presented = _presented(rng, duration_us)
    whole_us = (prompt.windowing or Windowing()).length_us
    period_us = SECOND_US * prompt.fps.denominator // prompt.fps.numerator
    found = []
    for _ in range(count):
        start_us, end_us = _span(rng, duration_us, length_us, whole_us, period_us)
        at = [presented(t) for t in range(start_us, end_us, period_us) if t >= 0]
        pixels = np.stack([_seen(painter.frame(t), size, shrink, quality) for t in at])
        frame_us = tuple(max(0, t - start_us) for t in at)
        told = told_of(meant, start_us, end_us - start_us, frame_us, prompt.answer.max_events)
        found.append(Sample(pixels, frame_us, told, world, start_us))
    return found


def _span(rng: np.random.Generator, duration_us: int, length_us: int, whole_us: int, period_us: int) -> tuple[int, int]:
    """Start and end of a window that has frames for `length_us`. Where that is not its whole length, its video ends in
    it, or begins in it, as the first of a video does whose time does not begin at 0."""
    if length_us == whole_us:
        start_us = 0 if rng.random() < 0.15 else int(rng.integers(0, duration_us - length_us + 1))
        return start_us, start_us + length_us
    if rng.random() < 0.6:
        return duration_us - length_us, duration_us
    start_us = int(rng.integers(period_us)) - (whole_us - length_us) // period_us * period_us
    return start_us, start_us + whole_us


def _words(rng: np.random.Generator) -> str:
    word = str(rng.choice(WORDS))
    return word if rng.random() < 0.5 else f"{word} {rng.integers(1, 100)}"


def _look_of(
    rng: np.random.Generator, prompt: Prompt, world: World, aspect: tuple[int, int], difficulty: Difficulty
) -> tuple[Painter, tuple[int, int], int, int]:
    """Who draws a world, the (width, height) in px that the model sees it in, and by which scaling and which quality of
    a lossy codec (0: none) it comes there."""
    assert prompt.fps is not None and prompt.max_pixels is not None
    sampling = Sampling(prompt.fps, short_side=None, max_pixels=prompt.max_pixels, multiple=32)
    width, height = sampling.size(aspect[0] * 80, aspect[1] * 80)
    drawn = sqrt(width * height / (aspect[0] * aspect[1])) * float(rng.uniform(1.0, 1.8))
    painter = Painter(world, round(aspect[0] * drawn), round(aspect[1] * drawn))
    shrink = int(rng.choice([cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
    quality = int(rng.integers(55, 96)) if rng.random() < difficulty.spoiled else 0
    return painter, (width, height), shrink, quality


def _title(rng: np.random.Generator, difficulty: Difficulty) -> str | None:
    if rng.random() >= difficulty.titles:
        return None
    if rng.random() < 0.25:
        return str(rng.choice([film.title for film in FILMS]))
    return " ".join(str(word) for word in rng.permutation(WORDS)[: rng.integers(1, 3)])


class _Presented:
    """The picture on screen at a time, for a video of constant or variable rate."""

    def __init__(self, times_us: list[int]) -> None:
        self.times_us = times_us

    def __call__(self, time_us: int) -> int:
        return self.times_us[max(0, bisect_right(self.times_us, time_us) - 1)]


def _presented(rng: np.random.Generator, duration_us: int) -> _Presented:
    step = SECOND_US / float(rng.choice(_RATES))
    n = int(duration_us / step) + 1
    steps = np.full(n, step)
    if rng.random() < 0.25:
        steps *= rng.choice([0.5, 1.0, 1.0, 2.0, 4.0], n)
    first = 0.0 if rng.random() < 0.7 else float(rng.uniform(0, step))
    times = np.concatenate([[first], first + np.cumsum(steps)]).astype(np.int64)
    return _Presented(times[times < duration_us].tolist())


def _seen(picture: npt.NDArray[np.uint8], size: tuple[int, int], shrink: int, quality: int) -> npt.NDArray[np.uint8]:
    """A drawn picture as the decoder hands it over: scaled, and maybe through a lossy codec before."""
    if quality:
        _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR_BGR), np.uint8)
    return np.asarray(cv2.resize(picture, size, interpolation=shrink), np.uint8)
