"""Replicas that do not come up, or end over their work: which of it ends the run, and which does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ray import exceptions as ray_errors

from pipeline.errors import ModelAway, ModelError
from pipeline.event import WindowEvents
from pipeline.plan import SECOND_US, Sampling, Window, Windowing
from pipeline.video import Video
from tests.workers.pools import Clock, FakeReplica, up, without_ray
from workers import ends
from workers.ends import MAX_DEADLY_VIDEOS
from workers.pool import Outcome, Pool
from workers.schedule import Schedule
from workers.work import Batch, Decoded, Parcel, Waiting, Watched


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    without_ray(monkeypatch)
    return Clock(monkeypatch)


def _answer(windows: list[Window]) -> list[WindowEvents]:
    return [WindowEvents(w, ()) for w in windows]


def _loads(*fates: Exception | None) -> Callable[[], list[str]]:
    """What loading does, one start after another; well from then on."""
    left = list(fates)

    def load() -> list[str]:
        if left and (error := left.pop(0)) is not None:
            raise error
        return ["node"]

    return load


def _pool(load: Callable[[], Any], count: int, answer: Callable[[Any], Any] = _answer, **options: Any) -> Pool:
    return Pool(lambda name: FakeReplica(name, load, answer), count, 900.0, "1 CPU", **options)


AWAY = ModelError("s3://weights: 503 Slow Down")
CRASH = ray_errors.ActorDiedError()


def test_one_replica_that_cannot_load_ends_nothing_while_others_are_well(clock: Clock) -> None:
    told: list[tuple[str, str]] = []
    load = _loads(None, AWAY, AWAY, CRASH, CRASH, CRASH, AWAY)
    pool = _pool(load, 2, tell=lambda kind, name, where, detail: told.append((kind, detail)))
    began = clock.now
    up(pool, clock)
    assert pool.up == 2 and pool.deaths == 0
    assert [kind for kind, _ in told].count("retry") == 6 and ("retry", f"it did not come up: {AWAY}") in told
    assert clock.now - began > 1 + 2 + 4 + 8 + 16 + 32, "each pause is twice the one before"


def test_a_model_that_can_never_load_ends_the_run_at_once_with_its_error(clock: Clock) -> None:
    pool = _pool(_loads(*[AWAY] * 9), 3)
    began = clock.now
    with pytest.raises(ModelError, match="s3://weights: 503 Slow Down"):
        up(pool, clock)
    assert clock.now - began < ends.PAUSE_S
    crashing = _pool(_loads(*[CRASH] * 99), 1)
    with pytest.raises(ModelError, match="no replica can be started: its process died"):
        up(crashing, clock)


def test_replicas_that_wait_for_a_node_keep_no_model_alive_that_cannot_be_loaded(clock: Clock) -> None:
    """On a cluster of which others have all but one place."""
    placed: list[FakeReplica] = []

    def start(name: str) -> FakeReplica:
        replica = FakeReplica(name, _loads(AWAY), _answer)
        replica.is_placed = not any(not r.stopped for r in placed)
        if replica.is_placed:
            placed.append(replica)
        return replica

    pool = Pool(start, 20, 3600.0, "1 GPU")
    began = clock.now

    def step() -> None:
        pool.pump()
        for ref, member in list(pool._starting.items()):
            if member.replica in placed:
                pool.collect(ref)
        clock.now += 0.25

    step()
    assert pool.waits_for == f"no replica is up; the last that failed: {AWAY}"
    with pytest.raises(ModelError, match="503 Slow Down"):
        while True:
            step()
    assert len(placed) == ends.MAX_START_FAILURES and clock.now - began < 10


def test_a_replica_that_hangs_while_it_loads_is_replaced_and_one_without_a_node_waits(clock: Clock) -> None:
    started: list[FakeReplica] = []
    told: list[str] = []

    def start(name: str) -> FakeReplica:
        started.append(FakeReplica(name, lambda: ["node"], _answer))
        started[-1].is_placed = name != "replica-3"
        return started[-1]

    pool = Pool(start, 3, 900.0, "1 CPU", tell=lambda kind, name, where, detail: told.append(f"{kind} {name} {detail}"))
    pool.pump()
    pool.collect(next(ref for ref, m in pool._starting.items() if m.name == "replica-1"))
    clock.now += 1
    pool.pump()
    clock.now += 1000  # replica-3 waits for a node
    started[2].is_placed = True
    pool.pump()
    clock.now += 1
    pool.pump()
    assert [r.name for r in started if r.stopped] == ["replica-2"]
    assert told[-1] == "retry replica-2 it did not come up: its model was not loaded within 900 s"
    clock.now += ends.PAUSE_S
    pool.pump()
    assert [r.name for r in started] == ["replica-1", "replica-2", "replica-3", "replica-4"]


def test_a_call_hangs_by_the_measure_of_others_and_the_first_has_its_time(clock: Clock) -> None:
    pool = _pool(_loads(), 3)
    up(pool, clock)
    batch = Batch(1, (Waiting(Decoded(Window("v", 0, 0, 8), (), (), 0.0, 0), object(), 0, 0, 0),))

    def call(took_s: float) -> tuple[float | None, float]:
        member = pool.next_free()
        pool.watch(batch)
        patience = pool.patience(member)
        clock.now += took_s
        assert pool.collect(next(ref for ref, m in pool._busy.items() if m is member)) is not None
        return patience

    assert call(120.0) == (None, 3600.0), "how long it takes, nobody knows yet"
    for _ in range(40):
        slow_s, hangs_s = call(1.0)
    assert slow_s == pytest.approx(5.0, abs=0.1) and hangs_s == pytest.approx(20.0, abs=0.1)
    pool._free.append(pool._free.pop(0))  # one that has not been called yet
    assert call(100.0) == (5 * 120.0, 20 * 120.0)


def test_a_model_that_was_up_before_is_given_more_than_one_try(clock: Clock) -> None:
    """The only replica ends, and the store of the weights is busy just then."""
    pool = _pool(_loads(None, AWAY, AWAY), 1)
    up(pool, clock)
    pool._died(pool._free.pop(), "it died while it was idle", blame=True)
    up(pool, clock)
    assert pool.up == 1


class _Run:
    """Schedule and pool together, one replica, everything decoded at once."""

    def __init__(self, clock: Clock, names: list[str], deadly: Callable[[Window], bool]) -> None:
        self.clock, self.finished = clock, dict[str, Watched]()
        self.schedule = Schedule(
            Sampling(short_side=None), Windowing(4 * SECOND_US, 0), budget_bytes=10**9, decoders=len(names)
        )
        for name in names:
            self.schedule.add(Video(name, (name,), 1000, 40 * SECOND_US, 0, 8, 8, 0, "h264", 25.0, 0))

        def answer(windows: list[Window]) -> list[WindowEvents]:
            if any(map(deadly, windows)):
                raise CRASH
            return _answer(windows)

        self.pool = _pool(_loads(), 1, answer)

    def play(self) -> None:
        while not self.schedule.idle():
            while (order := self.schedule.next_decode(self.clock.now)) is not None:
                for segment in order.segments:
                    for i in range(segment.first, segment.last + 1):
                        window = self.schedule._windowing.window(segment.video.video_id, i, segment.video.duration_us)
                        self.schedule.decoders.taking(order.number)
                        parcel = Parcel((Decoded(window, (i,), (), 0.0, 1),))
                        self.schedule.taken(order.number, parcel, object(), self.clock.now)
                self.schedule.decoders.ended(order.number, self.clock.now)
            up(self.pool, self.clock)
            batch = self.schedule.next_batch(now=self.clock.now)
            if batch is not None:
                self.pool.watch(batch)
                outcome = self.pool.collect(self.pool.refs()[0])
                assert outcome is not None
                if outcome.events is None:
                    self.schedule.replica_died(batch, "crash")
                else:
                    self.schedule.answered(batch, outcome.events, outcome.replica)
            self.finished |= {w.video.video_id: w for w in self.schedule.finished()}


def test_two_bad_videos_next_to_each_other_do_not_end_the_run(clock: Clock) -> None:
    run = _Run(clock, ["bad0", "bad1", "good"], lambda window: window.video_id.startswith("bad"))
    run.play()
    assert {name: w.status for name, w in run.finished.items()} == {
        "bad0": "quarantined",
        "bad1": "quarantined",
        "good": "done",
    }
    assert run.pool.deaths == 18


@pytest.mark.parametrize("error", [ray_errors.OutOfDiskError("spill"), ray_errors.ObjectStoreFullError()])
def test_a_full_object_store_is_no_fault_of_window_or_replica(error: Exception, clock: Clock) -> None:
    def answer(windows: list[Window]) -> list[WindowEvents]:
        raise ray_errors.RayTaskError("watch", "", error)  # as Ray wraps what fetching the frames raises

    pool = _pool(_loads(), 1, answer)
    up(pool, clock)
    member = pool.next_free()
    window = Window("v", 0, 0, 8)
    pool.watch(Batch(1, (Waiting(Decoded(window, (), (), 0.0, 0), object(), 0, 0, 0),)))
    outcome = pool.collect(pool.refs()[0])
    assert outcome is not None and outcome.failure is not None and outcome.failure.what == "full"
    assert pool.deaths == 0 and pool.next_free() is member


def test_replicas_that_die_over_whatever_they_are_given_end_the_run(clock: Clock) -> None:
    run = _Run(clock, [f"v{i}" for i in range(9)], lambda window: True)
    with pytest.raises(ModelError, match="died in a row without answering a window; the last: its process died"):
        run.play()
    assert len(run.finished) == MAX_DEADLY_VIDEOS - 1


class _Served:
    """A model that a server has: `away` while it is down."""

    def __init__(self) -> None:
        self.away = False

    def load(self) -> list[str]:
        self._ask()
        return ["node"]

    def answer(self, windows: list[Window]) -> list[WindowEvents]:
        self._ask()
        return _answer(windows)

    def _ask(self) -> None:
        if self.away:
            raise ray_errors.RayTaskError("watch", "", ModelAway("http://x: cannot be reached", 60.0))


def test_a_served_model_that_is_away_is_waited_for_and_nobody_is_to_blame(clock: Clock) -> None:
    served, told = _Served(), list[str]()
    pool = _pool(served.load, 1, served.answer, tell=lambda kind, name, where, detail: told.append(kind))
    up(pool, clock)
    member, window = pool.next_free(), Window("v", 0, 0, 8)
    batch = Batch(1, (Waiting(Decoded(window, (), (), 0.0, 0), object(), 0, 0, 0),))

    def ask() -> Outcome:
        pool.watch(batch)
        outcome = pool.collect(pool.refs()[0])
        assert outcome is not None
        return outcome

    served.away = True
    for _ in range(5):
        failed = ask()
        assert failed.failure is not None and failed.failure.what == "away"
        assert pool.free == 0 and pool.waits_for == "http://x: cannot be reached"
        clock.now += ends.AWAY_PAUSE_S
        assert pool.free == 1 and pool.next_free() is member
    served.away = False
    assert ask().events is not None and pool.waits_for == ""
    assert pool.deaths == 0 and told == ["replica_up", "waiting"]
    served.away = True
    assert ask().failure is not None
    clock.now += 61
    with pytest.raises(ModelError, match=r"cannot be reached; it stayed so for more than 60 s"):
        ask()


def test_a_replica_that_starts_while_the_server_is_away_is_started_again(clock: Clock) -> None:
    served = _Served()
    served.away = True
    pool = _pool(served.load, 2, served.answer)
    with pytest.raises(TimeoutError):
        up(pool, clock, within_s=30)
    assert pool.waits_for and pool.deaths == 0
    served.away = False
    up(pool, clock)
    assert pool.up == 2 and pool.waits_for == ""
    never = _pool(_loads(*[ModelAway("http://x: gone", 60.0)] * 99), 1)
    with pytest.raises(ModelError, match="for more than 60 s"):
        up(never, clock)
