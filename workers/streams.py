"""The driver's end of the decode tasks: windows are taken from them one by one, when the schedule has room."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ray

from workers.failures import understand
from workers.schedule import Schedule
from workers.work import Decoded, DecodeOrder


@dataclass(slots=True)
class _Stream:
    """One decode task. `expects`: its next piece (workers/decode.py). `frames`: taken, their `Decoded` still to come.
    `since`: since when the driver waits for the next piece; None while it does not, or the task has not begun."""

    order: DecodeOrder
    pieces: ray.ObjectRefGenerator
    expects: Literal["started", "frames", "decoded"] = "started"
    frames: Any = None
    since: float | None = None


class Streams:
    """The open decode tasks. `start(order)` starts one; one that gives nothing for `stall_s` is ended."""

    def __init__(
        self, schedule: Schedule, start: Callable[[DecodeOrder], ray.ObjectRefGenerator], stall_s: float
    ) -> None:
        self._schedule, self._start, self._stall_s = schedule, start, stall_s
        self._open: dict[Any, _Stream] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def running(self) -> bool:
        """Whether one has begun to decode, so that more windows are to be expected."""
        return any(s.expects != "started" for s in self._open.values())

    def pump(self) -> None:
        """Start what the schedule wants decoded; end what has stalled, and what nobody wants any more."""
        now = time.monotonic()
        self._end_unwanted()
        for stream in self._open.values():
            if stream.since is not None and now - stream.since > self._stall_s:
                ray.cancel(stream.pieces, force=True)  # its next piece is the error
                stream.since = None
        while (order := self._schedule.next_decode(now)) is not None:
            pieces = self._start(order)
            self._open[pieces] = _Stream(order, pieces)

    def refs(self) -> list[Any]:
        """The tasks whose next piece can be taken in; those for which there is no room are left to wait."""
        now = time.monotonic()
        wanted = []
        for pieces, stream in self._open.items():
            if stream.expects == "frames" and not self._schedule.may_take(stream.order.number):
                stream.since = None
                continue
            if stream.since is None and stream.expects != "started":
                stream.since = now
            wanted.append(pieces)
        return wanted

    def collect(self, pieces: ray.ObjectRefGenerator) -> Decoded | None:
        """Take in the next piece of a task that has one; a window that is complete with it."""
        self._end_unwanted()
        stream = self._open.get(pieces)
        if stream is None:
            return None
        number = stream.order.number
        stream.since = None
        if stream.expects == "frames" and not self._schedule.may_take(number):
            return None  # another task's window took the room in this very round
        try:
            ref = next(pieces)
        except StopIteration:
            del self._open[pieces]
            if stream.frames is None:
                self._schedule.decode_ended(number, time.monotonic())
            else:  # what was taken for frames is an error
                self._failed(stream, stream.frames)
            return None
        if stream.expects == "frames":
            self._schedule.taking(number)
            stream.frames, stream.expects = ref, "decoded"
            return None
        try:
            said = ray.get(ref)
        except Exception:  # noqa: BLE001 - looked at in _failed
            del self._open[pieces]
            self._failed(stream, ref)
            return None
        stream.expects = "frames"
        if not isinstance(said, Decoded):
            return None
        self._schedule.taken(number, said, stream.frames)
        stream.frames = None
        return said

    def stop(self) -> None:
        """End every task at once."""
        for pieces in self._open:
            ray.cancel(pieces, force=True)
        self._open.clear()

    def _failed(self, stream: _Stream, ref: Any) -> None:
        try:
            ray.get(ref)
        except Exception as error:  # noqa: BLE001 - sorted by `understand`
            failure = understand(error)
            if failure.what == "cancelled":
                reason, detail = "timeout", f"decoding made no progress for {self._stall_s:.0f} s"
            else:
                reason, detail = failure.reason, failure.detail
        else:
            reason, detail = "crash", "decoding stopped in the middle of a window"
        self._schedule.decode_failed(stream.order.number, reason, detail, time.monotonic())

    def _end_unwanted(self) -> None:
        """End the tasks of videos that have failed."""
        if unwanted := set(self._schedule.cancelled()):
            for pieces in [p for p, s in self._open.items() if s.order.number in unwanted]:
                ray.cancel(pieces, force=True)
                del self._open[pieces]
