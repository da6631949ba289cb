"""The schedule against worlds in which everything may go wrong, played without Ray."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import WindowEvents
from pipeline.plan import SECOND_US
from tests.workers.worlds import WINDOWING, World, a_schedule, a_video, decoded_of, segment_of, take
from workers.decoders import TRIES
from workers.schedule import MAX_KILLS, MAX_LOSSES
from workers.standing import MAX_BAD, MAX_DEADLY_ROW, MAX_REFUSED
from workers.work import Answer, Parcel

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
    videos = [a_video(f"v{i}", seconds, side, side) for i, (seconds, side) in enumerate(sizes)]
    bad = {(f"v{i}", index): fate for (i, index), fate in fates.items()}
    schedule = a_schedule(budget_bytes=budget, decoders=decoders, batch_windows=batch_windows)
    world = World(schedule, seed, bad)
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
    world = World(a_schedule(batch_windows=4), 1, {("v0", 2): "kill"})
    world.play([a_video("v0"), a_video("v1")], replicas=1)
    count = WINDOWING.count(30 * SECOND_US)
    expected = {(f"v{v}", i): 1 for v in (0, 1) for i in range(count)}
    del expected["v0", 2]
    assert world.watched == expected
    assert world.kills == {("v0", 2): MAX_KILLS}


@pytest.mark.parametrize("reason", sorted(TRIES))
def test_a_segment_is_tried_as_often_as_its_failure_is_worth_and_waits_where_that_can_help(reason: str) -> None:
    schedule = a_schedule(decoders=1, segment_us=100 * SECOND_US)
    schedule.add(a_video("v", 2))  # one window
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


def test_what_an_earlier_driver_finished_is_not_decoded_again() -> None:
    schedule = a_schedule(decoders=4, segment_us=100 * SECOND_US)
    video = a_video("v")
    kept = [Answer(decoded_of(video, i), WindowEvents(decoded_of(video, i).window, ()), 1, "old") for i in (0, 1, 5)]
    count = schedule.add(video, kept)
    orders = []
    while (order := schedule.next_decode(0.0)) is not None:
        orders.append(order)
    assert [(segment_of(o).first, segment_of(o).last) for o in orders] == [(2, 4), (6, count - 1)]
    for order in orders:
        take(schedule, order, *range(segment_of(order).first, segment_of(order).last + 1))
    batch = schedule.next_batch(most=100)
    assert batch is not None
    schedule.answered(batch, [WindowEvents(w, ()) for w in batch.windows], "new")
    (watched,) = schedule.finished()
    assert [a.replica for a in watched.answers] == ["old", "old", "new", "new", "new", "old", *["new"] * (count - 6)]


def test_short_videos_share_a_decoder_and_one_that_kills_it_is_found() -> None:
    schedule = a_schedule(decoders=1, segment_us=100 * SECOND_US)
    for number in range(4):
        schedule.add(a_video(f"v{number}", 5))
    order = schedule.next_decode(0.0)
    assert order is not None and [s.video.video_id for s in order.segments] == ["v0", "v1", "v2", "v3"]
    schedule.decoders.failed(order.number, "crash", "segfault", 0.0)
    alone = []
    for _ in range(4):
        order = schedule.next_decode(0.0)
        assert order is not None
        alone.append(segment_of(order).video.video_id)
        if alone[-1] == "v2":
            schedule.decoders.failed(order.number, "crash", "segfault", 0.0)
        else:
            take(schedule, order, *range(segment_of(order).first, segment_of(order).last + 1))
            schedule.decoders.ended(order.number, 0.0)
    assert alone[:3] == ["v0", "v1", "v2"]


def test_a_decoder_that_goes_with_its_node_is_nobodys_fault() -> None:
    schedule = a_schedule(decoders=1, segment_us=100 * SECOND_US)
    schedule.add(a_video("v"))
    for _ in range(TRIES["crash"] + 2):
        order = schedule.next_decode(0.0)
        assert order is not None
        schedule.decoders.moved(order.number, 0.0)
    assert schedule.next_decode(0.0) is not None and not list(schedule.finished())


def test_segments_of_one_video_decode_side_by_side() -> None:
    schedule = a_schedule(decoders=3)
    schedule.add(a_video("v"))
    orders = [schedule.next_decode(0.0) for _ in range(4)]
    assert orders[3] is None
    spans = [(segment_of(o).first, segment_of(o).last) for o in orders[:3] if o]
    assert spans == [(0, 2), (3, 5), (6, 8)]


def test_a_failed_video_lets_go_of_everything() -> None:
    schedule = a_schedule(decoders=2)
    schedule.add(a_video("v"))
    first, second = schedule.next_decode(0.0), schedule.next_decode(0.0)
    assert first and second
    take(schedule, first, 0, 1)
    batch = schedule.next_batch()
    assert batch is not None
    schedule.decoders.failed(second.number, "corrupt", "no frame at all", 0.0)
    assert schedule.decoders.cancelled() == [first.number]
    schedule.answered(batch, [WindowEvents(batch.windows[0], ())], "r")  # came too late
    assert schedule.budget.in_flight == 0 and schedule.next_batch() is None
    (watched,) = schedule.finished()
    assert watched.status == "failed" and watched.answers == ()


def test_a_batch_that_decoders_may_still_fill_is_held_back() -> None:
    schedule = a_schedule(decoders=1, batch_windows=3, segment_us=100 * SECOND_US)
    schedule.add(a_video("v"))
    order = schedule.next_decode(0.0)
    assert order is not None
    take(schedule, order, 0, 1)
    assert schedule.next_batch(part=False) is None
    take(schedule, order, 2)
    batch = schedule.next_batch(part=False)
    assert batch is not None and len(batch.windows) == 3


def test_frames_that_vanish_again_and_again_fail_their_video() -> None:
    world = World(a_schedule(), 3, {("v", 1): "lose"})
    world.play([a_video("v")])
    assert world.finished[0].status == "failed"
    assert f"vanished {MAX_LOSSES + 1} times" in world.finished[0].reason


def test_frames_that_found_no_room_are_decoded_again_after_longer_and_longer_pauses() -> None:
    schedule = a_schedule(decoders=1)
    schedule.add(a_video("v", 4))  # one window
    now, pauses = 100.0, []
    while not (finished := list(schedule.finished())):
        order = schedule.next_decode(now)
        if order is None:
            at = schedule.decoders.retry_at()
            assert at is not None
            pauses.append(at - now)
            now = at
            continue
        take(schedule, order, 0)
        schedule.decoders.ended(order.number, now)
        batch = schedule.next_batch()
        assert batch is not None and batch.members[0].kills == 0
        schedule.frames_lost(batch, now, pause=True)
    assert pauses == [1, 2, 4, 8, 16]
    assert finished[0].reason.startswith("storage: window 0") and "found no room" in finished[0].reason


def test_a_video_without_duration_is_a_failed_row() -> None:
    schedule = a_schedule()
    assert schedule.add(a_video("v", 0)) == 0
    (watched,) = schedule.finished()
    assert watched.status == "failed" and watched.reason.startswith("empty")


def test_a_replica_is_given_frames_of_its_own_node_unless_others_wait_too_long() -> None:
    schedule = a_schedule(decoders=1, segment_us=100 * SECOND_US)
    schedule.add(a_video("v"))
    order = schedule.next_decode(0.0)
    assert order is not None
    for index in range(4):
        schedule.decoders.taking(order.number)
        parcel = Parcel((decoded_of(segment_of(order).video, index),), node="ab"[index % 2])
        schedule.taken(order.number, parcel, object(), 0.0)
    near = schedule.next_batch(node="b", now=1.0)
    late = schedule.next_batch(node="b", now=100.0)
    assert near is not None and late is not None
    assert (near.windows[0].index, late.windows[0].index) == (1, 0)
