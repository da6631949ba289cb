"""A run whose cluster changes: what is shared among its nodes is shared anew. Without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from model.interface import ModelIdentity, ModelProfile
from pipeline.config import RunConfig
from workers import elastic
from workers.flow import Flow
from workers.nodes import Nodes
from workers.replica import ModelChoice
from workers.settings import Limits
from workers.shares import share_out

NODE = {"CPU": 16.0, "GPU": 1.0, "object_store_memory": float(4 << 30)}
PROFILE = ModelProfile(ModelIdentity("test", "1"), gpus=1.0)


class _Watch:
    def __init__(self) -> None:
        self.latest = Nodes({"node-0": NODE})

    def close(self) -> None:
        pass


def _flow(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Flow:
    monkeypatch.setattr(elastic, "NodeWatch", _Watch)
    config = RunConfig(PROFILE.sampling, PROFILE.windowing, "test", "1", {})

    def share(resources: Any) -> Any:
        return share_out(resources, PROFILE, elastic=True)

    return Flow([], None, "run", config, ModelChoice("test"), PROFILE, share(NODE), share_again=share, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("frames_bytes", [None, 5 << 20])
def test_frames_in_flight_and_identifying_tasks_grow_and_shrink_with_the_cluster(
    frames_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = _flow(monkeypatch, limits=Limits(frames_bytes=frames_bytes))
    watch: Any = flow._elastic._watch
    for nodes in (1, 32, 2):
        watch.latest = Nodes({f"node-{i}": NODE for i in range(nodes)})
        flow._elastic._looked = 0.0
        flow._elastic.pump(flow.progress, False)
        shares = share_out({key: nodes * amount for key, amount in NODE.items()}, PROFILE)
        assert flow._pool.count == nodes
        assert flow._schedule.budget.limit == (frames_bytes or shares.budget_bytes)
        assert {stage.tasks for stage in flow._intake.stages().values()} == {min(32, 8 * nodes)}
