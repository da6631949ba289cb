"""The model interface: frames of windows in, events of those windows out. The flow knows models only through this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from pipeline.event import KindRule, WindowEvents
from pipeline.frames import Frames
from pipeline.plan import Sampling, Window, Windowing

_E = TypeVar("_E", bound=BaseException)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What makes one model's answers its own; all of it enters the configuration hash.

    `weights_hash` is a digest of the weights (for a model without weights: of its algorithm version). `settings`
    holds whatever else changes answers (prompt text, thresholds, precision), JSON-serialisable.
    """

    name: str
    weights_hash: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What the driver must know of a model before any replica exists; computed without loading weights.

    `sampling` and `windowing` are the model's defaults (the user's flags win). `rules` say how its kinds reduce; a
    kind that is not listed gets `KindRule()`. `batch_windows`: how many windows one `watch` call takes at most.
    `cpus` and `gpus`: what one rank needs. `ranks`: processes of one replica.
    """

    identity: ModelIdentity
    sampling: Sampling = field(default_factory=Sampling)
    windowing: Windowing = field(default_factory=Windowing)
    rules: Mapping[str, KindRule] = field(default_factory=dict)
    batch_windows: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    ranks: int = 1
    # Of the frames per second that the user wishes for: a model may look more than once. Where it is more than 1, the
    # model is loaded with the setting `fps`, the user's wish, if there is one ("2", "30000/1001").
    fps_multiple: int = 1
    most_replicas: int = 0  # as many as make sense where the user says nothing; 0: as many as fit
    notice: str = ""  # shown to the user when a run starts, e.g. what the model does not know


@runtime_checkable
class Reporting(Protocol):
    """A model that counts what it does (tokens, seconds, routing), for metrics and the run's row."""

    def report(self) -> dict[str, Any]:
        """Totals since it was loaded: numbers, in dicts and lists of the same shape for every replica, so that the
        totals of a run are their sums."""
        ...


class Model(Protocol):
    """A loaded model, living in one replica. Not thread-safe; calls come one at a time."""

    def watch(self, batch: Sequence[tuple[Window, Frames]]) -> list[WindowEvents]:
        """Answers for each window, in order. Event times are relative to each window's start.

        Raises ModelError for what no retry can mend; any other exception counts as a fault of this replica. Answers to
        other windows of the batch may go with the exception (`with_answers`): they are kept, and it is about the rest.
        """
        ...

    def close(self) -> None: ...


def with_answers(error: _E, answers: Sequence[WindowEvents]) -> _E:
    """The error that ended the work on a batch, with the answers to those of its windows that have one."""
    error.answered = list(answers)  # type: ignore[attr-defined]
    return error


def answers_of(error: BaseException) -> list[WindowEvents]:
    """The answers that an error carries."""
    carried = getattr(error, "answered", None)
    return [said for said in carried if isinstance(said, WindowEvents)] if isinstance(carried, list) else []
