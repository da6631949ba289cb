"""Replicas: copies of the model that watch windows. Here the plain one, a model in one actor.

The flow knows a replica only as a `Replica`: a gang of ranks (workers/gang.py) can stand where one actor stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray

from model.interface import Model, ModelProfile, Reporting
from model.registry import find_model
from pipeline.event import WindowEvents
from pipeline.frames import Frames
from pipeline.plan import Window


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model every replica loads: the name a person gave, what they chose for it, and its profile."""

    spec: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def profile(self) -> ModelProfile:
        return find_model(self.spec).profile(self.settings)


class Replica(Protocol):
    """One copy of the model, seen from the driver. It never holds a window that it does not work on.

    A replica is started by creating it and is not used again after any of its references raised: the flow stops it
    and starts another.
    """

    name: str

    def ready(self) -> ray.ObjectRef:
        """Resolves when the model is loaded and warm; raises ModelError where loading can never work."""
        ...

    def watch(self, windows: Sequence[Window], frames: Sequence[ray.ObjectRef]) -> ray.ObjectRef:
        """Start work on a batch. The reference resolves to `list[WindowEvents]` in the order of `windows`.

        `frames[i]` refers to the `Frames` of `windows[i]`. Raises ModelError for what no retry can mend.
        """
        ...

    def report(self) -> ray.ObjectRef:
        """Resolves to what its model counted, see `model.interface.Reporting`; {} where it counts nothing."""
        ...

    def stop(self) -> None:
        """End every process of it at once. May be called again."""
        ...


@ray.remote(max_restarts=0, max_task_retries=0)
class _ModelActor:
    """A loaded model in a process of its own."""

    def __init__(self, choice: ModelChoice) -> None:
        self._choice = choice
        self._model: Model | None = None

    def load(self) -> str:
        """Load the model (not in __init__, whose errors lose their type). Returns the id of the node it runs on."""
        self._model = find_model(self._choice.spec).load(self._choice.settings)
        return str(ray.get_runtime_context().get_node_id())

    def watch(self, windows: Sequence[Window], *frames: Frames) -> list[WindowEvents]:
        """`frames` are read where they lie in the object store: their arrays are read-only views of it."""
        assert self._model is not None
        return self._model.watch(list(zip(windows, frames, strict=True)))

    def report(self) -> dict[str, Any]:
        return self._model.report() if isinstance(self._model, Reporting) else {}


class ActorReplica:
    """A model in one actor."""

    def __init__(self, name: str, choice: ModelChoice, profile: ModelProfile, cpus: float) -> None:
        self.name = name
        options = {"num_cpus": cpus, "num_gpus": profile.gpus}
        self._actor = _ModelActor.options(**options).remote(choice)  # type: ignore[attr-defined]
        self._ready = self._actor.load.remote()

    def ready(self) -> ray.ObjectRef:
        return self._ready

    def watch(self, windows: Sequence[Window], frames: Sequence[ray.ObjectRef]) -> ray.ObjectRef:
        return self._actor.watch.remote(list(windows), *frames)

    def report(self) -> ray.ObjectRef:
        return self._actor.report.remote()

    def stop(self) -> None:
        ray.kill(self._actor, no_restart=True)


def start_replica(name: str, choice: ModelChoice, profile: ModelProfile, cpus: float) -> Replica:
    """Start a replica of the kind that the profile asks for. `cpus`: CPUs that each of its processes reserves."""
    if profile.ranks > 1:
        from workers.gang import GangReplica

        return GangReplica(name, choice, profile, cpus)
    return ActorReplica(name, choice, profile, cpus)
