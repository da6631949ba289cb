"""Nodes, workers, drivers, the store and the disk fail while a run works: `python -m jobs.bench.faults` in small; and a
node is drained, as before the end of a pod."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from jobs.bench.faults import KINDS, draw, has_ranks
from tests.system import play_faults


def test_faults_are_drawn_the_same_every_time_and_each_kind_is() -> None:
    assert {fault.kind for seed in range(50) for fault in draw(seed)} == {*KINDS, "rank"}
    assert [seed for seed in range(10) if has_ranks(seed)] == [4, 9]
    assert draw(6) == draw(6) != draw(7)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("faults") / "played.json"
    command = [sys.executable, "-m", play_faults.__name__, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("seed", play_faults.SCHEDULES)
def test_whatever_fails_the_log_is_that_of_an_undisturbed_run(played: dict[str, Any], seed: int) -> None:
    outcome = played["outcomes"][str(seed)]
    assert not outcome["wrong"], outcome
    kinds = [fault.kind for fault in play_faults.SCHEDULES[seed]]
    met = {fault["kind"]: fault["met"] for fault in outcome["faults"]}
    if os.geteuid() != 0:  # only root can give the log a disk of its own, and fill it
        met.pop("disk", None)
        kinds = [kind for kind in kinds if kind != "disk"]
    assert list(met) == kinds and all(met.values()), outcome["faults"]


def test_whatever_is_drawn_the_log_is_that_of_an_undisturbed_run(played: dict[str, Any]) -> None:
    outcome = played["outcomes"][str(play_faults.DRAWN)]
    assert not outcome["wrong"], outcome
    assert any(fault["met"] for fault in outcome["faults"]), "the store fails from the beginning"


def test_the_schedules_hold_every_kind_of_fault() -> None:
    schedules = play_faults.SCHEDULES
    assert {fault.kind for faults in schedules.values() for fault in faults} == {*KINDS, "rank"}
    assert [seed for seed in schedules if has_ranks(seed)] == [4]


def test_a_node_that_is_drained_gets_nothing_more_and_others_do_its_work(played: dict[str, Any]) -> None:
    drained = played["drained"]
    events = drained["events"]
    kinds = [event["event"] for event in events]
    assert (drained["status"], drained["ended"]) == (0, 3), "the node had left, without work; one file is no video"
    (told,) = [i for i, kind in enumerate(kinds) if kind == "node_draining"]
    assert drained["node"][:8] in events[told]["what"]
    gone = {event["what"] for event in events if event["event"] == "replica_up" and event["where"] == drained["node"]}
    assert gone and gone <= {event["what"] for event in events if event["event"] == "replica_drained"}
    later = [event["where"] for event in events[told:] if event["event"] == "replica_up"]
    assert later and drained["node"] not in later
    # Nothing is lost, nothing is done twice, and nobody is blamed.
    assert "replica_died" not in kinds and drained["totals"]["replica_deaths"] == 0
    windows = [(video, index) for video, index, _ in drained["windows"]]
    done = {video: count for video, status, count in drained["videos"] if status == "done"}
    assert len(done) == 4 and set(done.values()) == {4}
    assert sorted(windows) == sorted((video, index) for video in done for index in range(4))
    assert {attempt for _, _, attempt in drained["windows"]} == {1}
