"""What the replicas' models counted, asked for now and then while they work and taken in when it comes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import ray

from workers.replica import Replica
from workers.report import add_up

ASK_S = 30.0  # between two questions
ADD_S = 5.0  # between two sums: with many replicas and experts one takes a while


class Counted:
    def __init__(self) -> None:
        self._asked: dict[Any, str] = {}
        self._asked_at = time.monotonic()
        self._said: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._of_ended: dict[str, Any] = {}
        self._total: dict[str, Any] = {}
        self._summed_at = 0.0

    def pump(self, replicas: Iterable[Replica]) -> None:
        """Ask those that have answered the last question, when it is time."""
        if time.monotonic() - self._asked_at >= ASK_S:
            self._asked_at = time.monotonic()
            self.ask(replicas)

    def ask(self, replicas: Iterable[Replica]) -> None:
        waited_for = set(self._asked.values())
        for replica in replicas:
            if replica.name not in waited_for:
                self._asked[replica.report()] = replica.name

    def refs(self) -> Iterable[Any]:
        return self._asked.keys()

    def collect(self, ref: Any) -> bool:
        """Take in an answer; False where it is none."""
        if ref not in self._asked:
            return False
        name = self._asked.pop(ref)
        try:
            counted = dict(ray.get(ref))
        except Exception:  # noqa: BLE001 - numbers beside the work: not worth ending a run for
            return True
        if name not in self._ended:
            self._said[name] = counted
        return True

    def ended(self, name: str) -> None:
        """Of a replica that has ended, what it said last counts."""
        self._ended.add(name)
        if (counted := self._said.pop(name, None)) is not None:
            self._of_ended = add_up(self._of_ended, counted)

    def total(self, fresh: bool = False) -> dict[str, Any]:
        """The sum of all that was said, as it was a few seconds ago where it need not be `fresh`."""
        now = time.monotonic()
        if fresh or now - self._summed_at >= ADD_S:
            self._summed_at, self._total = now, self._of_ended
            for counted in self._said.values():
                self._total = add_up(self._total, counted)
        return self._total
