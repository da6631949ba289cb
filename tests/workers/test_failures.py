"""What errors that come out of Ray are taken for, made by Ray itself."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import ray

from model.interface import ModelIdentity, ModelProfile, with_answers
from pipeline.errors import ModelAway, ModelError
from pipeline.event import WindowEvents
from pipeline.plan import Window
from workers.ends import MANY_ENDS
from workers.failures import understand
from workers.pool import Outcome, Pool
from workers.replica import ModelChoice, start_replica
from workers.work import Batch, Decoded, Waiting

pytestmark = pytest.mark.usefixtures("ray_session")
WINDOW = Window("0" * 32, 0, 0, 8)


@ray.remote(num_cpus=0, max_retries=0)
def _end() -> bytes:
    os._exit(1)


@ray.remote(num_cpus=0, max_retries=0)
def _sleep() -> bytes:
    time.sleep(600)
    return b""


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class _Reader:
    def read(self, given: bytes) -> int:
        return len(given)

    def fetch(self, boxed: list[Any]) -> int:
        return len(ray.get(boxed[0]))

    def refuse(self, error: Exception) -> None:
        raise with_answers(error, [WindowEvents(WINDOW, ())])

    def end(self) -> None:
        os._exit(1)


def _failure(ref: Any) -> str:
    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(ref)
    return understand(caught.value).what


def test_an_end_is_laid_at_the_door_of_who_ended() -> None:
    """A replica that is given the frames of a decode task that died is well, and must not be ended for it."""
    reader = _Reader.remote()  # type: ignore[attr-defined]
    dead = _end.remote()
    assert _failure(dead) == "died"
    assert _failure(reader.read.remote(dead)) == "lost"
    assert _failure(reader.fetch.remote([dead])) == "lost"
    cancelled = _sleep.remote()
    ray.cancel(cancelled, force=True)
    assert _failure(cancelled) in ("cancelled", "died")
    assert _failure(reader.read.remote(cancelled)) == "lost"
    assert ray.get(reader.read.remote(ray.put(b"four"))) == 4, "the reader lives"
    for error, what in ((ModelAway("gone", 9.0), "away"), (ModelError("long"), "model"), (ValueError("x"), "fault")):
        with pytest.raises(ray.exceptions.RayError) as caught:
            ray.get(reader.refuse.remote(error))
        told = understand(caught.value)
        assert (told.what, told.answered) == (what, (WindowEvents(WINDOW, ()),))
    assert _failure(reader.end.remote()) == "died"
    ray.kill(reader)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_replica_that_waits_for_a_node_is_told_from_one_that_loads(ranks: int) -> None:
    choice, profile = ModelChoice("python:nowhere:nothing"), ModelProfile(ModelIdentity("test", "1"), ranks=ranks)
    waits = start_replica("waits", choice, profile, cpus=10**6)
    loads = start_replica("loads", choice, profile, cpus=0)
    until = time.monotonic() + 60
    while not loads.placed() and time.monotonic() < until:
        time.sleep(0.02)
    assert (loads.placed(), waits.placed()) == (True, False)
    loads.stop()
    waits.stop()


class _Answering:
    """A replica that is always well and answers each call by the next of `answers`: a reference, or what is raised."""

    def __init__(self, name: str, answers: list[Any]) -> None:
        self.name, self.answers, self.stopped = name, answers, False

    def ready(self) -> Any:
        return ray.put(["node"])

    def watch(self, windows: Any, parcels: Any, at: Any) -> Any:
        return self.answers.pop(0)

    def placed(self) -> bool:
        return True

    def dead(self) -> bool:
        return False

    def report(self) -> Any:
        return ray.put({})

    def stop(self) -> None:
        self.stopped = True


def test_replicas_that_end_one_after_another_are_told_of_and_lost_frames_end_none() -> None:
    reader = _Reader.remote()  # type: ignore[attr-defined]
    dead = _end.remote()
    batch = Batch(0, (Waiting(Decoded(WINDOW, (), (), 0.0, 0), ray.put([]), 0, 0, 0),))
    answers = [reader.read.remote(dead), *[dead] * 4, ray.put([WindowEvents(WINDOW, ())])]
    started: list[_Answering] = []

    def start(name: str) -> Any:
        started.append(_Answering(name, answers))
        return started[-1]

    def once() -> Outcome:
        pool.pump()
        while not pool.free:
            pool.collect(ray.wait(pool.refs())[0][0])
        pool.watch(batch)
        outcome = pool.collect(pool.refs()[0])
        assert outcome is not None
        return outcome

    pool = Pool(start, 1, 60.0, "1 CPU")
    lost = once()
    assert lost.failure is not None and lost.failure.what == "lost"
    assert len(started) == 1 and not started[0].stopped and pool.deaths == 0
    for ends in range(1, 5):
        assert once().failure is not None
        told = pool.unanswered_ends()
        assert (told is not None) == (ends >= MANY_ENDS) and (told is None or f"{ends} ended" in told[1])
    assert pool.deaths == 4
    assert once().events is not None and pool.unanswered_ends() is None
    ray.kill(reader)
