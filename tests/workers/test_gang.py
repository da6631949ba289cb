"""Gangs on Ray: a replica of two ranks answers as one process does, and ends as a whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.interface import ModelIdentity, ModelProfile
from pipeline.errors import ModelError
from pipeline.frames import Frames
from pipeline.plan import Window

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
ray = pytest.importorskip("ray")

from tests.model import qwen_ranks, tiny_qwen  # noqa: E402
from workers.failures import understand  # noqa: E402
from workers.gang import GangPlan, GangReplica, _Coordinator, deal, reserve  # noqa: E402
from workers.replica import ModelChoice, start_replica  # noqa: E402

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> ModelChoice:
    """A tiny mixture of experts, two ranks."""
    root = tmp_path_factory.mktemp("gang")
    (root / "short.toml").write_text(tiny_qwen.PROMPT)
    tiny_qwen.save(root / "moe", "moe", seed=3)
    return ModelChoice(str(root / "moe"), {"prompt": str(root / "short.toml"), "ranks": 2, "max_new_tokens": 64})


@pytest.fixture(scope="module")
def gang(choice: ModelChoice) -> Iterator[Any]:
    replica = start_replica("gang", choice, choice.profile(), cpus=0.5)
    assert isinstance(replica, GangReplica)
    ray.get(replica.ready(), timeout=180)
    yield replica
    replica.stop()


@pytest.fixture(scope="module")
def windows() -> list[tuple[Window, Frames]]:
    return [qwen_ranks.window(number) for number in range(6)]


def assert_gone(ref: Any, within_s: float) -> None:
    """Ray frees what a dead process owned a moment after the process."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            ray.get(ref, timeout=5)
        except ray.exceptions.RayError:
            return
        time.sleep(0.1)
    raise AssertionError(f"still there after {within_s:g} s")


def watch(replica: Any, batch: list[tuple[Window, Frames]]) -> Any:
    parcels, at = [ray.put([f]) for _, f in batch], [(i, 0) for i in range(len(batch))]
    return ray.get(replica.watch([w for w, _ in batch], parcels, at), timeout=120)


def pids(replica: Any) -> list[int]:
    return list(ray.get(replica._coordinator.pids.remote(), timeout=30))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def assert_ends(processes: list[int], within_s: float) -> None:
    end = time.monotonic() + within_s
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, processes))


def assert_free(cpus: float, within_s: float = 30) -> None:
    """Ray tells of resources with some delay."""
    end = time.monotonic() + within_s
    while ray.available_resources().get("CPU", 0) != cpus and time.monotonic() < end:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU", 0) == cpus


def test_a_gang_answers_as_one_process_does(gang: Any, choice: ModelChoice, windows: Any) -> None:
    """More windows than ranks, as many, and fewer; in order, and the same to the letter."""
    from model.registry import find_model

    assert len(set(pids(gang))) == 2
    alone = find_model(choice.spec).load({**choice.settings, "ranks": 1})
    expected = {a.window.index: a for a in alone.watch(windows)}
    assert len({a.answer for a in expected.values()}) > 1
    for batch in (windows, windows[1:3], windows[4:5], windows[::-1]):
        answers = watch(gang, batch)
        assert [a.window for a in answers] == [w for w, _ in batch]
        for answer in answers:
            assert answer.answer == expected[answer.window.index].answer
            assert answer.events == expected[answer.window.index].events


def test_a_window_that_no_model_takes_is_an_error_and_the_gang_stays_well(gang: Any, windows: Any) -> None:
    before = pids(gang)
    sliver = Frames(np.zeros((2, 32, 9000, 3), np.uint8), np.array([0, 10]), np.array([10, 20]))
    with pytest.raises(ModelError, match="200 times"):
        watch(gang, [(Window("sliver", 0, 0, 1_000_000), sliver), *windows[:2]])
    assert len(watch(gang, windows[:3])) == 3
    assert pids(gang) == before


def test_frames_that_are_gone_are_said_to_be_lost_and_the_gang_stays_well(gang: Any, windows: Any) -> None:
    before = pids(gang)

    @ray.remote(num_cpus=0)
    class Decoder:
        def frames(self, frames: Frames) -> list[Any]:
            return [os.getpid(), ray.put([frames])]

    decoder = Decoder.remote()
    large = Frames(np.zeros((4, 512, 512, 3), np.uint8), np.arange(4) * 100, np.arange(4) * 100 + 50)
    pid, orphan = ray.get(decoder.frames.remote(large))
    ray.kill(decoder)
    assert_ends([pid], within_s=30)
    assert_gone(orphan, within_s=30)
    good = [ray.put([frames]) for _, frames in windows[:2]]
    with pytest.raises(Exception) as caught:
        ray.get(gang.watch([w for w, _ in windows[:3]], [*good, orphan], [(0, 0), (1, 0), (2, 0)]), timeout=60)
    assert understand(caught.value).what == "lost"
    assert len(watch(gang, windows[:3])) == 3
    assert pids(gang) == before


def test_the_death_of_a_rank_ends_the_gang_at_once(gang: Any, windows: Any) -> None:
    """Last of those that use it."""
    ranks, held = pids(gang), ray.available_resources().get("CPU", 0)
    parcel = ray.put([frames for _, frames in windows])
    answer = gang.watch([w for w, _ in windows], [parcel], [(0, i) for i in range(len(windows))])
    os.kill(ranks[1], 9)
    with pytest.raises(Exception) as caught:
        ray.get(answer, timeout=30)
    assert understand(caught.value).what in ("died", "fault")
    assert_ends(ranks, within_s=5)
    gang.stop()
    assert_free(held + 1)


def test_stopping_ends_every_process_and_gives_the_places_back(choice: ModelChoice) -> None:
    free = ray.available_resources().get("CPU", 0)
    replica = start_replica("gang-2", choice, choice.profile(), cpus=0.5)
    ray.get(replica.ready(), timeout=180)
    ranks = pids(replica)
    assert all(map(alive, ranks))
    replica.stop()
    assert_ends(ranks, within_s=15)
    assert_free(free)


def test_a_checkpoint_that_cannot_be_loaded_is_a_model_error(choice: ModelChoice, tmp_path: Path) -> None:
    """Every rank finds out by itself; the one error comes back as what it is."""
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(choice.spec, bad)
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    profile = ModelProfile(ModelIdentity("bad", ""), ranks=2)
    replica = start_replica("gang-3", ModelChoice(str(bad), choice.settings), profile, cpus=0)
    with pytest.raises(ModelError, match="not downloaded whole"):
        ray.get(replica.ready(), timeout=180)
    replica.stop()


def test_ranks_that_do_not_come_up_in_time_are_given_up(choice: ModelChoice) -> None:
    plan = GangPlan("gang-4", choice, ranks=2, cpus=0, gpus=0, start_s=0.2)
    coordinator, places = _Coordinator.remote(plan), reserve(plan)
    with pytest.raises(TimeoutError, match="did not come up within"):
        ray.get(coordinator.load.remote(places), timeout=60)
    ray.kill(coordinator)
    ray.util.remove_placement_group(places)


@pytest.mark.parametrize(("lengths", "ranks"), [([4, 4, 4, 4], 2), ([1, 9, 4, 4], 2), ([5], 4), ([], 3), ([3] * 7, 3)])
def test_windows_are_dealt_evenly(lengths: list[int], ranks: int) -> None:
    shares = deal([Window("v", i, 0, length) for i, length in enumerate(lengths)], ranks)
    assert len(shares) == ranks and sorted(i for share in shares for i in share) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)
