"""How many decoders should run: enough that no replica waits for frames, and not more than that."""

from __future__ import annotations

import math
from dataclasses import dataclass

HEADROOM = 1.3  # decoders keep a little ahead of the replicas
SMOOTH = 0.5  # weight of the newest second
BACKLOG_S = 2.0  # of work that lies ready, from which on decoders are taken away
STARVED = 0.05  # part of a replica's time without work, from which on more decoders are tried


@dataclass(slots=True)
class Steer:
    """Follows the measured rates of decoding and watching.

    Decoders wanted = replicas x (seconds that one decoder takes for a window / seconds that one replica takes for it),
    with some headroom; while replicas starve all the same (the ratio was misjudged: storage slow, tasks starting), one
    in four more. Up at once, down step by step and only while work piles up. `most`: what the cluster has CPUs for.
    """

    most: int
    at_once: int
    decode_s: float | None = None  # of one window, smoothed
    watch_s: float | None = None

    def look(self, decode_s: float | None, watch_s: float | None, replicas: int, idle: float, ready: int) -> int:
        """Once a second: seconds per window since the last look (None: no window), the part of the replicas' time that
        they waited for frames, and how many windows lie ready. Returns how many decoders may run."""
        self.decode_s = _smooth(self.decode_s, decode_s)
        self.watch_s = _smooth(self.watch_s, watch_s)
        if self.decode_s is None or self.watch_s is None or not replicas:
            self.at_once = self.most  # nothing known yet: as fast as can be
        else:
            needed = math.ceil(HEADROOM * replicas * self.decode_s / max(self.watch_s, 1e-9))
            behind_s = ready * self.watch_s / replicas
            if idle > STARVED and not ready:
                self.at_once = max(needed, self.at_once + max(1, self.at_once // 4))
            elif needed > self.at_once:
                self.at_once = needed
            elif needed < self.at_once and behind_s > BACKLOG_S:
                self.at_once -= max(1, (self.at_once - needed) // 2)
        self.at_once = max(1, min(self.most, self.at_once))
        return self.at_once


def _smooth(before: float | None, now: float | None) -> float | None:
    if now is None:
        return before
    return now if before is None else (1 - SMOOTH) * before + SMOOTH * now
