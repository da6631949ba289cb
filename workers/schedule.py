"""What is done next: which segment is decoded, which parcel may leave its decoder, which windows a free replica gets.

A state machine without Ray, clock or I/O: the flow (workers/flow.py) tells it what happened and does what it answers.
Frames in flight are bounded in bytes (workers/budget.py). One parcel is always let through, so that a budget smaller
than a window slows the work down and never stops it.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Collection, Iterator, Sequence

from pipeline.event import WindowEvents
from pipeline.log.records import Status
from pipeline.plan import SECOND_US, Sampling, Window, Windowing, segments
from pipeline.video import Video
from workers.budget import Budget
from workers.decoders import BACK_OFF_S, Decoders
from workers.outage import Outage
from workers.standing import MAX_DEADLY_ROW, MAX_LOST_ROW, MAX_REFUSED, MAX_REFUSED_ROW, Standing
from workers.work import Answer, Batch, Decoded, DecodeOrder, Parcel, Waiting, Watched

MAX_KILLS = 3  # replicas that a window may take with it before it is quarantined
MAX_LOSSES = 5  # times that a window's frames may vanish from the object store (with a node)
NEAR = 4  # a replica looks so many calls ahead for frames on its own node,
NEAR_S = 5.0  # unless the oldest window waits for so long already


class Schedule:
    """See the head of this file. `decoders`: how many decode tasks may be open at once. `archive`: the outage of the
    store of the videos; `room`: likewise of Ray's object store, where frames find no room."""

    def __init__(
        self,
        sampling: Sampling,
        windowing: Windowing,
        *,
        budget_bytes: int,
        decoders: int,
        batch_windows: int = 1,
        segment_us: int = 300 * SECOND_US,
        archive: Outage | None = None,
        room: Outage | None = None,
    ) -> None:
        self._sampling, self._windowing, self._segment_us = sampling, windowing, segment_us
        self._batch_windows = batch_windows
        self.budget = Budget(budget_bytes)
        self._room = room or Outage("full")
        outages = {"storage": archive or Outage("away"), "full": self._room}
        self.decoders = Decoders(windowing, self.budget, decoders, segment_us, self.fail, self._lose, outages)
        self._videos: dict[str, Standing] = {}
        self._ready: list[Waiting] = []  # by video and window
        self._losses: dict[tuple[str, int], int] = {}
        self._finished: deque[Watched] = deque()
        self._fresh: list[Answer] = []
        self._numbers = self._orders = self._suspects = 0
        self.retries = 0  # of watching; the decoders count theirs
        self.taken_windows = 0

    # --- Videos come in and go out.

    def wants_videos(self) -> bool:
        return self.decoders.wants_videos()

    def idle(self) -> bool:
        """Whether every video that came in has gone out."""
        return not self._videos and not self._finished

    @property
    def ready(self) -> int:
        """How many windows wait for a replica."""
        return len(self._ready)

    def add(self, video: Video, kept: Collection[Answer] = ()) -> int:
        """Take up a video; returns how many windows it has. `kept`: answers that are there already."""
        windows = self._windowing.count(video.duration_us)
        self._orders += 1
        lost = {span for answer in kept for span in answer.decoded.lost_us}
        missing = windows - len(kept)
        work = Standing(video, self._orders, windows, missing, missing, self.window_bytes(video), lost_us=lost)
        for answer in kept:
            work.answer(answer)
        self._videos[video.video_id] = work
        if not windows:
            self._end(video.video_id, "failed", "empty: its duration is zero")
        elif not work.missing:
            self._end(video.video_id, "done", "")
        else:
            have = {answer.decoded.window.index for answer in kept}
            rest = segments(video, self._windowing, self._segment_us, have)
            self.decoders.add(video, work.order, work.window_bytes, rest)
        return windows

    def window_bytes(self, video: Video) -> int:
        """Upper bound of the bytes of one window's frames."""
        width, height = self._sampling.size(video.width, video.height)
        samples = math.ceil(self._windowing.length_us * self._sampling.fps / SECOND_US) + 1
        return width * height * 3 * samples

    def name_of(self, window: Window) -> str:
        """A name of the video of a window."""
        work = self._videos.get(window.video_id)
        return work.video.uri if work is not None else window.video_id

    def finished(self) -> Iterator[Watched]:
        """The videos that were finished since the last call."""
        while self._finished:
            yield self._finished.popleft()

    def fresh(self) -> list[Answer]:
        """The answers that came since the last call, of videos that are not done."""
        answers, self._fresh = self._fresh, []
        return answers

    # --- Decoders.

    def next_decode(self, now: float) -> DecodeOrder | None:
        """What to decode next; None while there is nothing, no decoder to spare, or no room for its frames."""
        return self.decoders.next_order(now)

    def taken(self, number: int, parcel: Parcel, frames: object, now: float) -> None:
        """A parcel has left its decoder, after `decoders.taking`. `frames` refers to its list of `Frames`."""
        self.decoders.taken(number, parcel.windows, now)
        self.taken_windows += len(parcel.windows)
        for place, decoded in enumerate(parcel.windows):
            work = self._videos.get(decoded.window.video_id)
            if work is not None and not work.cut:
                work.undecoded -= 1
                work.lost_us.update(decoded.lost_us)
                self._hold(Waiting(decoded, frames, place, work.order, work.window_bytes, parcel.node, now))
        for place, (reason, detail) in sorted(parcel.failed.items()):
            self.decoders.segment_failed(number, place, reason, detail, now)

    # --- Replicas.

    def next_batch(self, part: bool = True, most: int = 0, node: str = "", now: float = 0.0) -> Batch | None:
        """What a free replica watches next, oldest first; None while nothing is ready.

        At most `most` windows, and one batch of the model at least. Windows whose frames lie on `node` are preferred.
        A window that was there when a replica died goes alone, so that the guilty one is found. With `part` false a
        batch that is not full is held back while decoders may still fill it.
        """
        if not self._ready:
            return None
        if self._suspects:
            suspect = next(i for i, w in enumerate(self._ready) if w.alone)
            self._suspects -= 1
            return Batch(self._number(), (self._ready.pop(suspect),))
        if not part and len(self._ready) < self._batch_windows and self.decoders.may_bring_more():
            return None
        most = max(self._batch_windows, most)
        if node and now - self._ready[0].since < NEAR_S:
            near = [i for i, w in enumerate(self._ready[: NEAR * most]) if w.node == node][:most]
            if len(near) >= self._batch_windows:
                members = tuple(self._ready[i] for i in near)
                for i in reversed(near):
                    del self._ready[i]
                return Batch(self._number(), members)
        members = tuple(self._ready[:most])
        del self._ready[:most]
        return Batch(self._number(), members)

    def answered(self, batch: Batch, events: Sequence[WindowEvents], replica: str) -> None:
        """A replica answered; videos without a missing window are finished."""
        self._room.over()
        for waiting, said in zip(batch.members, events, strict=True):
            self.budget.hold(-waiting.window_bytes)
            work = self._videos.get(waiting.window.video_id)
            if work is not None:
                work.refused_row = 0
                self._answer(work, Answer(waiting.decoded, said, waiting.kills + 1, replica))

    def put_back(self, batch: Batch) -> None:
        """Nothing came of this batch, and nobody is to blame: its windows wait as they did."""
        for waiting in batch.members:
            self.budget.hold(-waiting.window_bytes)
            if waiting.window.video_id in self._videos:
                self._hold(waiting)

    def refused(self, batch: Batch, detail: str) -> None:
        """A model said that no retry can mend this batch (ModelError). A window alone is quarantined; where the model
        refuses the first of them all, the video has failed."""
        for waiting in batch.members:
            self.budget.hold(-waiting.window_bytes)
            work = self._videos.get(waiting.window.video_id)
            if work is None:
                continue
            if len(batch.members) > 1:
                waiting.alone = True
                self._hold(waiting)
                continue
            work.refused, work.refused_row = work.refused + 1, work.refused_row + 1
            work.quarantined.append(f"{self._name(waiting.window)}: {detail}")
            enough = work.refused >= MAX_REFUSED or work.missing == 1
            if not work.watched and enough and work.refused == len(work.quarantined):
                self.fail(work.video.video_id, f"model: {work.quarantined[0]}")
            elif work.refused_row >= MAX_REFUSED_ROW and work.missing > 1:
                self._end(work.video.video_id, "quarantined", f"{work.named()}; the rest was not watched")
            else:
                self._one_less(work)

    def replica_died(self, batch: Batch, detail: str, blame: bool = True) -> None:
        """A replica died over this batch: its windows are watched again, alone; at `MAX_KILLS` one is quarantined.

        `blame` false: it went with its node, and the windows had no part in it.
        """
        for waiting in batch.members:
            self.budget.hold(-waiting.window_bytes)
            work = self._videos.get(waiting.window.video_id)
            if work is None:
                continue
            self.retries += 1
            if not blame:
                self._hold(waiting)
                continue
            waiting.kills, waiting.alone = waiting.kills + 1, True
            if waiting.kills < MAX_KILLS:
                self._hold(waiting)
                continue
            work.quarantined.append(f"{self._name(waiting.window)} ended {waiting.kills} replicas: {detail}")
            work.deadly.add(waiting.window.index)
            if work.too_many(work.deadly, waiting.window.index, MAX_DEADLY_ROW) and work.missing > 1:
                self._end(work.video.video_id, "quarantined", f"{work.named()}; the rest was not watched")
            else:
                self._one_less(work)

    def frames_lost(self, batch: Batch, now: float, pause: bool = False) -> None:
        """The frames of this batch vanished before it was watched (with their node): they are decoded again; after a
        `pause`, doubled each time, where there was no room for them."""
        for waiting in batch.members:
            self.budget.hold(-waiting.window_bytes)
            window = waiting.window
            work = self._videos.get(window.video_id)
            if work is None:
                continue
            if work.cut:
                self._one_less(work)
                continue
            key = window.video_id, window.index
            losses, not_before = self._losses.get(key, 0) + 1, now
            if not pause or not self._room.failed(work.video.uri, self._name(window), losses > MAX_LOSSES, now):
                self._losses[key] = losses
                not_before += BACK_OFF_S * 2 ** (losses - 1) if pause else 0.0
            if self._losses.get(key, 0) > MAX_LOSSES:
                why = "found no room" if pause else "vanished"
                self.fail(window.video_id, f"storage: {self._name(window)}: its frames {why} {losses} times")
            else:
                work.undecoded += 1
                self.decoders.again(work.video, work.order, work.window_bytes, window.index, not_before)

    # --- Ends.

    def fail(self, video_id: str, reason: str) -> None:
        """The video cannot be finished: nothing more of it is decoded or watched."""
        if video_id in self._videos:
            self._end(video_id, "failed", reason)

    def _lose(self, video_id: str, index: int, reason: str) -> bool:
        """A window cannot be decoded: the video goes on without its frames, unless too many are like that. Then nothing
        more of it is decoded, and what has been is still watched."""
        work = self._videos.get(video_id)
        if work is None or work.cut:
            return False
        window = self._windowing.window(video_id, index, work.video.duration_us)
        span = window.start_us, window.end_us
        work.lost_us.add(span)
        work.blind.add(index)
        if len(work.blind) == work.windows or work.too_many(work.blind, index, MAX_LOST_ROW):
            work.cut = reason
            work.missing -= work.undecoded
            self.decoders.drop(video_id)
            if not work.missing:
                self._end(video_id, *work.verdict())
            return False
        work.undecoded -= 1
        decoded = Decoded(window, (), (span,), 0.0, 0)
        self._answer(work, Answer(decoded, WindowEvents(window, ()), 1, ""))
        return True

    def _answer(self, work: Standing, answer: Answer) -> None:
        work.answer(answer)
        if answer.replica:  # what is lost is not kept: whoever takes the video up again tries it again
            self._fresh.append(answer)
        self._one_less(work)

    def _one_less(self, work: Standing) -> None:
        work.missing -= 1
        if work.missing == 0:
            self._end(work.video.video_id, *work.verdict())

    def _end(self, video_id: str, status: Status, reason: str) -> None:
        work = self._videos.pop(video_id)
        self.decoders.drop(video_id)
        if status == "done":
            self._fresh = [a for a in self._fresh if a.decoded.window.video_id != video_id]
        if work.missing:  # some of its windows may be waiting
            for waiting in [w for w in self._ready if w.order == work.order]:
                self.budget.hold(-waiting.window_bytes)
                self._suspects -= waiting.alone
            self._ready = [w for w in self._ready if w.order != work.order]
        answers = work.answers if status != "failed" else ()
        self._finished.append(Watched(work.video, status, reason, answers, tuple(sorted(work.lost_us))))

    # --- Small things.

    def _hold(self, waiting: Waiting) -> None:
        self.budget.hold(waiting.window_bytes)
        self._suspects += waiting.alone
        if not self._ready or _place(waiting) > _place(self._ready[-1]):
            self._ready.append(waiting)
        else:
            insort(self._ready, waiting, key=_place)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _name(self, window: Window) -> str:
        from_s, to_s = window.start_us / SECOND_US, window.end_us / SECOND_US
        return f"window {window.index} ({from_s:.3f}-{to_s:.3f} s)"


def _place(waiting: Waiting) -> tuple[int, int]:
    """Where it stands among those that wait: videos in the order of the archive, their windows in time."""
    return waiting.order, waiting.decoded.window.index
