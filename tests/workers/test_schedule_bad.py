"""The schedule where windows or whole videos are bad: what is given up, and what is kept."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.event import WindowEvents
from pipeline.plan import SECOND_US
from tests.workers.worlds import WINDOWING, World, a_schedule, a_video, segment_of, take
from workers.decoders import TRIES
from workers.standing import MAX_DEADLY_ROW, MAX_LOST_ROW, MAX_NAMED, MAX_REFUSED, MAX_REFUSED_ROW, MOST_BAD
from workers.work import Batch, Watched


def _play(bad: dict[int, str], windows: int, answering: bool = True) -> tuple[Watched, Counter[int]]:
    """One long video, one segment, one decoder; `bad`: window -> how decoding ends there. What became of the video, and
    how often each window ended its decoder."""
    schedule = a_schedule(decoders=1, segment_us=10**6 * SECOND_US)
    schedule.add(a_video("v", 3 * windows))
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
        for index in range(segment_of(order).first, segment_of(order).last + 1):
            if index in bad:
                ends[index] += 1
                schedule.decoders.failed(order.number, bad[index], "x", now)
                break
            take(schedule, order, index)
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
    world = World(a_schedule(), 4, {("v", index): "kill" for index in here_and_there})
    world.play([a_video("v", 3 * 600)])
    (watched,) = world.finished
    assert watched.status == "quarantined" and len(watched.answers) == 600 - len(here_and_there)
    world = World(a_schedule(), 4, {("v", index): "kill" for index in range(100, 600)})
    world.play([a_video("v", 3 * 600)], replicas=1)
    assert len(world.kills) == MAX_DEADLY_ROW and world.finished[0].reason.endswith("the rest was not watched")


def test_a_window_that_ends_three_decoders_is_a_lost_span_and_the_video_goes_on() -> None:
    schedule = a_schedule(decoders=1, segment_us=100 * SECOND_US)
    schedule.add(a_video("v"))
    count, crashes = WINDOWING.count(30 * SECOND_US), 0
    while not (finished := list(schedule.finished())):
        order = schedule.next_decode(0.0)
        assert order is not None
        for index in range(segment_of(order).first, segment_of(order).last + 1):
            if index == 3:
                crashes += 1
                schedule.decoders.failed(order.number, "crash", "segfault", 0.0)
                break
            take(schedule, order, index)
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
    schedule = a_schedule(segment_us=100 * SECOND_US)
    schedule.add(a_video("v"))
    while not (finished := list(schedule.finished())):
        order = schedule.next_decode(0.0)
        assert order is not None
        schedule.decoders.ended(order.number, 0.0)  # a decoder that ends early is a crash
    (watched,) = finished
    assert watched.status == "failed" and watched.reason.startswith(
        f"crash: decoding ended before window {MAX_LOST_ROW - 1}"
    )


def _refusing(*refused: int, seconds: float = 1000) -> tuple[Watched, World]:
    world = World(a_schedule(), 5, {("v", index): "refuse" for index in refused})
    world.play([a_video("v", seconds)])
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
