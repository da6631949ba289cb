"""Names what is stuck, alone or when no window was answered for a while, and says what should be ended to go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.live import Stuck

LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Suspect:
    """Work in progress. `since`: monotonic seconds since it last moved. `limit_s`: after which `end` is called; None:
    it ends by itself or not at all. `slow_s`: after which it is stuck even where others move; None: only where nothing
    does."""

    stage: str
    what: str
    where: str
    since: float
    limit_s: float | None = None
    end: Callable[[], None] | None = None
    slow_s: float | None = None


@dataclass(slots=True)
class Watchdog:
    """`quiet_s`: what has not moved for so long is named, if no window was answered meanwhile, or it is slow by its own
    measure."""

    quiet_s: float
    moved: float = field(default_factory=time.monotonic)
    stuck: tuple[Stuck, ...] = ()
    _windows: int = -1
    _looked: float = 0.0
    _named: set[tuple[str, str]] = field(default_factory=set)

    def look(self, windows: int, suspects: Iterable[Suspect], tell: Callable[[str, Suspect, float], None]) -> None:
        """`windows`: answered so far. `tell(kind, suspect, seconds)` hears "stuck" once for each, and "unstuck"."""
        now = time.monotonic()
        if windows != self._windows:
            if self.stuck and now - self.moved >= self.quiet_s:
                self._looked = 0.0  # what was named because nothing moved is not stuck any more
            self._windows, self.moved = windows, now
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        quiet = now - self.moved >= self.quiet_s
        found = [
            s
            for s in suspects
            if now - s.since >= self.quiet_s and (quiet or (s.slow_s is not None and now - s.since >= s.slow_s))
        ]
        self._named &= {(s.stage, s.what) for s in found}
        wall_us = time.time_ns() // 1000
        self.stuck = tuple(
            Stuck(s.stage, s.what, s.where, wall_us - round((now - s.since) * 1e6))
            for s in sorted(found, key=lambda s: s.since)[:20]
        )
        for suspect in found:
            key = suspect.stage, suspect.what
            if key not in self._named:
                self._named.add(key)
                tell("stuck", suspect, now - suspect.since)
            if suspect.end is not None and suspect.limit_s is not None and now - suspect.since > suspect.limit_s:
                tell("unstuck", suspect, now - suspect.since)
                suspect.end()
