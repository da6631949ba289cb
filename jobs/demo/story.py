"""Chance for the generated world: a seed becomes a story. Pure: the same generator state gives the same world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import dist

import numpy as np

from jobs.demo.plot import Pace, Plot
from jobs.demo.world import COLOURS, Caption, Glow, Rgb, Scene, Shot, Thing, Transition, World
from pipeline.plan import SECOND_US

WORDS = (
    "MORNING", "HARBOUR", "RIVER", "GARDEN", "WINTER", "SUMMER", "MARKET", "STATION", "BRIDGE", "LANTERN", "PAPER",
    "SILVER", "MIDNIGHT", "WINDOW", "ISLAND", "FOREST", "COFFEE", "LETTER", "SIGNAL", "VELVET", "THUNDER", "HARVEST",
    "COMET", "MIRROR", "PLANET", "ROCKET", "SPRING", "TEMPLE", "VALLEY", "WONDER", "NORTH", "SOUTH",
)  # fmt: skip

#: Light from top to bottom of a scene.
BACKGROUNDS: tuple[tuple[Rgb, Rgb], ...] = (
    ((28, 36, 72), (66, 58, 116)),  # night
    ((14, 74, 94), (38, 128, 128)),  # lagoon
    ((246, 240, 228), (226, 218, 208)),  # paper
    ((44, 66, 58), (96, 116, 88)),  # moss
    ((60, 36, 72), (112, 64, 98)),  # plum
    ((168, 204, 232), (216, 232, 240)),  # sky
    ((236, 218, 190), (212, 186, 154)),  # sand
    ((46, 52, 64), (88, 96, 110)),  # slate
    ((250, 214, 196), (232, 172, 164)),  # dawn
)


@dataclass(frozen=True, slots=True)
class Style:
    """What stories are like: the length of shots, how shots follow each other, how often words are shown and the
    picture stands still.
    """

    shot_us: tuple[int, int] = (6 * SECOND_US, 11 * SECOND_US)
    transitions: tuple[tuple[str, float], ...] = (("cut", 0.5), ("fade", 0.3), ("dissolve", 0.2))
    fade_us: tuple[int, int] = (700_000, 1_200_000)
    black_us: tuple[int, int] = (700_000, 1_600_000)
    caption: float = 0.55  # of the captions that would fit
    caption_us: tuple[int, int] = (2_200_000, 3_600_000)
    frozen: float = 0.15  # of the shots
    frozen_us: tuple[int, int] = (2_600_000, 4_000_000)
    pace: Pace = field(default_factory=Pace)


def story(
    rng: np.random.Generator,
    duration_us: int,
    width: float,
    height: float,
    style: Style | None = None,
    title: str | None = None,
) -> World:
    """A world of `duration_us`, `width` x `height` short sides. With a `title` it opens on a card that shows it."""
    style = style or Style()
    shots: list[Shot] = []
    transitions: list[Transition] = []
    background = int(rng.integers(len(BACKGROUNDS)))
    start = 0
    entering = leaving = 0  # how much of the next shot's start and of this one's end belongs to a transition
    while True:
        length = 4 * SECOND_US if title and not shots else _between(rng, style.shot_us)
        last = start + length + style.shot_us[0] > duration_us
        end = duration_us if last else start + length
        kind = "" if last else str(rng.choice([k for k, _ in style.transitions], p=[p for _, p in style.transitions]))
        leaving = _between(rng, style.fade_us) if kind in ("fade", "dissolve") else 0
        card = title if not shots else None
        shots.append(_shot(rng, (start, end), (entering, leaving), (width, height), background, style, card))
        if last:
            return World(width, height, duration_us, tuple(shots), tuple(transitions))
        background = int((background + rng.integers(1, len(BACKGROUNDS))) % len(BACKGROUNDS))
        start, entering = end, 0
        if kind == "cut":
            transitions.append(Transition("cut", end, end))
        elif kind == "dissolve":
            start, entering = end - leaving, leaving
            transitions.append(Transition("dissolve", start, end))
        else:
            start, entering = end + _between(rng, style.black_us), _between(rng, style.fade_us)
            transitions.append(Transition("fade_out", end - leaving, end))
            transitions.append(Transition("black", end, start))
            transitions.append(Transition("fade_in", start, start + entering))


def _shot(
    rng: np.random.Generator,
    span: tuple[int, int],
    blended: tuple[int, int],
    size: tuple[float, float],
    background: int,
    style: Style,
    title: str | None,
) -> Shot:
    """One shot of `span`, quiet while it is `blended` with its neighbours (at its start, at its end)."""
    start, end = span
    length = end - start
    stands = _between(rng, style.frozen_us) if rng.random() < style.frozen else 0
    if title is not None or length - stands < style.shot_us[0] - style.frozen_us[1]:
        stands = 0
    clock_length = length - stands
    top, bottom = BACKGROUNDS[background]
    colours = colours_on((top, bottom))
    things: tuple[Thing, ...] = ()
    captions: tuple[Caption, ...]
    if title is not None:
        captions = (Caption(title, 600_000, clock_length - blended[1] - 400_000, "title"),)
    else:
        plot = Plot(rng, *size, colours, style.pace)
        things = plot.things(clock_length - blended[1], blended[0])
        captions = tuple(_captions(rng, blended[0], clock_length - blended[1], style))
    scene = Scene(top, bottom, random_glows(rng, *size), things, captions)
    frozen: tuple[tuple[int, int], ...] = ()
    if stands and (moment := _quiet_moment(rng, scene, blended[0], clock_length - blended[1])) is not None:
        frozen = ((start + moment, start + moment + stands),)
    return Shot(scene, start, end, frozen)


def colours_on(background: tuple[Rgb, Rgb]) -> list[str]:
    """Those that stand out from it."""
    return [name for name, rgb in COLOURS.items() if min(dist(rgb, light) for light in background) > 95]


def _captions(rng: np.random.Generator, start_us: int, end_us: int, style: Style) -> list[Caption]:
    found: list[Caption] = []
    at = start_us + _between(rng, (500_000, 2_500_000))
    words = [str(word) for word in rng.permutation(WORDS)]
    while (until := at + _between(rng, style.caption_us)) < end_us - 300_000:
        if rng.random() < style.caption:
            text = words.pop() if rng.random() < 0.6 else f"{words.pop()} {rng.integers(1, 100)}"
            found.append(Caption(text, at, until))
        at = until + _between(rng, (800_000, 3_000_000))
    return found


def _quiet_moment(rng: np.random.Generator, scene: Scene, start_us: int, end_us: int) -> int | None:
    """A time of the clock at which nothing begins, goes on or ends, so that standing still hides nothing."""
    busy = [(act.start_us, act.end_us) for thing in scene.things for act in thing.acts]
    busy += [(edge, edge) for caption in scene.captions for edge in (caption.start_us, caption.end_us)]
    for moment in rng.integers(start_us + 400_000, max(start_us + 400_001, end_us - 400_000), 40):
        if all(not (start - 100_000 < moment < end + 100_000) for start, end in busy):
            return int(moment)
    return None


def random_glows(rng: np.random.Generator, width: float, height: float) -> tuple[Glow, ...]:
    return tuple(
        Glow(
            x=float(rng.uniform(0, width)),
            y=float(rng.uniform(0, height)),
            dx=float(rng.choice([-1, 1]) * rng.uniform(0.02, 0.06)),
            dy=float(rng.uniform(-0.03, 0.03)),
            radius=float(rng.uniform(0.05, 0.22)),
            light=float(rng.uniform(12, 30)),
        )
        for _ in range(9)
    )


def _between(rng: np.random.Generator, span: Sequence[int]) -> int:
    return int(rng.integers(span[0], span[1] + 1))
