"""What the things of one scene do, one beat after another: chance among what is possible at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import atan2, hypot, pi

import numpy as np

from jobs.demo.shapes import ANGLES, SHAPES, outline
from jobs.demo.world import Act, Thing

MARGIN = 0.24  # of a thing's middle from the edges of the picture, in short sides
CAPTION_ROOM = 0.42  # and from the lower edge, where words are shown
GAP = 0.06  # between things that do not meet


@dataclass(frozen=True, slots=True)
class Pace:
    """How busy a scene is: things at once, how long each kind of act takes, the pause between two acts, and how often
    the next act begins while the last still goes on.
    """

    most_things: int = 3
    act_us: tuple[int, int] = (1_200_000, 2_200_000)
    pause_us: tuple[int, int] = (300_000, 1_000_000)
    overlap: float = 0.25


@dataclass(slots=True)
class _Player:
    """A thing while its scene is being planned: how it is now, and what it did so far."""

    first: Thing
    colour: str
    shape: str
    x: float
    y: float
    size: float
    acts: list[Act] = field(default_factory=list)
    busy_until_us: int = 0
    path: list[tuple[float, float]] = field(default_factory=list)  # all it passes until then
    largest: float = 0.0  # and its largest size until then
    gone: bool = False

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def act(self, act: Act) -> int:
        if act.start_us > self.busy_until_us:  # else one of several acts that follow at once
            self.path, self.largest = [(self.x, self.y)], self.size
        self.acts.append(act)
        self.busy_until_us = act.end_us
        if act.to is not None:
            self.path.append(act.to)
        if act.kind == "move" and act.to is not None:
            self.x, self.y = act.to
        self.colour, self.shape = act.colour or self.colour, act.shape or self.shape
        self.size = act.size or self.size
        self.largest = max(self.largest, self.size)
        self.gone = act.kind == "leave"
        return act.end_us


class Plot:
    """Plans one scene. `colours`: those that stand out from its background; no two things ever have the same."""

    def __init__(
        self, rng: np.random.Generator, width: float, height: float, colours: Sequence[str], pace: Pace
    ) -> None:
        self.rng, self.width, self.height, self.pace = rng, width, height, pace
        self.unused = [str(c) for c in rng.permutation(colours)]
        self.players: list[_Player] = []
        self.now_us = 0
        self.end_us = 0

    def things(self, end_us: int, start_us: int = 0) -> tuple[Thing, ...]:
        """The things of a scene, with acts between `start_us` and `end_us` of its clock."""
        self.end_us = end_us - 400_000
        for _ in range(self.rng.integers(0, self.pace.most_things)):
            self._new()
        self.now_us = start_us + int(self.rng.integers(400_000, 900_000))
        while self.now_us < self.end_us and (ended := self._beat()) is not None:
            if self.rng.random() < self.pace.overlap:
                self.now_us += (ended - self.now_us) // 2
            else:
                self.now_us = ended + self._between(self.pace.pause_us)
        return tuple(
            Thing(p.first.shape, p.first.colour, p.first.x, p.first.y, p.first.size, tuple(p.acts))
            for p in self.players
        )

    def _beat(self) -> int | None:
        """One act of somebody, beginning now: its end; None if nothing can begin."""
        choices: list[tuple[float, Callable[[], int | None]]] = [
            (3.0 if not self._here() else 1.4, self._appear),
            (1.6, self._move),
            (1.4, self._change),
            (2.6, self._meet),
            (0.3 if len(self._here()) < 2 else 0.9, self._leave),
        ]
        weights = np.array([weight for weight, _ in choices])
        for index in self.rng.choice(len(choices), len(choices), replace=False, p=weights / weights.sum()):
            ended = choices[index][1]()
            if ended is not None:
                return ended
        return None

    # --- the acts: each returns when it ends, or None where it cannot be ---

    def _appear(self) -> int | None:
        end = self._end()
        if end is None or len(self._here()) >= self.pace.most_things:
            return None
        player = self._new()
        if player is None:
            return None
        outside = self._outside(player.x, player.y, player.size) if self.rng.random() < 0.6 else None
        if outside is not None and not self._clear(player, outside, (player.x, player.y)):
            outside = None
        return player.act(
            Act("appear", self.now_us, end, f"a {player.name} appears".replace("a o", "an o"), to=outside)
        )

    def _leave(self) -> int | None:
        end, player = self._end(), self._idle()
        if end is None or player is None:
            return None
        return player.act(self._leaving(player, self.now_us, end))

    def _leaving(self, player: _Player, start_us: int, end_us: int) -> Act:
        outside = self._outside(player.x, player.y, player.size)
        if self.rng.random() < 0.4 or not self._clear(player, (player.x, player.y), outside):
            return Act("leave", start_us, end_us, f"the {player.name} leaves")
        return Act("leave", start_us, end_us, f"the {player.name} leaves", to=outside)

    def _move(self) -> int | None:
        end, player = self._end(), self._idle()
        target = None if player is None else self._free_way(player)
        if end is None or player is None or target is None:
            return None
        return player.act(self._moving(player, target, self.now_us, end))

    def _moving(self, player: _Player, target: tuple[float, float], start_us: int, end_us: int) -> Act:
        way = _direction(target[0] - player.x, target[1] - player.y)
        return Act("move", start_us, end_us, f"the {player.name} moves {way}", to=target)

    def _change(self) -> int | None:
        end, player = self._end(), self._idle()
        if end is None or player is None:
            return None
        what = self.rng.integers(3)
        if what == 0 and self.unused:
            colour = self.unused.pop()
            return player.act(Act("change", self.now_us, end, f"the {player.name} turns {colour}", colour=colour))
        if what == 1:
            shape = str(self.rng.choice([s for s in SHAPES if s != player.shape]))
            return player.act(Act("change", self.now_us, end, f"the {player.name} becomes a {shape}", shape=shape))
        larger = player.size < 0.15
        size = player.size * (1.45 if larger else 0.66)
        if larger and not self._fits(player.x, player.y, size, except_for=player):
            return None
        verb = "grows" if larger else "shrinks"
        return player.act(Act("change", self.now_us, end, f"the {player.name} {verb}", size=size))

    def _meet(self) -> int | None:
        """One goes to another, they are together for a while, then it goes its way again."""
        arrive = self._end()
        idle = [p for p in self._here() if p.busy_until_us <= self.now_us]
        if arrive is None or len(idle) < 2:
            return None
        part = arrive + self._between(self.pace.act_us)
        end = part + self._between(self.pace.act_us)
        if end > self.end_us:
            return None
        goer, other = (idle[i] for i in self.rng.permutation(len(idle))[:2])
        beside = self._beside(goer, other)
        if beside is None:
            return None
        goer.act(self._moving(goer, beside, self.now_us, arrive))
        goer.act(Act("meet", arrive, part, f"the {goer.name} meets the {other.name}"))
        other.act(Act("meet", arrive, part, ""))
        away = self._free_way(goer)
        goer.act(self._leaving(goer, part, end) if away is None else self._moving(goer, away, part, end))
        other.busy_until_us = end  # it waits until there is room again
        return end

    # --- who, where, how long ---

    def _here(self) -> list[_Player]:
        return [p for p in self.players if not p.gone or p.busy_until_us > self.now_us]

    def _idle(self) -> _Player | None:
        idle = [p for p in self._here() if not p.gone and p.busy_until_us <= self.now_us]
        return idle[self.rng.integers(len(idle))] if idle else None

    def _between(self, span: tuple[int, int]) -> int:
        return int(self.rng.integers(span[0], span[1] + 1))

    def _end(self) -> int | None:
        end = self.now_us + self._between(self.pace.act_us)
        return end if end <= self.end_us else None

    def _new(self) -> _Player | None:
        if not self.unused:
            return None
        size = float(self.rng.uniform(0.11, 0.19))
        for x, y in self._places():
            if self._fits(x, y, size):
                shape, colour = str(self.rng.choice(SHAPES)), self.unused.pop()
                self.players.append(_Player(Thing(shape, colour, x, y, size), colour, shape, x, y, size))
                return self.players[-1]
        return None

    def _places(self) -> Iterator[tuple[float, float]]:
        for _ in range(24):
            x = self.rng.uniform(MARGIN, self.width - MARGIN)
            y = self.rng.uniform(MARGIN, self.height - CAPTION_ROOM)
            yield float(x), float(y)

    def _fits(self, x: float, y: float, size: float, except_for: _Player | None = None) -> bool:
        others = (p for p in self._here() if p is not except_for)
        return all(self._distance(p, x, y) >= _reach(size) + GAP for p in others)

    def _free_way(self, player: _Player) -> tuple[float, float] | None:
        """A place that `player` can go to straight, clearly left, right, up or down of where it is."""
        for x, y in self._places():
            dx, dy = x - player.x, y - player.y
            far = hypot(dx, dy) >= 0.35 and max(abs(dx), abs(dy)) >= 1.8 * min(abs(dx), abs(dy))
            if far and self._fits(x, y, player.size, player) and self._clear(player, (player.x, player.y), (x, y)):
                return x, y
        return None

    def _beside(self, goer: _Player, other: _Player) -> tuple[float, float] | None:
        """Where `goer` touches `other`, coming straight from a side."""
        dx, dy = other.x - goer.x, other.y - goer.y
        if max(abs(dx), abs(dy)) < 1.4 * min(abs(dx), abs(dy)):
            return None
        distance, angle = hypot(dx, dy), atan2(dy, dx)
        touch = 0.97 * (goer.size * _extent(goer.shape, angle) + other.size * _extent(other.shape, angle + pi))
        if distance - touch < 0.2:
            return None
        x, y = other.x - dx * touch / distance, other.y - dy * touch / distance
        return (x, y) if self._clear(goer, (goer.x, goer.y), (x, y), but=other) else None

    def _clear(
        self, player: _Player, start: tuple[float, float], end: tuple[float, float], but: _Player | None = None
    ) -> bool:
        """Whether nobody stands or goes where `player` passes."""
        steps = np.linspace(0, 1, 12)
        for other in self._here():
            if other is player or other is but:
                continue
            room = _reach(player.size) + GAP / 2
            for s in steps:
                x, y = start[0] + (end[0] - start[0]) * s, start[1] + (end[1] - start[1]) * s
                if self._distance(other, float(x), float(y)) < room:
                    return False
        return True

    def _distance(self, player: _Player, x: float, y: float) -> float:
        """From a place to the nearest that a player reaches now, or until it is done with what it does."""
        if player.busy_until_us <= self.now_us:
            return hypot(player.x - x, player.y - y) - _reach(player.size)
        ways = zip(player.path, player.path[1:] or player.path, strict=False)
        return min(_to_segment(x, y, start, end) for start, end in ways) - _reach(player.largest)

    def _outside(self, x: float, y: float, size: float) -> tuple[float, float]:
        """The point at the nearest of the left, right and upper edges where a bit of a thing still shows."""
        peep = 0.35 * size
        return min(
            ((-peep, y), (self.width + peep, y), (x, -peep)), key=lambda point: hypot(point[0] - x, point[1] - y)
        )


def _reach(size: float) -> float:
    """Farthest that any shape reaches from its middle (the star's tips)."""
    return 1.45 * size


def _to_segment(x: float, y: float, start: tuple[float, float], end: tuple[float, float]) -> float:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = dx * dx + dy * dy
    share = 0.0 if length == 0 else max(0.0, min(1.0, ((x - start[0]) * dx + (y - start[1]) * dy) / length))
    return hypot(start[0] + share * dx - x, start[1] + share * dy - y)


def _extent(shape: str, angle: float) -> float:
    return float(outline(shape)[round(angle * ANGLES / (2 * pi)) % ANGLES])


def _direction(dx: float, dy: float) -> str:
    if abs(dx) >= abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"
