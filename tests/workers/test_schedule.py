"""The schedule against worlds in which everything may go wrong, played without Ray."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import WindowEvents
from pipeline.plan import SECOND_US, Sampling, Segment, Windowing
from pipeline.video import Video
from workers.decoders import TRIES
from workers.schedule import MAX_KILLS, MAX_LOSSES, Schedule
from workers.standing import MAX_BAD, MAX_DEADLY_ROW, MAX_LOST_ROW, MAX_NAMED, MAX_REFUSED, MAX_REFUSED_ROW, MOST_BAD
from workers.work import Answer, Batch, Decoded, DecodeOrder, Parcel, Watched

SAMPLING = Sampling(fps=Fraction(1), short_side=None)
WINDOWING = Windowing(4 * SECOND_US, SECOND_US)


def _video(name: str, seconds: float = 30, width: int = 100, height: int = 100) -> Video:
    return Video(name, (name,), 1000, round(seconds * SECOND_US), 0, width, height, 0, "h264", 25.0, 0)


def _schedule(**options: int) -> Schedule:
    defaults = {"budget_bytes": 10**9, "decoders": 2, "segment_us": 9 * SECOND_US}
    return Schedule(SAMPLING, WINDOWING, **{**defaults, **options})


def _segment(order: DecodeOrder) -> Segment:
    """The only segment of an order."""
    (segment,) = order.segments
    return segment


def _decoded(video: Video, index: int) -> Decoded:
    return Decoded(WINDOWING.window(video.video_id, index, video.duration_us), (index,), (), 0.1, 1)


def _take(schedule: Schedule, order: DecodeOrder, *indices: int) -> None:
    """Windows of the only segment of an order leave its decoder as one parcel."""
    schedule.decoders.taking(order.number)
    windows = tuple(_decoded(_segment(order).video, index) for index in indices)
    schedule.taken(order.number, Parcel(windows), object(), 0.0)


class _World:
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
                windows.append(_decoded(segment.video, index))
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


FATE = st.sampled_from(["decode:corrupt", "decode:crash", "decode:storage", "kill", "refuse", "lose"])


@given(
    st.lists(st.tuples(st.floats(0.5, 40), st.integers(2, 300)), min_size=1, max_size=6),
    st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 12)), FATE, max_size=4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([1, 200_000, 2_000_000, 10**9]),
    st.sampled_from([0, 7]),
    st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_every_video_ends_once_and_as_it_must(sizes, fates, decoders, batch_windows, budget, most, seed) -> None:  # type: ignore[no-untyped-def]
    videos = [_video(f"v{i}", seconds, side, side) for i, (seconds, side) in enumerate(sizes)]
    bad = {(f"v{i}", index): fate for (i, index), fate in fates.items()}
    schedule = _schedule(budget_bytes=budget, decoders=decoders, batch_windows=batch_windows)
    world = _World(schedule, seed, bad)
    world.play(videos, most=most)
    assert sorted(w.video.video_id for w in world.finished) == [v.video_id for v in videos]
    largest = max(schedule.window_bytes(v) for v in videos)
    assert max(world.peak, schedule.budget.peak) <= max(budget, 2 * largest)
    assert schedule.budget.in_flight == 0
    for watched in world.finished:
        video = watched.video
        count = WINDOWING.count(video.duration_us)
        of_it = {index: fate for (name, index), fate in bad.items() if name == video.video_id and index < count}
        indices = [a.decoded.window.index for a in watched.answers]
        if not of_it:
            assert watched.status == "done" and watched.reason == ""
            assert indices == list(range(count))
        elif set(of_it.values()) == {"refuse"} and (len(of_it) == count or indices == []):
            assert watched.status == "failed" and watched.reason.startswith("model: window ")
            assert len(of_it) >= min(MAX_REFUSED, count)
        elif set(of_it.values()) == {"refuse"} or (set(of_it.values()) == {"kill"} and len(of_it) < MAX_DEADLY_ROW):
            assert watched.status == "quarantined"
            assert indices == [i for i in range(count) if i not in of_it]
            assert all(f"window {i} " in watched.reason for i in of_it)
        elif set(of_it.values()) == {"decode:crash"} and len(of_it) <= min(MAX_BAD, count - 1):
            assert watched.status == "done" and indices == list(range(count))
            lost = {(a.decoded.window.start_us, a.decoded.window.end_us) for a in watched.answers if not a.replica}
            assert len(lost) == len(of_it) and lost == set(watched.lost_us)
        elif not set(of_it.values()) & {"kill", "decode:crash", "refuse"}:
            assert watched.status == "failed"
        elif set(of_it.values()) - {"kill", "decode:crash", "refuse"}:
            assert watched.status in ("failed", "quarantined")
        if watched.status == "failed":
            assert not watched.answers and watched.reason
    assert all(kills <= MAX_KILLS for kills in world.kills.values())


def test_windows_are_answered_once_where_replicas_die_over_others() -> None:
    """The windows that shared a batch with the deadly one are watched again, each answered exactly once."""
    world = _World(_schedule(batch_windows=4), 1, {("v0", 2): "kill"})
    world.play([_video("v0"), _video("v1")], replicas=1)
    count = WINDOWING.count(30 * SECOND_US)
    expected = {(f"v{v}", i): 1 for v in (0, 1) for i in range(count)}
    del expected["v0", 2]
    assert world.watched == expected
    assert world.kills == {("v0", 2): MAX_KILLS}


@pytest.mark.parametrize("reason", sorted(TRIES))
def test_a_segment_is_tried_as_often_as_its_failure_is_worth_and_waits_where_that_can_help(reason: str) -> None:
    schedule = _schedule(decoders=1, segment_us=100 * SECOND_US)
    schedule.add(_video("v", 2))  # one window
    now, begun = 0.0, []
    while not list(schedule.finished()):
        order = schedule.next_decode(now)
        if order is None:
            at = schedule.decoders.retry_at()
            assert at is not None and at > now
            now = at
            continue
        begun.append(now)
        schedule.decoders.failed(order.number, reason, "x", now)
    assert len(begun) == TRIES[reason]
    pauses = [b - a for a, b in pairwise(begun)]
    assert pauses == [(0.0 if reason == "crash" else 2.0**i) for i in range(len(pauses))]


def _play(bad: dict[int, str], windows: int, answering: bool = True) -> tuple[Watched, Counter[int]]:
    """One long video, one segment, one decoder; `bad`: window -> how decoding ends there. What became of the video, and
    how often each window ended its decoder."""
    schedule = _schedule(decoders=1, segment_us=10**6 * SECOND_US)
    schedule.add(_video("v", 3 * windows))
    ends, now = Counter[int](), 0.0
    held: list[Batch] = []
    while not (finished := list(schedule.finished())):
        order = schedule.next_decode(now)
        if order is None and (at := schedule.decoders.retry_at()) is not None:
            now = at
            continue
        if order is None:
            batch = held.pop()
            schedule.answered(batch, [WindowEvents(w, ()) for w in batch.windows], "r")
            continue
        for index in range(_segment(order).first, _segment(order).last + 1):
            if index in bad:
                ends[index] += 1
                schedule.decoders.failed(order.number, bad[index], "x", now)
                break
            _take(schedule, order, index)
        else:
            schedule.decoders.ended(order.number, now)
        assert all(answer.replica for answer in schedule.fresh())
        while (batch := schedule.next_batch()) is not None:
            if answering:
                schedule.answered(batch, [WindowEvents(w, ()) for w in batch.windows], "r")
            else:
                held.append(batch)
    assert schedule.budget.in_flight == 0
    return finished[0], ends


@pytest.mark.parametrize("reason", ["crash", "timeout", "memory"])
def test_a_few_bad_spots_cost_a_long_video_their_windows_and_no_more(reason: str) -> None:
    spots = {*range(50, 53), *range(100, 2000, 150)}  # three in a row, and here and there
    watched, ends = _play(dict.fromkeys(spots, reason), 2000)
    assert watched.status == "done" and watched.reason == "" and len(watched.answers) == 2000
    assert {a.decoded.window.index for a in watched.answers if not a.replica} == spots
    assert len(watched.lost_us) == len(spots)
    assert ends[100] == TRIES[reason] and ends[51] == ends[52] == (TRIES["crash"] if reason == "crash" else 1)


@pytest.mark.parametrize("answering", [True, False])
def test_too_many_bad_spots_end_a_video_with_the_answers_that_there_are(answering: bool) -> None:
    watched, ends = _play(dict.fromkeys(range(700, 2000), "timeout"), 2000, answering)
    assert watched.status == "quarantined" and len(watched.answers) == 700 + MAX_LOST_ROW - 1
    assert watched.reason == f"timeout: x ({MAX_LOST_ROW} windows); the rest was not watched"
    assert ends.total() == TRIES["timeout"] + MAX_LOST_ROW - 1, "each costs its time limit"
    watched, ends = _play(dict.fromkeys(range(0, 2000, 3), "timeout"), 2000, answering)
    assert watched.status == "quarantined" and len(ends) == 2000 // 100 + 1
    _, ends = _play(dict.fromkeys(range(0, 5000, 3), "crash"), 5000, answering)
    assert len(ends) == MOST_BAD + 1
    watched, _ = _play(dict.fromkeys(range(2000), "timeout"), 2000, answering)
    assert (watched.status, watched.reason, watched.answers) == ("failed", "timeout: x", ())


def test_windows_that_end_replicas_here_and_there_are_quarantined_alone() -> None:
    here_and_there = range(0, 600, 100)
    world = _World(_schedule(), 4, {("v", index): "kill" for index in here_and_there})
    world.play([_video("v", 3 * 600)])
    (watched,) = world.finished
    assert watched.status == "quarantined" and len(watched.answers) == 600 - len(here_and_there)
    world = _World(_schedule(), 4, {("v", index): "kill" for index in range(100, 600)})
    world.play([_video("v", 3 * 600)], replicas=1)
    assert len(world.kills) == MAX_DEADLY_ROW and world.finished[0].reason.endswith("the rest was not watched")


def test_a_window_that_ends_three_decoders_is_a_lost_span_and_the_video_goes_on() -> None:
    schedule = _schedule(decoders=1, segment_us=100 * SECOND_US)
    schedule.add(_video("v"))
    count, crashes = WINDOWING.count(30 * SECOND_US), 0
    while not (finished := list(schedule.finished())):
        order = schedule.next_decode(0.0)
        assert order is not None
        for index in range(_segment(order).first, _segment(order).last + 1):
            if index == 3:
                crashes += 1
                schedule.decoders.failed(order.number, "crash", "segfault", 0.0)
                break
            _take(schedule, order, index)
        else:
            schedule.decoders.ended(order.number, 0.0)
        while (batch := schedule.next_batch()) is not None:
            schedule.answered(batch, [WindowEvents(w, ()) for w in batch.windows], "r")
    assert crashes == TRIES["crash"]
    (watched,) = finished
    assert watched.status == "done" and len(watched.answers) == count
    lost = WINDOWING.window("v", 3, 30 * SECOND_US)
    assert watched.lost_us == ((lost.start_us, lost.end_us),)


def test_a_video_of_which_nothing_can_be_decoded_has_failed() -> None:
    schedule = _schedule(segment_us=100 * SECOND_US)
    schedule.add(_video("v"))
    while not (finished := list(schedule.finished())):
        order = schedule.next_decode(0.0)
        assert order is not None
        schedule.decoders.ended(order.number, 0.0)  # a decoder that ends early is a crash
    (watched,) = finished
    assert watched.status == "failed" and watched.reason.startswith(
        f"crash: decoding ended before window {MAX_LOST_ROW - 1}"
    )


def test_what_an_earlier_driver_finished_is_not_decoded_again() -> None:
    schedule = _schedule(decoders=4, segment_us=100 * SECOND_US)
    video = _video("v")
    kept = [Answer(_decoded(video, i), WindowEvents(_decoded(video, i).window, ()), 1, "old") for i in (0, 1, 5)]
    count = schedule.add(video, kept)
    orders = []
    while (order := schedule.next_decode(0.0)) is not None:
        orders.append(order)
    assert [(_segment(o).first, _segment(o).last) for o in orders] == [(2, 4), (6, count - 1)]
    for order in orders:
        _take(schedule, order, *range(_segment(order).first, _segment(order).last + 1))
    batch = schedule.next_batch(most=100)
    assert batch is not None
    schedule.answered(batch, [WindowEvents(w, ()) for w in batch.windows], "new")
    (watched,) = schedule.finished()
    assert [a.replica for a in watched.answers] == ["old", "old", "new", "new", "new", "old", *["new"] * (count - 6)]


def test_short_videos_share_a_decoder_and_one_that_kills_it_is_found() -> None:
    schedule = _schedule(decoders=1, segment_us=100 * SECOND_US)
    for number in range(4):
        schedule.add(_video(f"v{number}", 5))
    order = schedule.next_decode(0.0)
    assert order is not None and [s.video.video_id for s in order.segments] == ["v0", "v1", "v2", "v3"]
    schedule.decoders.failed(order.number, "crash", "segfault", 0.0)
    alone = []
    for _ in range(4):
        order = schedule.next_decode(0.0)
        assert order is not None
        alone.append(_segment(order).video.video_id)
        if alone[-1] == "v2":
            schedule.decoders.failed(order.number, "crash", "segfault", 0.0)
        else:
            _take(schedule, order, *range(_segment(order).first, _segment(order).last + 1))
            schedule.decoders.ended(order.number, 0.0)
    assert alone[:3] == ["v0", "v1", "v2"]


def test_a_decoder_that_goes_with_its_node_is_nobodys_fault() -> None:
    schedule = _schedule(decoders=1, segment_us=100 * SECOND_US)
    schedule.add(_video("v"))
    for _ in range(TRIES["crash"] + 2):
        order = schedule.next_decode(0.0)
        assert order is not None
        schedule.decoders.moved(order.number, 0.0)
    assert schedule.next_decode(0.0) is not None and not list(schedule.finished())


def test_segments_of_one_video_decode_side_by_side() -> None:
    schedule = _schedule(decoders=3)
    schedule.add(_video("v"))
    orders = [schedule.next_decode(0.0) for _ in range(4)]
    assert orders[3] is None
    spans = [(_segment(o).first, _segment(o).last) for o in orders[:3] if o]
    assert spans == [(0, 2), (3, 5), (6, 8)]


def test_a_failed_video_lets_go_of_everything() -> None:
    schedule = _schedule(decoders=2)
    schedule.add(_video("v"))
    first, second = schedule.next_decode(0.0), schedule.next_decode(0.0)
    assert first and second
    _take(schedule, first, 0, 1)
    batch = schedule.next_batch()
    assert batch is not None
    schedule.decoders.failed(second.number, "corrupt", "no frame at all", 0.0)
    assert schedule.decoders.cancelled() == [first.number]
    schedule.answered(batch, [WindowEvents(batch.windows[0], ())], "r")  # came too late
    assert schedule.budget.in_flight == 0 and schedule.next_batch() is None
    (watched,) = schedule.finished()
    assert watched.status == "failed" and watched.answers == ()


def test_a_batch_that_decoders_may_still_fill_is_held_back() -> None:
    schedule = _schedule(decoders=1, batch_windows=3, segment_us=100 * SECOND_US)
    schedule.add(_video("v"))
    order = schedule.next_decode(0.0)
    assert order is not None
    _take(schedule, order, 0, 1)
    assert schedule.next_batch(part=False) is None
    _take(schedule, order, 2)
    batch = schedule.next_batch(part=False)
    assert batch is not None and len(batch.windows) == 3


def _refusing(*refused: int, seconds: float = 1000) -> tuple[Watched, _World]:
    world = _World(_schedule(), 5, {("v", index): "refuse" for index in refused})
    world.play([_video("v", seconds)])
    (watched,) = world.finished
    return watched, world


def test_a_refused_window_is_quarantined_and_the_rest_of_a_long_video_is_kept() -> None:
    count = WINDOWING.count(1000 * SECOND_US)
    watched, _ = _refusing(100)
    assert watched.status == "quarantined" and watched.reason == "window 100 (300.000-304.000 s): too long"
    assert [a.decoded.window.index for a in watched.answers] == [i for i in range(count) if i != 100]
    many = range(10, 10 + 5 * 10, 10)
    watched, _ = _refusing(*many, 200)
    assert watched.reason.count("too long") == MAX_NAMED and watched.reason.endswith("; and 1 windows more")
    assert len(watched.answers) == count - 6


def test_a_video_whose_every_window_is_refused_has_failed_after_a_few() -> None:
    watched, world = _refusing(*range(WINDOWING.count(1000 * SECOND_US)))
    assert watched.status == "failed" and watched.reason.startswith("model: window ")
    assert watched.reason.endswith(": too long") and not watched.answers
    assert MAX_REFUSED <= world.refused <= MAX_REFUSED + 1  # another replica may have one meanwhile
    short, _ = _refusing(0, seconds=3)
    assert short.status == "failed" and short.reason == "model: window 0 (0.000-3.000 s): too long"


def test_the_rest_of_a_video_is_given_up_when_the_model_goes_on_refusing_it() -> None:
    watched, world = _refusing(*range(20, WINDOWING.count(1000 * SECOND_US)))
    assert watched.status == "quarantined" and watched.reason.endswith("; the rest was not watched")
    assert len(watched.answers) == 20 and MAX_REFUSED_ROW <= world.refused <= 2 * MAX_REFUSED_ROW


def test_frames_that_vanish_again_and_again_fail_their_video() -> None:
    world = _World(_schedule(), 3, {("v", 1): "lose"})
    world.play([_video("v")])
    assert world.finished[0].status == "failed"
    assert f"vanished {MAX_LOSSES + 1} times" in world.finished[0].reason


def test_frames_that_found_no_room_are_decoded_again_after_longer_and_longer_pauses() -> None:
    schedule = _schedule(decoders=1)
    schedule.add(_video("v", 4))  # one window
    now, pauses = 100.0, []
    while not (finished := list(schedule.finished())):
        order = schedule.next_decode(now)
        if order is None:
            at = schedule.decoders.retry_at()
            assert at is not None
            pauses.append(at - now)
            now = at
            continue
        _take(schedule, order, 0)
        schedule.decoders.ended(order.number, now)
        batch = schedule.next_batch()
        assert batch is not None and batch.members[0].kills == 0
        schedule.frames_lost(batch, now, pause=True)
    assert pauses == [1, 2, 4, 8, 16]
    assert finished[0].reason.startswith("storage: window 0") and "found no room" in finished[0].reason


def test_a_video_without_duration_is_a_failed_row() -> None:
    schedule = _schedule()
    assert schedule.add(_video("v", 0)) == 0
    (watched,) = schedule.finished()
    assert watched.status == "failed" and watched.reason.startswith("empty")


def test_a_replica_is_given_frames_of_its_own_node_unless_others_wait_too_long() -> None:
    schedule = _schedule(decoders=1, segment_us=100 * SECOND_US)
    schedule.add(_video("v"))
    order = schedule.next_decode(0.0)
    assert order is not None
    for index in range(4):
        schedule.decoders.taking(order.number)
        parcel = Parcel((_decoded(_segment(order).video, index),), node="ab"[index % 2])
        schedule.taken(order.number, parcel, object(), 0.0)
    near = schedule.next_batch(node="b", now=1.0)
    late = schedule.next_batch(node="b", now=100.0)
    assert near is not None and late is not None
    assert (near.windows[0].index, late.windows[0].index) == (1, 0)
