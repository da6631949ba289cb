"""Decoders follow the replicas; the watchdog names what is stuck; the log is tried again with patience."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipeline.errors import LogError
from workers.commit import Committer
from workers.steer import Steer
from workers.watchdog import Suspect, Watchdog


def _settle(decode_s: float, watch_s: float, replicas: int, most: int = 32) -> int:
    """Play seconds in which the true rates decide how long replicas wait."""
    steer, at_once, ready = Steer(most, most), most, 0.0
    for _ in range(60):
        supply, demand = at_once / decode_s, replicas / watch_s
        idle = max(0.0, 1 - (supply + ready) / demand)
        ready = max(0.0, ready + supply - demand)
        at_once = steer.look(decode_s, watch_s, replicas, idle, int(ready))
    return at_once


@pytest.mark.parametrize(
    ("decode_s", "watch_s", "replicas", "enough"),
    [(0.1, 1.0, 1, 1), (0.5, 0.5, 4, 4), (1.0, 0.1, 1, 10), (1.0, 0.01, 4, 32)],
)
def test_as_many_decoders_as_keep_the_replicas_busy(
    decode_s: float, watch_s: float, replicas: int, enough: int
) -> None:
    settled = _settle(decode_s, watch_s, replicas)
    assert enough <= settled <= max(enough + 1, round(1.5 * enough)) or settled == 32


def test_replicas_that_starve_all_the_same_get_more_decoders() -> None:
    """Where decoding is slower than decoders say (a slow store, tasks starting), the ratio alone would not do."""
    steer = Steer(16, 2)
    first = steer.look(0.1, 0.1, 1, 0.5, 0)
    looks = [steer.look(0.1, 0.1, 1, 0.5, 0) for _ in range(20)]
    assert looks[-1] == 16 > first


def test_nothing_known_yet_means_as_fast_as_can_be() -> None:
    assert Steer(8, 3).look(None, None, 0, 1.0, 0) == 8


def test_the_watchdog_names_what_has_not_moved_and_ends_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    dog, told, ended = Watchdog(quiet_s=10.0), [], []

    def look(windows: int, *suspects: Suspect) -> None:
        dog.look(windows, suspects, lambda kind, suspect, seconds: told.append((kind, suspect.what)))

    old = Suspect("decode", "a.mp4", "node-1", 1000.0, 30.0, lambda: ended.append("a.mp4"))
    new = Suspect("watch", "b.mp4", "replica-1", 1012.0)
    look(1, old, new)
    now[0] += 15
    look(1, old, new)
    assert [(s.stage, s.what, s.where) for s in dog.stuck] == [("decode", "a.mp4", "node-1")]
    now[0] += 5
    look(1, old, new)
    assert told == [("stuck", "a.mp4")] and not ended
    now[0] += 15
    look(1, old, new)
    assert ended == ["a.mp4"] and ("unstuck", "a.mp4") in told and ("stuck", "b.mp4") in told
    look(2, old, new)  # a window was answered: nothing is stuck
    assert dog.stuck == ()


def test_the_watchdog_judges_what_has_a_measure_of_its_own_while_others_move(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    dog, told, ended = Watchdog(quiet_s=60.0), list[tuple[str, str]](), list[float]()
    hangs = Suspect("watch", "a.mp4 window 1", "replica-1", 1000.0, 600.0, lambda: ended.append(now[0]), slow_s=100.0)
    waits = Suspect("decode", "b.mp4", "no node has room", 1000.0, 600.0, lambda: ended.append(-1.0))
    for windows in range(310):  # every two seconds, somebody answers
        named = [s.what for s in dog.stuck]
        assert named == ([] if now[0] <= 1100 else ["a.mp4 window 1"])
        dog.look(windows, [hangs, waits], lambda kind, suspect, seconds: told.append((kind, suspect.what)))
        now[0] += 2.0
        if ended:
            break
    assert ended == [1602.0] and told == [("stuck", "a.mp4 window 1"), ("unstuck", "a.mp4 window 1")]
    dog.look(1000, [], lambda *_: None)
    assert dog.stuck == ()


class _Log:
    """Fails the first `fails` times."""

    def __init__(self, fails: int) -> None:
        self.fails, self.written = fails, []  # type: ignore[var-annotated]

    def commit(self, results: Any) -> None:
        if self.fails:
            self.fails -= 1
            raise LogError("log: no space left on device")
        self.written += results

    def record_names(self, names: Any) -> None:
        raise AssertionError


def test_a_full_disk_that_is_cleared_costs_nothing_and_one_that_is_not_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.commit.BACK_OFF_S", 0.01)
    done: list[Any] = []
    log: Any = _Log(1)
    committer = Committer(log, 10.0, done.extend)
    committer.add("video")  # type: ignore[arg-type]
    committer.finish()
    assert log.written == ["video"] == done and committer.retries == 1
    hopeless = Committer(_Log(100), 0.05)
    hopeless.add("video")  # type: ignore[arg-type]
    with pytest.raises(LogError, match="no space left"):
        hopeless.finish()
