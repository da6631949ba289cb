"""What an error that comes out of Ray means for the work at hand, in a few words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ray import exceptions as ray_errors

from model.interface import answers_of
from pipeline.errors import ModelAway, ModelError, VideoError
from pipeline.event import WindowEvents

What = Literal[
    "video",  # VideoError: `reason` is its reason
    "model",  # ModelError: no retry can mend it
    "away",  # ModelAway: who serves the model cannot be reached now, `patience_s` and `after_s` say the rest
    "lost",  # the frames are gone from the object store, or the task that made them ended before they were whole
    "full",  # the object store, or the disk that it spills to, has no room now
    "died",  # a process ended: `reason` says "crash" or "memory"
    "node",  # a process ended with its node
    "cancelled",  # we ended it
    "fault",  # any other exception
]

#: How a task can end before its results are whole; whoever is given such a result raises what ended it.
_ENDED = (
    ray_errors.LocalRayletDiedError,
    ray_errors.NodeDiedError,
    ray_errors.OutOfMemoryError,
    ray_errors.TaskCancelledError,
    ray_errors.WorkerCrashedError,
)
_LOST = (
    ray_errors.ObjectLostError,
    ray_errors.ObjectReconstructionFailedError,
    ray_errors.OwnerDiedError,
    ray_errors.ReferenceCountingAssertionError,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """`answered`: the answers that came all the same, to other windows of the batch."""

    what: What
    reason: str
    detail: str
    patience_s: float = 0.0
    after_s: float = 0.0
    answered: tuple[WindowEvents, ...] = ()


def understand(error: BaseException) -> Failure:
    """Sort an exception that `ray.get` raised."""
    raised = getattr(error, "cause", None) or error
    return replace(_sorted(error), answered=tuple(answers_of(raised)))


def _sorted(error: BaseException) -> Failure:
    if isinstance(error, ray_errors.RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause  # raised in our code, or by Ray while it fetched the task's arguments
        if isinstance(error, _ENDED):  # not of whom was called, who is well: an actor's own end is told otherwise
            return Failure("lost", "storage", "its frames went with the task that decoded them")
    match error:
        case VideoError():
            return Failure("video", error.reason, error.detail)
        case ModelAway():
            return Failure("away", "model", error.problem, error.patience_s, error.after_s)
        case ModelError():
            return Failure("model", "model", str(error))
        case ray_errors.TaskCancelledError():
            return Failure("cancelled", "timeout", "ended by the driver")
        case ray_errors.OutOfMemoryError():
            return Failure("died", "memory", "ended by Ray because the machine ran out of memory")
        case ray_errors.NodeDiedError() | ray_errors.LocalRayletDiedError():
            return Failure("node", "crash", "its node died")
        case ray_errors.WorkerCrashedError():
            return Failure("died", "crash", "its worker process died")
        case ray_errors.ActorDiedError() if error.preempted or "its node has died" in str(error):
            return Failure("node", "crash", "its node died")
        case ray_errors.ActorDiedError() if "out of memory" in str(error).lower():
            return Failure("died", "memory", "ended because its machine ran out of memory")
        case ray_errors.ActorDiedError() | ray_errors.ActorUnavailableError() | ray_errors.RayActorError():
            return Failure("died", "crash", "its process died")
        case ray_errors.ObjectStoreFullError():
            return Failure("full", "storage", "the object store is full")
        case ray_errors.OutOfDiskError():
            return Failure("full", "storage", "the disk that Ray spills frames to is full")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter: torch's, of a GPU
        return Failure("fault", "memory", "its process ran out of memory")
    if isinstance(error, _LOST):
        return Failure("lost", "storage", "its frames are gone from the object store")
    lines = str(error).strip().splitlines()
    return Failure("fault", "crash", f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__)
