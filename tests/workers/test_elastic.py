"""A run whose cluster changes: what is shared among its nodes is shared anew. Without Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from model.interface import ModelIdentity, ModelProfile, answers_of, with_answers
from pipeline.config import RunConfig
from pipeline.errors import ModelAway, ModelError
from pipeline.event import WindowEvents
from pipeline.plan import Window
from pipeline.video import Source, Video
from tests.workers.pools import Clock, FakeReplica, without_ray
from workers import counted, elastic, flow, identify
from workers.flow import Flow
from workers.nodes import Nodes
from workers.replica import ModelChoice, batch_by_batch
from workers.settings import Limits
from workers.shares import share_out
from workers.work import Decoded, Parcel

NODE = {"CPU": 16.0, "GPU": 1.0, "object_store_memory": float(4 << 30)}
PROFILE = ModelProfile(ModelIdentity("test", "1"), gpus=1.0)


class _Watch:
    def __init__(self) -> None:
        self.latest = Nodes({"node-0": NODE})

    def close(self) -> None:
        pass


def _flow(monkeypatch: pytest.MonkeyPatch, sources: Iterable[Source] = (), **options: Any) -> Flow:
    monkeypatch.setattr(elastic, "NodeWatch", _Watch)
    config = RunConfig(PROFILE.sampling, PROFILE.windowing, "test", "1", {})

    def share(resources: Any) -> Any:
        return share_out(resources, PROFILE, elastic=True)

    given: Any = {"share_again": share, **options}
    return Flow(sources, None, "run", config, ModelChoice("test"), PROFILE, share(NODE), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("frames_bytes", [None, 5 << 20])
def test_frames_in_flight_and_identifying_tasks_grow_and_shrink_with_the_cluster(
    frames_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _flow(monkeypatch, limits=Limits(frames_bytes=frames_bytes))
    watch: Any = run._elastic._watch
    for nodes in (1, 32, 2):
        watch.latest = Nodes({f"node-{i}": NODE for i in range(nodes)})
        run._elastic._looked = 0.0
        run._elastic.pump(run.progress, False)
        shares = share_out({key: nodes * amount for key, amount in NODE.items()}, PROFILE)
        assert run._pool.count == nodes
        assert run._schedule.budget.limit == (frames_bytes or shares.budget_bytes)
        assert {stage.tasks for stage in run._intake.stages().values()} == {min(32, 8 * nodes)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    without_ray(monkeypatch)
    return Clock(monkeypatch)


def _replicas(monkeypatch: pytest.MonkeyPatch) -> list[FakeReplica]:
    """The flow starts such replicas: they come up when they are asked, and never answer."""
    started: list[FakeReplica] = []

    def start(name: str, *_: Any) -> FakeReplica:
        started.append(FakeReplica(name, lambda: ["node-0"], lambda windows: []))
        return started[-1]

    monkeypatch.setattr(flow, "start_replica", start)
    return started


def test_what_is_in_progress_is_named_as_a_person_knows_it(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    _replicas(monkeypatch)
    told: list[Any] = []
    silent, left = threading.Event(), threading.Event()

    def archive() -> Iterator[Source]:
        silent.set()
        left.wait(60)
        yield from ()

    run = _flow(monkeypatch, archive(), limits=Limits(quiet_s=60.0), observers=[_Observer(told)])
    assert silent.wait(10)
    run._report()
    run._intake._fingerprints.running["task"] = identify._Task(
        [Source("s3://a/0.mp4", 1), Source("s3://a/1.mp4", 1)], clock.now, 1
    )
    run._pool.pump()
    clock.now += 100
    run._report()
    assert {(s.stage, s.what, s.where) for s in run.progress.stuck} == {
        ("identify", "s3://a/0.mp4", "fingerprint of 2"),
        ("identify", "the archive", "its listing"),
    }
    clock.now += 300
    run._report()
    assert ("watch", "replica-1") in {(s.stage, s.what) for s in run.progress.stuck}
    assert {e.what for e in told if e.kind == "stuck"} == {"s3://a/0.mp4", "the archive", "replica-1"}
    left.set()


class _Observer:
    wants_traces = False

    def __init__(self, told: list[Any]) -> None:
        self.event = told.append

    def snapshot(self, progress: Any) -> None:
        pass


def test_a_window_that_hangs_is_named_by_its_video(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    _replicas(monkeypatch)
    told: list[Any] = []
    run = _flow(monkeypatch, observers=[_Observer(told)])
    run._schedule.add(Video("0" * 32, ("s3://a/0.mp4",), 1, 30_000_000, 0, 8, 8, 0, "h264", 25.0, 0))
    order = run._schedule.next_decode(clock.now)
    assert order is not None
    run._schedule.decoders.taking(order.number)
    window = run._config.windowing.window("0" * 32, 1, 30_000_000)
    run._schedule.taken(order.number, Parcel((Decoded(window, (), (), 0.0, 1),)), object(), clock.now)
    run._pool.pump()
    run._pool.collect(run._pool.refs()[0])
    batch = run._schedule.next_batch()
    assert batch is not None
    run._pool.watch(batch)
    run._report()
    clock.now += 100
    run._report()
    assert "s3://a/0.mp4 window 1" in {s.what for s in run.progress.stuck}
    clock.now += 3000
    run._report()
    assert not any(member.hung for member in run._pool.busy()), "the first answer of a slow model"
    run._pool._window_s = 10.0
    clock.now += 3
    run._report()
    assert all(member.hung for member in run._pool.busy())
    outcome = run._pool.collect(run._pool.refs()[0])  # it does not answer the windows it was given
    assert outcome is not None and outcome.failure is not None
    run._watched(outcome)
    assert [e.what for e in told if e.kind == "retry"] == ["s3://a/0.mp4 window 1"]


@pytest.mark.parametrize("error", [ModelError("too long"), ModelAway("http://x: gone", 60.0), ValueError("broken")])
def test_answers_beside_a_failure_are_taken_and_only_the_rest_is_watched_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """One window of three is refused, and that at once; one that was not answered for another reason comes again."""
    _replicas(monkeypatch)
    run = _flow(monkeypatch)
    run._schedule.add(Video("0" * 32, ("a",), 1, 46_000_000, 0, 8, 8, 0, "h264", 25.0, 0))
    order = run._schedule.next_decode(clock.now)
    assert order is not None
    run._schedule.decoders.taking(order.number)
    windows = [run._config.windowing.window("0" * 32, i, 46_000_000) for i in range(3)]
    run._schedule.taken(order.number, Parcel(tuple(Decoded(w, (), (), 0.0, 1) for w in windows)), object(), clock.now)
    run._pool.pump()
    run._pool.collect(run._pool.refs()[0])
    replica: Any = run._pool.next_free().replica

    def fail(windows: list[Window]) -> list[WindowEvents]:
        raise with_answers(error, [WindowEvents(w, ()) for w in windows if w.index != 1])

    monkeypatch.setattr(replica, "answer", fail)
    batch = run._schedule.next_batch(most=3)
    assert batch is not None and len(batch.members) == 3
    run._pool.watch(batch)
    outcome = run._pool.collect(run._pool.refs()[0])
    assert outcome is not None and outcome.failure is not None
    run._watched(outcome)
    assert run.progress.windows == 2
    left = run._schedule.next_batch()
    if type(error) is ModelError:
        assert left is None
        (watched,) = run._schedule.finished()
        assert (watched.status, len(watched.answers)) == ("quarantined", 2) and "too long" in watched.reason
    else:
        assert left is not None and [w.index for w in left.windows] == [1]
        assert left.members[0].kills == isinstance(error, ValueError)


def test_of_many_batches_in_one_call_the_refused_one_alone_is_lost() -> None:
    windows = [Window("v", i, i, i + 1) for i in range(7)]

    def watch(part: slice) -> list[WindowEvents]:
        seen = [WindowEvents(w, ()) for w in windows[part]]
        if part.start == 2:
            raise ModelError("too long")
        if part.start == stop:
            raise with_answers(ValueError("broken"), seen[:1])
        return seen

    fates: list[tuple[int, type[Exception], list[int]]] = [(9, ModelError, [0, 1, 4, 5, 6]), (4, ValueError, [0, 1, 4])]
    for stop, raised, there in fates:  # noqa: B007 - `watch` looks at it
        with pytest.raises(raised) as caught:
            batch_by_batch(7, 2, watch)
        assert [said.window.index for said in answers_of(caught.value)] == there


def test_what_the_models_count_is_seen_while_they_work(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    started = _replicas(monkeypatch)
    run = _flow(monkeypatch)
    run._pool.count = 2

    def look() -> dict[str, Any]:
        run._pool.pump()
        for ref in run._pool.refs():
            run._pool.collect(ref)
        run._teller._reported = 0.0
        run._report()
        return run.progress.model

    look()
    for tokens, replica in zip(([1, 3], [5, 5]), started, strict=True):
        replica.counted = {"routing": {"tokens": [tokens]}}
    assert look() == {}
    clock.now += counted.ASK_S
    assert look() == {"routing": {"tokens": [[6, 8]]}}
    run._pool._died(run._pool._free.pop(), "it died", blame=True)
    clock.now += counted.ASK_S
    assert look() == {"routing": {"tokens": [[6, 8]]}}, "what it counted was counted"
    assert run._pool.report() == {"routing": {"tokens": [[6, 8]]}}


@pytest.mark.parametrize(
    ("startup_s", "cluster", "granted"), [(None, True, 3600.0), (None, False, 900.0), (7200.0, True, 7200.0)]
)
def test_replicas_have_time_to_come_up(
    startup_s: float | None, cluster: bool, granted: float, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """On a cluster nodes may have to be started and weights fetched; a gang is given no less than the run."""
    seen: list[float] = []

    def start(name: str, choice: Any, profile: Any, cpus: float, startup_s: float) -> FakeReplica:
        seen.append(startup_s)
        return FakeReplica(name, lambda: ["node-0"], lambda windows: [])

    monkeypatch.setattr(flow, "start_replica", start)
    run = _flow(monkeypatch, limits=Limits(startup_s=startup_s), **({} if cluster else {"share_again": None}))
    run._pool.pump()
    clock.now += granted - 1
    run._pool.pump()
    assert seen == [granted]
    clock.now += 2
    with pytest.raises(ModelError, match=f"no replica came up within {granted:.0f} s"):
        run._pool.pump()


def test_a_task_that_hangs_over_many_names_is_ended_after_the_time_of_one(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(identify.ray, "cancel", lambda ref, force: ended.append(ref))
    stage = identify.Stage(len, str, 1, stall_s=120.0)
    stage._batch = 16
    stage.waiting.extend(range(20))
    stage.pump()
    clock.now += 119
    stage.pump()
    assert not ended
    clock.now += 2
    stage.pump()
    assert ended == [16]
