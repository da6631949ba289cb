"""A pool of replicas without Ray: what they do is told by the test, and time is a number."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from workers import counted
from workers import pool as pool_module
from workers.pool import Pool


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


class FakeReplica:
    """`load()` gives the ids of nodes, `answer(windows)` the answers; either may raise."""

    def __init__(self, name: str, load: Callable[[], Any], answer: Callable[[Any], Any]) -> None:
        self.name, self.load, self.answer, self.stopped = name, load, answer, False
        self.is_placed = True
        self.counted: dict[str, Any] = {}

    def ready(self) -> Any:
        return _Ref(self.load)

    def watch(self, windows: Any, parcels: Any, at: Any) -> Any:
        return _Ref(lambda: self.answer(list(windows)))

    def placed(self) -> bool:
        return self.is_placed

    def dead(self) -> bool:
        return False

    def report(self) -> Any:
        return _Ref(lambda: self.counted)

    def stop(self) -> None:
        self.stopped = True


class _Ref:
    def __init__(self, value: Callable[[], Any]) -> None:
        self.value = value


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """References resolve at once."""
    fake = SimpleNamespace(get=lambda ref: ref.value(), wait=lambda refs, **_: (list(refs), []))
    for module in (pool_module, counted):
        monkeypatch.setattr(module, "ray", fake)


def up(pool: Pool, clock: Clock, within_s: float = 300.0) -> None:
    """Pump until every replica is up. Raises TimeoutError."""
    until = clock.now + within_s
    while pool.up < pool.count:
        if clock.now > until:
            raise TimeoutError
        pool.pump()
        for ref in list(pool.refs()):
            pool.collect(ref)
        clock.now += 0.25
