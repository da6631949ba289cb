"""The replicas of a run: started, handed batches, replaced when they die."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.errors import ModelError
from pipeline.event import WindowEvents
from workers.failures import Failure, understand
from workers.replica import Replica
from workers.report import add_up
from workers.work import Batch

MAX_START_FAILURES = 3  # in a row, before any replica came up
MAX_DEATHS = 12  # in a row, without one window answered in between


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: `events`, or the `failure`."""

    batch: Batch
    replica: str
    events: Sequence[WindowEvents] | None
    failure: Failure | None


class Pool:
    """Keeps `count` replicas alive. `start(name)` starts one; `needs` says what one takes, for the error message."""

    def __init__(self, start: Callable[[str], Replica], count: int, startup_s: float, needs: str) -> None:
        self._start, self._count, self._startup_s, self._needs = start, count, startup_s, needs
        self._free: list[Replica] = []
        self._starting: dict[Any, tuple[Replica, float]] = {}
        self._busy: dict[Any, tuple[Replica, Batch]] = {}
        self._numbers = 0
        self._ever_up = False
        self._failures_in_a_row = 0
        self._deaths_in_a_row = 0
        self.deaths = 0

    @property
    def up(self) -> int:
        return len(self._free) + len(self._busy)

    @property
    def free(self) -> bool:
        return bool(self._free)

    def refs(self) -> list[Any]:
        """References that resolve when something happens here."""
        return [*self._starting, *self._busy]

    def pump(self) -> None:
        """Start what is missing. Raises ModelError where no replica can be had."""
        while len(self._starting) + self.up < self._count:
            self._numbers += 1
            replica = self._start(f"replica-{self._numbers}")
            self._starting[replica.ready()] = (replica, time.monotonic())
        if self.up:
            return
        for ref, (replica, since) in list(self._starting.items()):
            if time.monotonic() - since > self._startup_s:
                del self._starting[ref]
                replica.stop()
                raise ModelError(f"no replica came up within {self._startup_s:.0f} s; one needs {self._needs}")

    def watch(self, batch: Batch) -> None:
        """Give a batch to a free replica."""
        replica = self._free.pop()
        self._busy[replica.watch(batch.windows, [m.frames for m in batch.members])] = (replica, batch)

    def collect(self, ref: Any) -> Outcome | None:
        """Take in what happened at `ref`; None when it was not about a batch."""
        if ref in self._starting:
            self._started(ref)
            return None
        replica, batch = self._busy.pop(ref)
        try:
            events = ray.get(ref)
        except Exception as error:  # noqa: BLE001 - sorted by `understand`
            return self._failed(replica, batch, understand(error))
        if not _answers(events, batch):
            return self._failed(replica, batch, Failure("fault", "crash", "it did not answer the windows it was given"))
        self._free.append(replica)
        self._deaths_in_a_row = 0
        return Outcome(batch, replica.name, events, None)

    def report(self, within_s: float = 5.0) -> dict[str, Any]:
        """What the free replicas' models counted, added up. What a replica that died had counted is gone with it."""
        refs = [replica.report() for replica in self._free]
        ready = ray.wait(refs, num_returns=len(refs), timeout=within_s)[0] if refs else []
        total: dict[str, Any] = {}
        for ref in ready:
            with contextlib.suppress(Exception):  # numbers beside the work: not worth ending a run for
                total = add_up(total, ray.get(ref))
        return total

    def stop(self) -> None:
        """End every replica."""
        for replica in [*self._free, *(r for r, _ in self._starting.values()), *(r for r, _ in self._busy.values())]:
            replica.stop()
        self._free, self._starting, self._busy = [], {}, {}

    def _started(self, ref: Any) -> None:
        replica, _ = self._starting.pop(ref)
        try:
            ray.get(ref)
        except Exception as error:
            replica.stop()
            failure = understand(error)
            if failure.what == "model":
                raise ModelError(failure.detail) from None
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= MAX_START_FAILURES and not self.up:
                raise ModelError(f"no replica can be started: {failure.detail}") from error
            return
        self._failures_in_a_row = 0
        self._ever_up = True
        self._free.append(replica)

    def _failed(self, replica: Replica, batch: Batch, failure: Failure) -> Outcome:
        if failure.what in ("model", "lost"):  # the replica is well
            self._free.append(replica)
            return Outcome(batch, replica.name, None, failure)
        replica.stop()
        self.deaths += 1
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= MAX_DEATHS:
            raise ModelError(
                f"{MAX_DEATHS} replicas died in a row without answering a window; the last: {failure.detail}"
            )
        return Outcome(batch, replica.name, None, failure)


def _answers(events: object, batch: Batch) -> bool:
    """Whether this is an answer to each window of the batch, in order."""
    return (
        isinstance(events, list)
        and all(isinstance(e, WindowEvents) for e in events)
        and tuple(e.window for e in events) == batch.windows
    )
