"""The driver's end of the decode tasks: parcels are taken from them one by one, when the schedule has room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray

from workers.failures import understand
from workers.schedule import Schedule
from workers.work import DecodeOrder, Parcel


@dataclass(slots=True)
class Stream:
    """One decode task. `expects`: its next piece (workers/decode.py). `frames`: taken, their `Parcel` still to come.
    `since`: since when the driver waits for the next piece; None while it does not. `opened`: when it was started."""

    order: DecodeOrder
    pieces: ray.ObjectRefGenerator
    opened: float
    expects: Literal["started", "frames", "parcel"] = "started"
    frames: Any = None
    since: float | None = None
    node: str = ""
    hung: bool = False  # ended by us, because nothing came


class Streams:
    """The open decode tasks. `start(order)` starts one; one that gives nothing for `stall_s` is ended, of which
    `tell(stream)` hears."""

    def __init__(
        self,
        schedule: Schedule,
        start: Callable[[DecodeOrder], ray.ObjectRefGenerator],
        stall_s: float,
        tell: Callable[[Stream], None] = lambda stream: None,
    ) -> None:
        self._schedule, self._decoders = schedule, schedule.decoders
        self._start, self._stall_s, self._tell = start, stall_s, tell
        self._open: dict[Any, Stream] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._open.values())

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
                self.end(stream)
        while (order := self._schedule.next_decode(now)) is not None:
            pieces = self._start(order)
            self._open[pieces] = Stream(order, pieces, now)

    def end(self, stream: Stream) -> None:
        """End a task that hangs: its next piece is the error, and what it had to do is tried again."""
        stream.since, stream.hung = None, True
        self._tell(stream)
        ray.cancel(stream.pieces, force=True)

    def refs(self) -> list[Any]:
        """The tasks whose next piece can be taken in; those for which there is no room are left to wait."""
        now = time.monotonic()
        wanted = []
        for pieces, stream in self._open.items():
            if stream.expects == "frames" and not self._decoders.may_take(stream.order.number):
                stream.since = None
                continue
            if stream.since is None and stream.expects != "started" and not stream.hung:
                stream.since = now
            wanted.append(pieces)
        return wanted

    def collect(self, pieces: ray.ObjectRefGenerator) -> Parcel | None:
        """Take in the next piece of a task that has one; a parcel that is complete with it."""
        self._end_unwanted()
        stream = self._open.get(pieces)
        if stream is None:
            return None
        number = stream.order.number
        stream.since = None
        if stream.expects == "frames" and not self._decoders.may_take(number):
            return None  # another task's parcel took the room in this very round
        now = time.monotonic()
        try:
            ref = next(pieces)
        except StopIteration:
            del self._open[pieces]
            if stream.frames is None:
                self._decoders.ended(number, now)
            else:  # what was taken for frames is an error
                self._failed(stream, stream.frames)
            return None
        if stream.expects == "frames":
            self._decoders.taking(number)
            stream.frames, stream.expects = ref, "parcel"
            return None
        try:
            said = ray.get(ref)
        except Exception:  # noqa: BLE001 - looked at in _failed
            del self._open[pieces]
            self._failed(stream, ref)
            return None
        stream.expects = "frames"
        if not isinstance(said, Parcel):
            stream.node = str(said)
            return None
        self._schedule.taken(number, said, stream.frames, now)
        stream.frames = None
        return said

    def stop(self) -> None:
        """End every task at once."""
        for pieces in self._open:
            ray.cancel(pieces, force=True)
        self._open.clear()

    def _failed(self, stream: Stream, ref: Any) -> None:
        number, now = stream.order.number, time.monotonic()
        try:
            ray.get(ref)
        except Exception as error:  # noqa: BLE001 - sorted by `understand`
            failure = understand(error)
        else:
            self._decoders.failed(number, "crash", "decoding stopped in the middle of a window", now)
            return
        if stream.expects == "started" and (stream.hung or failure.what in ("node", "lost")):
            self._decoders.moved(number, now, began=False)
        elif stream.hung:
            self._decoders.failed(number, "timeout", f"decoding made no progress for {self._stall_s:.0f} s", now)
        elif failure.what in ("node", "lost"):
            self._decoders.moved(number, now)
        else:
            reason = "full" if failure.what == "full" else failure.reason
            self._decoders.failed(number, reason, failure.detail, now)

    def _end_unwanted(self) -> None:
        """End the tasks of videos that have failed."""
        if unwanted := set(self._decoders.cancelled()):
            for pieces in [p for p, s in self._open.items() if s.order.number in unwanted]:
                ray.cancel(pieces, force=True)
                del self._open[pieces]
