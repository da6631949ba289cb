"""Replicas: copies of the model that watch windows. Here the plain one, a model in one actor.

The flow knows a replica only as a `Replica`: a gang of ranks (workers/gang.py) can stand where one actor stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray

from model.interface import Model, ModelProfile, Reporting, answers_of, with_answers
from model.registry import find_model
from pipeline.errors import ModelAway, ModelError
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
        """Resolves to the ids of its nodes when the model is loaded and warm; raises ModelError where loading can never
        work."""
        ...

    def watch(
        self, windows: Sequence[Window], parcels: Sequence[ray.ObjectRef], at: Sequence[tuple[int, int]]
    ) -> ray.ObjectRef:
        """Start work on windows, as many model batches as they make. The reference resolves to `list[WindowEvents]` in
        the order of `windows`.

        `parcels` refer to lists of `Frames`; those of `windows[i]` are in parcel `at[i][0]` at place `at[i][1]`. Raises
        ModelError for what no retry can mend.
        """
        ...

    def placed(self) -> bool:
        """Whether it has its place on its nodes, and so loads its model or did; costs next to nothing."""
        ...

    def dead(self) -> bool:
        """Whether it is known to have ended; costs next to nothing. An idle one that dies is noticed by this."""
        ...

    def report(self) -> ray.ObjectRef:
        """Resolves to what its model counted, see `model.interface.Reporting`; {} where it counts nothing."""
        ...

    def stop(self) -> None:
        """End every process of it at once. May be called again."""
        ...


def batch_by_batch(count: int, at_once: int, watch: Callable[[slice], Sequence[WindowEvents]]) -> list[WindowEvents]:
    """Answers to `count` windows, `at_once` together. Of a batch that the model refuses (ModelError) the others suffer
    nothing; whatever is raised carries all answers that there are."""
    answers: list[WindowEvents] = []
    refused: ModelError | None = None
    for first in range(0, count, at_once):
        try:
            answers += watch(slice(first, first + at_once))
        except Exception as error:
            answers += answers_of(error)
            if not isinstance(error, ModelError) or isinstance(error, ModelAway):
                with_answers(error, answers)
                raise
            refused = error
    if refused is not None:
        raise with_answers(refused, answers)
    return answers


@ray.remote(max_restarts=0, max_task_retries=0)
class _ModelActor:
    """A loaded model in a process of its own."""

    def __init__(self, choice: ModelChoice) -> None:
        self._choice = choice
        self._model: Model | None = None

    def load(self) -> list[str]:
        """Load the model (not in __init__, whose errors lose their type). Returns the ids of the nodes it runs on."""
        self._model = find_model(self._choice.spec).load(self._choice.settings)
        return [str(ray.get_runtime_context().get_node_id())]

    def watch(
        self, windows: Sequence[Window], at: Sequence[tuple[int, int]], at_once: int, *parcels: list[Frames]
    ) -> list[WindowEvents]:
        """`parcels` are read where they lie in the object store: their arrays are read-only views of it."""
        model = self._model
        assert model is not None

        def watch(part: slice) -> list[WindowEvents]:
            there = zip(windows[part], at[part], strict=True)
            return model.watch([(window, parcels[parcel][place]) for window, (parcel, place) in there])

        return batch_by_batch(len(windows), at_once, watch)

    def report(self) -> dict[str, Any]:
        return self._model.report() if isinstance(self._model, Reporting) else {}


ALIVE, DEAD = 2, 4  # ActorTableData.ActorState of Ray's gcs.proto


def actor_dead(actor: Any) -> bool:
    """Whether an actor has ended, as the cluster's control service has told its owner: a look at local memory."""
    return _state(actor) == DEAD


def _state(actor: Any) -> int:
    return actor._get_local_state() or 0


class ActorReplica:
    """A model in one actor."""

    def __init__(self, name: str, choice: ModelChoice, profile: ModelProfile, cpus: float) -> None:
        self.name = name
        options = {"num_cpus": cpus, "num_gpus": profile.gpus}
        self._at_once = profile.batch_windows
        self._actor = _ModelActor.options(**options).remote(choice)  # type: ignore[attr-defined]
        self._ready = self._actor.load.remote()

    def ready(self) -> ray.ObjectRef:
        return self._ready

    def watch(
        self, windows: Sequence[Window], parcels: Sequence[ray.ObjectRef], at: Sequence[tuple[int, int]]
    ) -> ray.ObjectRef:
        return self._actor.watch.remote(list(windows), list(at), self._at_once, *parcels)

    def placed(self) -> bool:
        return _state(self._actor) >= ALIVE

    def dead(self) -> bool:
        return actor_dead(self._actor)

    def report(self) -> ray.ObjectRef:
        return self._actor.report.remote()

    def stop(self) -> None:
        ray.kill(self._actor, no_restart=True)


def start_replica(
    name: str, choice: ModelChoice, profile: ModelProfile, cpus: float, startup_s: float = 0.0
) -> Replica:
    """Start a replica of the kind that the profile asks for. `cpus`: CPUs that each of its processes reserves;
    `startup_s`: it may take so long to come up, at least."""
    if profile.ranks > 1:
        from workers.gang import GangReplica

        return GangReplica(name, choice, profile, cpus, startup_s)
    return ActorReplica(name, choice, profile, cpus)
