"""Worlds in which decoders and replicas do what a test wants, played without Ray."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

from pipeline.event import WindowEvents
from pipeline.plan import SECOND_US, Sampling, Segment, Windowing
from pipeline.video import Video
from workers.schedule import Schedule
from workers.work import Batch, Decoded, DecodeOrder, Parcel, Watched

SAMPLING = Sampling(fps=Fraction(1), short_side=None)
WINDOWING = Windowing(4 * SECOND_US, SECOND_US)


def a_video(name: str, seconds: float = 30, width: int = 100, height: int = 100) -> Video:
    return Video(name, (name,), 1000, round(seconds * SECOND_US), 0, width, height, 0, "h264", 25.0, 0)


def a_schedule(**options: int) -> Schedule:
    defaults = {"budget_bytes": 10**9, "decoders": 2, "segment_us": 9 * SECOND_US}
    return Schedule(SAMPLING, WINDOWING, **{**defaults, **options})


def segment_of(order: DecodeOrder) -> Segment:
    """The only segment of an order."""
    (segment,) = order.segments
    return segment


def decoded_of(video: Video, index: int) -> Decoded:
    return Decoded(WINDOWING.window(video.video_id, index, video.duration_us), (index,), (), 0.1, 1)


def take(schedule: Schedule, order: DecodeOrder, *indices: int) -> None:
    """Windows of the only segment of an order leave its decoder as one parcel."""
    schedule.decoders.taking(order.number)
    windows = tuple(decoded_of(segment_of(order).video, index) for index in indices)
    schedule.taken(order.number, Parcel(windows), object(), 0.0)


class World:
    """Plays decoders and replicas at random; counts what was watched and what was in flight in truth."""

    def __init__(self, schedule: Schedule, seed: int, bad: dict[tuple[str, int], str]) -> None:
        self.schedule, self.random, self.bad = schedule, random.Random(seed), bad
        self.streams: dict[int, tuple[DecodeOrder, int, int]] = {}  # order, place, window
        self.leaving: set[int] = set()  # streams whose next parcel is on its way to the driver
        self.batches: list[Batch] = []
        self.finished: list[Watched] = []
        self.watched: Counter[tuple[str, int]] = Counter()
        self.kills: Counter[tuple[str, int]] = Counter()
        self.now = 0.0
        self.peak = self.refused = 0

    def play(self, videos: list[Video], replicas: int = 2, most: int = 0) -> None:
        rest = list(reversed(videos))
        for _ in range(20_000):
            self.now += 0.1
            if rest and self.schedule.wants_videos():
                self.schedule.add(rest.pop())
            while (order := self.schedule.next_decode(self.now)) is not None:
                self.streams[order.number] = (order, 0, order.segments[0].first)
            while len(self.batches) < replicas and (batch := self.schedule.next_batch(most=most)) is not None:
                self.batches.append(batch)
            self._note_bytes()
            actions = [self._step_stream] * bool(self.streams) + [self._step_replica] * bool(self.batches)
            if actions:
                self.random.choice(actions)()
            for number in self.schedule.decoders.cancelled():
                self.streams.pop(number, None)
                self.leaving.discard(number)
            self.finished += self.schedule.finished()
            if not rest and self.schedule.idle() and not self.streams and not self.batches:
                return
        raise AssertionError("the schedule is stuck")

    def _step_stream(self) -> None:
        decoders = self.schedule.decoders
        takeable = [n for n in self.streams if n in self.leaving or decoders.may_take(n)]
        if not takeable:
            return
        number = self.random.choice(takeable)
        order, place, index = self.streams[number]
        if number not in self.leaving:
            if place == len(order.segments):
                del self.streams[number]
                decoders.ended(number, self.now)
            else:
                decoders.taking(number)
                self.leaving.add(number)
            return
        self.leaving.discard(number)
        windows: list[Decoded] = []
        failed: dict[int, tuple[str, str]] = {}
        wanted = self.random.randint(1, order.parcel_windows)
        while place < len(order.segments) and len(windows) < wanted and not failed:
            segment = order.segments[place]
            fate = self.bad.get((segment.video.video_id, index), "")
            if fate.startswith("decode") and fate.endswith("crash"):  # takes its process, and what it had ready
                del self.streams[number]
                decoders.failed(number, "crash", "bad bytes", self.now)
                return
            if fate.startswith("decode"):
                failed[place] = fate.split(":")[1], "bad bytes"
            else:
                windows.append(decoded_of(segment.video, index))
            if failed or index == segment.last:
                place += 1
                index = order.segments[place].first if place < len(order.segments) else 0
            else:
                index += 1
        self.streams[number] = (order, place, index)
        self.schedule.taken(number, Parcel(tuple(windows), failed), object(), self.now)

    def _step_replica(self) -> None:
        batch = self.batches.pop(self.random.randrange(len(self.batches)))
        keys = [(w.video_id, w.index) for w in batch.windows]
        bad = {self.bad.get(k, "") for k in keys}
        if "kill" in bad:
            for key in keys:
                if self.bad.get(key) == "kill":
                    self.kills[key] += 1
            self.schedule.replica_died(batch, "segfault")
        elif "refuse" in bad:
            self.refused += 1
            self.schedule.refused(batch, "too long")
        elif "lose" in bad:
            self.schedule.frames_lost(batch, self.now)
        else:
            self.watched.update(keys)
            self.schedule.answered(batch, [WindowEvents(w, ()) for w in batch.windows], "r")

    def _note_bytes(self) -> None:
        """Bytes that could really be there: what is held, and every open decoder as full as it may be."""
        schedule = self.schedule

        def parcel_bytes(order: DecodeOrder) -> int:
            return order.parcel_windows * max(schedule.window_bytes(s.video) for s in order.segments)

        held = sum(w.window_bytes for w in schedule._ready) + sum(
            m.window_bytes for b in self.batches for m in b.members
        )
        held += sum(parcel_bytes(self.streams[n][0]) for n in self.leaving)
        open_ = sum(order.depth * parcel_bytes(order) for order, _, _ in self.streams.values())
        assert held + open_ == schedule.budget.in_flight
        self.peak = max(self.peak, held + open_)
