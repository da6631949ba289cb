"""What is done next: which segment is decoded, which window may leave its decoder, which windows a free replica gets.

A state machine without Ray, clock or I/O: the flow (workers/flow.py) tells it what happened and does what it answers.

Frames in flight are bounded in bytes. Two things count against the budget: windows that were taken from a decoder
and are not answered yet, and for every open decoder the windows that it may hold (`DecodeOrder.depth`). Both are
known before anything is decoded, from the sampling and the size of the picture. One window is always let through, so
that a budget smaller than a window slows the work down and never stops it.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import TRANSIENT
from pipeline.event import WindowEvents
from pipeline.log.records import Status
from pipeline.plan import SECOND_US, Sampling, Segment, Window, Windowing, segments
from pipeline.video import Video
from workers.work import Answer, Batch, Decoded, DecodeOrder, Waiting, Watched

DEPTH = 2  # windows that an open decoder may hold: one ready, one in the making
MAX_DEPTH = 32  # of small windows it may hold more, up to a megabyte
MAX_KILLS = 3  # replicas that a window may take with it before it is quarantined
MAX_QUARANTINED = 3  # windows of one video, before the rest of it is given up
MAX_LOSSES = 5  # times that a window's frames may vanish from the object store (with a node)

#: How often a segment is begun without one more window coming of it, by what went wrong; once where not listed.
TRIES: dict[str, int] = {"crash": 3, "memory": 2, "storage": 4, "timeout": 2}
BACK_OFF_S = 1.0  # before the second try; doubled before each further one


@dataclass(slots=True)
class _Decoding:
    order: DecodeOrder
    next: int  # index of the window that it yields next
    tries: int
    reserved: int
    taking: int = 0  # bytes of the window that is being taken from it


@dataclass(slots=True)
class _Pending:
    segment: Segment
    tries: int
    not_before: float


@dataclass(slots=True)
class _Work:
    """A video that is being worked on."""

    video: Video
    order: int
    missing: int  # windows without an answer
    window_bytes: int
    rest: Iterator[Segment]
    answers: list[Answer] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    lost_us: set[tuple[int, int]] = field(default_factory=set)


class Schedule:
    """See the head of this file. `decoders`: how many segments are decoded at once."""

    def __init__(
        self,
        sampling: Sampling,
        windowing: Windowing,
        *,
        budget_bytes: int,
        decoders: int,
        batch_windows: int = 1,
        segment_us: int = 300 * SECOND_US,
    ) -> None:
        self._sampling, self._windowing, self._segment_us = sampling, windowing, segment_us
        self._budget, self._decoders, self._batch_windows = budget_bytes, decoders, batch_windows
        self._videos: dict[str, _Work] = {}
        self._unstarted: deque[str] = deque()  # videos with segments that no decoder has had yet
        self._again: list[_Pending] = []
        self._decoding: dict[int, _Decoding] = {}
        self._ready: list[Waiting] = []  # by video and window
        self._losses: dict[tuple[str, int], int] = {}
        self._finished: deque[Watched] = deque()
        self._cancelled: list[int] = []
        self._numbers = self._orders = 0
        self._held = self._reserved = 0
        self.peak_bytes = 0

    # --- Videos come in and go out.

    def wants_videos(self) -> bool:
        """Whether the videos at hand will soon not keep every decoder busy."""
        return len(self._unstarted) < 2 * self._decoders

    def idle(self) -> bool:
        """Whether every video that came in has gone out."""
        return not self._videos and not self._finished

    @property
    def bytes_in_flight(self) -> int:
        return self._held + self._reserved

    def add(self, video: Video) -> int:
        """Take up a video; returns how many windows it has."""
        windows = self._windowing.count(video.duration_us)
        self._orders += 1
        self._videos[video.video_id] = _Work(
            video=video,
            order=self._orders,
            missing=windows,
            window_bytes=self.window_bytes(video),
            rest=segments(video, self._windowing, self._segment_us),
        )
        if windows:
            self._unstarted.append(video.video_id)
        else:
            self._end(video.video_id, "failed", "empty: its duration is zero")
        return windows

    def window_bytes(self, video: Video) -> int:
        """Upper bound of the bytes of one window's frames."""
        width, height = self._sampling.size(video.width, video.height)
        samples = math.ceil(self._windowing.length_us * self._sampling.fps / SECOND_US) + 1
        return width * height * 3 * samples

    def finished(self) -> Iterator[Watched]:
        """The videos that were finished since the last call."""
        while self._finished:
            yield self._finished.popleft()

    # --- Decoders.

    def next_decode(self, now: float) -> DecodeOrder | None:
        """The next segment to decode; None while there is none, no decoder to spare, or no room for its frames."""
        if sum(d.next <= d.order.segment.last for d in self._decoding.values()) >= self._decoders:
            return None  # one that has yielded its last window is about to end, and needs no decoder any more
        pending = min((p for p in self._again if p.not_before <= now), key=self._age, default=None)
        if pending is None and not self._unstarted:
            return None
        work = self._videos[self._unstarted[0] if pending is None else pending.segment.video.video_id]
        depth = self._depth(work.window_bytes)
        if depth == 0:
            return None
        if pending is None:
            segment, tries = self._next_segment(work), 1
        else:
            self._again.remove(pending)
            segment, tries = pending.segment, pending.tries
        order = DecodeOrder(self._number(), segment, depth)
        self._decoding[order.number] = _Decoding(order, segment.first, tries, depth * work.window_bytes)
        self._reserved += depth * work.window_bytes
        self._note_peak()
        return order

    def may_take(self, number: int) -> bool:
        """Whether there is room to take the next window of this decoder."""
        work = self._videos[self._decoding[number].order.segment.video.video_id]
        return not self._held or self.bytes_in_flight + work.window_bytes <= self._budget

    def taking(self, number: int) -> None:
        """The next window of this decoder is about to leave it: from now on it needs room of its own."""
        decoding = self._decoding[number]
        decoding.taking = self._videos[decoding.order.segment.video.video_id].window_bytes
        self._held += decoding.taking
        self._note_peak()

    def taken(self, number: int, decoded: Decoded, frames: object) -> None:
        """The window has left its decoder, after `taking`."""
        decoding = self._decoding[number]
        work = self._videos[decoding.order.segment.video.video_id]
        self._held -= decoding.taking
        decoding.taking = 0
        decoding.next += 1
        self._hold(Waiting(decoded, frames, work.order, work.window_bytes))
        work.lost_us.update(decoded.lost_us)

    def decode_ended(self, number: int, now: float) -> None:
        """A decoder has no more windows."""
        decoding = self._decoding[number]
        if decoding.next <= decoding.order.segment.last:
            self.decode_failed(number, "crash", f"decoding ended before window {decoding.next}", now)
        else:
            self._close(number)

    def decode_failed(self, number: int, reason: str, detail: str, now: float) -> None:
        """A decoder failed: what it has not yielded is tried again where that can help, or the video has failed."""
        decoding = self._close(number)
        segment = decoding.order.segment
        tries = decoding.tries if decoding.next == segment.first else 1
        if tries >= TRIES.get(reason, 1):
            self.fail(segment.video.video_id, f"{reason}: {detail}")
            return
        rest = Segment(segment.video, decoding.next, segment.last)
        pause_s = BACK_OFF_S * 2 ** (tries - 1) if reason in TRANSIENT else 0.0
        self._again.append(_Pending(rest, tries + 1, now + pause_s))

    def retry_at(self) -> float | None:
        """The earliest time at which something that failed may be tried again."""
        return min((p.not_before for p in self._again), default=None)

    def cancelled(self) -> list[int]:
        """Decoders whose work nobody wants any more, since the last call."""
        numbers, self._cancelled = self._cancelled, []
        return numbers

    # --- Replicas.

    def next_batch(self, part: bool = True) -> Batch | None:
        """What a free replica watches next, oldest first; None while nothing is ready.

        A window that was there when a replica died goes alone, so that the guilty one is found. With `part` false
        a batch that is not full is held back while decoders may still fill it.
        """
        if not self._ready:
            return None
        suspect = next((i for i, w in enumerate(self._ready) if w.alone), None)
        if suspect is not None:
            return Batch(self._number(), (self._ready.pop(suspect),))
        if not part and len(self._ready) < self._batch_windows and any(map(self.may_take, self._decoding)):
            return None
        members = tuple(self._ready[: self._batch_windows])
        del self._ready[: self._batch_windows]
        return Batch(self._number(), members)

    def answered(self, batch: Batch, events: Sequence[WindowEvents], replica: str) -> None:
        """A replica answered; videos without a missing window are finished."""
        for waiting, said in zip(batch.members, events, strict=True):
            self._held -= waiting.window_bytes
            work = self._videos.get(waiting.window.video_id)
            if work is not None:
                work.answers.append(Answer(waiting.decoded, said, waiting.kills + 1, replica))
                self._one_less(work)

    def refused(self, batch: Batch, detail: str) -> None:
        """A model said that no retry can mend this batch (ModelError). Alone, it fails its video."""
        for waiting in batch.members:
            self._held -= waiting.window_bytes
            if len(batch.members) == 1:
                self.fail(waiting.window.video_id, f"model: {self._name(waiting.window)}: {detail}")
            elif waiting.window.video_id in self._videos:
                waiting.alone = True
                self._hold(waiting)

    def replica_died(self, batch: Batch, detail: str) -> None:
        """A replica died over this batch: its windows are watched again, alone; at `MAX_KILLS` one is quarantined."""
        for waiting in batch.members:
            self._held -= waiting.window_bytes
            work = self._videos.get(waiting.window.video_id)
            if work is None:
                continue
            waiting.kills, waiting.alone = waiting.kills + 1, True
            if waiting.kills < MAX_KILLS:
                self._hold(waiting)
                continue
            work.quarantined.append(f"{self._name(waiting.window)} ended {waiting.kills} replicas: {detail}")
            if len(work.quarantined) >= MAX_QUARANTINED and work.missing > 1:
                self._end(
                    work.video.video_id, "quarantined", "; ".join(work.quarantined) + "; the rest was not watched"
                )
            else:
                self._one_less(work)

    def frames_lost(self, batch: Batch, now: float) -> None:
        """The frames of this batch vanished before it was watched (with their node): they are decoded again."""
        for waiting in batch.members:
            self._held -= waiting.window_bytes
            window = waiting.window
            work = self._videos.get(window.video_id)
            if work is None:
                continue
            key = window.video_id, window.index
            losses = self._losses[key] = self._losses.get(key, 0) + 1
            if losses > MAX_LOSSES:
                self.fail(window.video_id, f"storage: {self._name(window)}: its frames vanished {losses} times")
            else:
                self._again.append(_Pending(Segment(work.video, window.index, window.index), 1, now))

    # --- Ends.

    def fail(self, video_id: str, reason: str) -> None:
        """The video cannot be finished: nothing more of it is decoded or watched."""
        if video_id in self._videos:
            self._end(video_id, "failed", reason)

    def _end(self, video_id: str, status: Status, reason: str) -> None:
        work = self._videos.pop(video_id)
        if video_id in self._unstarted:
            self._unstarted.remove(video_id)
        self._again = [p for p in self._again if p.segment.video.video_id != video_id]
        for number in [n for n, d in self._decoding.items() if d.order.segment.video.video_id == video_id]:
            self._close(number)
            self._cancelled.append(number)
        for waiting in [w for w in self._ready if w.window.video_id == video_id]:
            self._held -= waiting.window_bytes
            self._ready.remove(waiting)
        answers = tuple(sorted(work.answers, key=lambda a: a.decoded.window.index)) if status != "failed" else ()
        self._finished.append(Watched(work.video, status, reason, answers, tuple(sorted(work.lost_us))))

    def _one_less(self, work: _Work) -> None:
        work.missing -= 1
        if work.missing == 0:
            status: Status = "quarantined" if work.quarantined else "done"
            self._end(work.video.video_id, status, "; ".join(work.quarantined))

    # --- Small things.

    def _next_segment(self, work: _Work) -> Segment:
        """The next segment of a video that has one; a video whose last segment goes is no longer unstarted."""
        segment = next(work.rest)
        if segment.last + 1 >= self._windowing.count(work.video.duration_us):
            self._unstarted.remove(work.video.video_id)
        return segment

    def _depth(self, window_bytes: int) -> int:
        """How many windows a new decoder may hold; 0: there is no room for it."""
        wanted = max(DEPTH, min(MAX_DEPTH, (1 << 20) // window_bytes))
        # Whichever decoder is served first when nothing is held, the window taken from it must fit as well.
        largest = max([window_bytes, *(d.reserved // d.order.depth for d in self._decoding.values())])
        for depth in (wanted, DEPTH, 1):
            if self.bytes_in_flight + depth * window_bytes + largest <= self._budget:
                return depth
        return 0 if self._decoding or self._held else 1

    def _hold(self, waiting: Waiting) -> None:
        self._held += waiting.window_bytes
        insort(self._ready, waiting, key=lambda w: (w.order, w.window.index))
        self._note_peak()

    def _close(self, number: int) -> _Decoding:
        decoding = self._decoding.pop(number)
        self._reserved -= decoding.reserved
        self._held -= decoding.taking
        return decoding

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.bytes_in_flight)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _age(self, pending: _Pending) -> tuple[int, int]:
        return self._videos[pending.segment.video.video_id].order, pending.segment.first

    def _name(self, window: Window) -> str:
        from_s, to_s = window.start_us / SECOND_US, window.end_us / SECOND_US
        return f"window {window.index} ({from_s:.3f}-{to_s:.3f} s)"
