"""The generated world: what is where at any time. Descriptions only; drawing is in draw.py, chance in story.py.

Lengths are in short sides of the picture (a 16:9 world is 1.78 wide and 1 high, y down), times in microseconds. A
scene has its own clock, which starts at 0 with the shot that shows it and stands still while the picture is frozen.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from math import pi, sin
from typing import Literal

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (224, 62, 62),
    "orange": (247, 140, 46),
    "yellow": (252, 212, 72),
    "green": (66, 172, 98),
    "blue": (56, 116, 224),
    "purple": (140, 84, 198),
    "pink": (244, 142, 184),
    "white": (250, 248, 243),
}

DIMMEST = 0.06  # share of the light in the darkest frame of a fade: plainly something, where black is nothing


@dataclass(frozen=True, slots=True)
class Act:
    """What a thing does in `[start_us, end_us)` of its scene's clock. `text` says it; an empty one is no event."""

    kind: Literal["appear", "move", "change", "meet", "leave"]
    start_us: int
    end_us: int
    text: str
    to: tuple[float, float] | None = None  # move: where to; appear and leave: the point outside, None: by growing
    colour: str | None = None
    shape: str | None = None
    size: float | None = None


@dataclass(frozen=True, slots=True)
class Thing:
    """Something with a shape and a colour, and how it is until its first act (before an "appear": not there)."""

    shape: str
    colour: str
    x: float
    y: float
    size: float  # radius of the circle with the same area
    acts: tuple[Act, ...] = ()


@dataclass(frozen=True, slots=True)
class Pose:
    """How a thing looks at one moment. Colour and shape are mixtures while they change: (from, to, share of to)."""

    x: float
    y: float
    size: float
    colour: tuple[str, str, float]
    shape: tuple[str, str, float]


@dataclass(frozen=True, slots=True)
class Caption:
    """Words shown during `[start_us, end_us)` of the scene's clock."""

    text: str
    start_us: int
    end_us: int
    place: Literal["lower", "title"] = "lower"


@dataclass(frozen=True, slots=True)
class Glow:
    """A soft light that drifts through the background: position at clock 0, speed per second, radius, strength."""

    x: float
    y: float
    dx: float
    dy: float
    radius: float
    light: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A place: its light from top to bottom, what drifts, stands and moves in it, and the words shown."""

    top: Rgb
    bottom: Rgb
    glows: tuple[Glow, ...]
    things: tuple[Thing, ...]
    captions: tuple[Caption, ...] = ()


@dataclass(frozen=True, slots=True)
class Shot:
    """A scene on screen during `[start_us, end_us)` of the video. `frozen`: spans in which the picture stands still."""

    scene: Scene
    start_us: int
    end_us: int
    frozen: tuple[tuple[int, int], ...] = ()

    def clock_us(self, time_us: int) -> int:
        """The scene's clock at a time of the video."""
        stood = sum(min(time_us, end) - start for start, end in self.frozen if time_us > start)
        return time_us - self.start_us - stood

    def time_us(self, clock_us: int) -> int:
        """The first time of the video at which the scene's clock has passed `clock_us`, if it comes so far."""
        time_us = self.start_us + clock_us
        for start, end in self.frozen:
            if time_us >= start:
                time_us += end - start
        return time_us


@dataclass(frozen=True, slots=True)
class Transition:
    """How one shot gives way to the next in `[start_us, end_us)`; an empty span for a cut."""

    kind: Literal["cut", "fade_out", "black", "fade_in", "dissolve"]
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class World:
    """A whole video before it has frames. `width` or `height` is 1, the other at least that."""

    width: float
    height: float
    duration_us: int
    shots: tuple[Shot, ...]
    transitions: tuple[Transition, ...]
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", tuple(shot.start_us for shot in self.shots))

    def layers(self, time_us: int) -> tuple[tuple[Shot, float], ...]:
        """What is on screen: shots with their share of the light (1 in sum, less while it fades, none in black)."""
        last = max(0, bisect_right(self._starts, time_us) - 1)
        around = self.shots[max(0, last - 1) : last + 1]
        live = [shot for shot in around if shot.start_us <= time_us < shot.end_us]
        now = next((t for t in self.transitions if t.start_us <= time_us < t.end_us), None)
        if now is None:
            return tuple((shot, 1.0) for shot in live[-1:])
        done = (time_us - now.start_us) / (now.end_us - now.start_us)
        if now.kind == "dissolve":
            return ((live[0], 1 - done), (live[1], done))
        light = DIMMEST + (1 - DIMMEST) * (1 - done if now.kind == "fade_out" else done)
        return tuple((shot, light) for shot in live)


def pose(thing: Thing, clock_us: int) -> Pose | None:
    """How `thing` looks at a time of its scene's clock; None while it is not there."""
    if thing.acts and thing.acts[0].kind == "appear" and clock_us < thing.acts[0].start_us:
        return None
    at = Pose(thing.x, thing.y, thing.size, (thing.colour, thing.colour, 0.0), (thing.shape, thing.shape, 0.0))
    for act in thing.acts:
        if clock_us < act.start_us:
            break
        share = min(1.0, (clock_us - act.start_us) / (act.end_us - act.start_us))
        if act.kind == "leave" and share == 1.0:
            return None
        at = _during(act, at, share)
    return at


def _during(act: Act, at: Pose, share: float) -> Pose:
    if act.kind in ("appear", "leave"):
        here = eased(share) if act.kind == "appear" else 1 - eased(share)
        if act.to is None:
            return replace(at, size=at.size * (0.3 + 0.7 * here))
        return replace(at, x=act.to[0] + (at.x - act.to[0]) * here, y=act.to[1] + (at.y - act.to[1]) * here)
    if act.kind == "move" and act.to is not None:
        done = eased(share)
        return replace(at, x=at.x + (act.to[0] - at.x) * done, y=at.y + (act.to[1] - at.y) * done)
    if act.kind == "meet":  # both nod while they are together
        return replace(at, size=at.size * (1 + 0.05 * sin(pi * share) * sin(6 * pi * share)))
    if act.colour is not None:
        at = replace(at, colour=(at.colour[1] if at.colour[2] else at.colour[0], act.colour, share))
    if act.shape is not None:
        at = replace(at, shape=(at.shape[1] if at.shape[2] else at.shape[0], act.shape, eased(share)))
    if act.size is not None:
        at = replace(at, size=at.size + (act.size - at.size) * eased(share))
    return at


def eased(share: float, ramp: float = 0.12) -> float:
    """The way done at a share of the time: speeding up and slowing down over `ramp` of it, steady between, so that it
    looks soft and yet visibly moves from its first frame on.
    """
    top = 1 / (1 - ramp)  # the steady speed that covers the whole way
    if share < ramp:
        return top * share * share / (2 * ramp)
    if share > 1 - ramp:
        return 1 - top * (1 - share) ** 2 / (2 * ramp)
    return top * (share - ramp / 2)
