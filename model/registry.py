"""From the name a person gives (`--model NAME`) to the model: its profile for the driver, and how replicas load it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

from model.interface import Model, ModelProfile
from pipeline.errors import UsageError

#: Models that come with Secondsight: name -> module that holds `profile` and `load`.
BUILT_IN: dict[str, str] = {
    "bundled": "model.bundled",
    "signals": "model.signals",
}

_PYTHON, _VLLM = "python:", "vllm:"


class ModelFactory(Protocol):
    """What stands behind a name: a module or an object with these two functions.

    `settings` holds what the user chose for this model (JSON-serialisable); a factory refuses what it does not know
    with a UsageError.
    """

    def profile(self, settings: Mapping[str, Any]) -> ModelProfile:
        """Quick, and without loading weights: the driver calls it before any replica exists."""
        ...

    def load(self, settings: Mapping[str, Any]) -> Model:
        """Called once in each replica."""
        ...


@runtime_checkable
class Placeable(Protocol):
    """A factory whose settings depend on the machines; asked once, in the driver, when the cluster is known."""

    def for_cluster(
        self,
        settings: Mapping[str, Any],
        resources: Mapping[str, float],
        counted: Callable[[], Mapping[str, Any] | None],
    ) -> dict[str, Any]:
        """The settings to load with, self-contained: no file of the driver's machine. The identity stays the same.

        `resources`: of the cluster, as Ray names them. `counted` looks up the report (`model.interface.Reporting`) of
        the last run with the same weights, if there is one.
        """
        ...

    def summarise(self, settings: Mapping[str, Any], counted: Mapping[str, Any]) -> dict[str, Any]:
        """A run's report with what follows from it (rates, imbalance) added, for the run's row."""
        ...


def find_model(spec: str) -> ModelFactory:
    """The factory that `spec` names: a built-in model, the directory, URI or hub id (`org/name`) of a Qwen3-VL
    checkpoint, `openai:URL#NAME` of one that a server has, `vllm:ID` of one for vLLM's engine, or
    `python:package.module[:object]` for one of your own.

    Raises UsageError for a name that is not known.
    """
    if spec in BUILT_IN:
        return cast(ModelFactory, importlib.import_module(BUILT_IN[spec]))
    if spec.startswith(_PYTHON):
        return _own_model(spec)
    if spec.startswith("openai:"):
        from model.served import ServedFactory

        return ServedFactory(spec)
    if spec.startswith(_VLLM):
        from model.in_vllm import VllmFactory

        return VllmFactory(spec.removeprefix(_VLLM))
    if "/" in spec or spec.endswith(".gguf") or os.path.isdir(spec):
        from model.qwen3_vl import QwenFactory

        return QwenFactory(spec)
    known = ", ".join(BUILT_IN)
    raise UsageError(
        f"--model {spec}: not known. Known are: {known}; a Qwen3-VL checkpoint by its directory, URI, hub id "
        "(org/name) or GGUF file; openai:URL#NAME of a served model; vllm:ID; or python:PACKAGE.MODULE[:OBJECT] for "
        "your own"
    )


def located(spec: str) -> str:
    """`spec` with a path on this machine made absolute: workers may stand in another directory."""
    prefix = _VLLM if spec.startswith(_VLLM) else ""
    path = os.path.expanduser(spec.removeprefix(prefix))
    if spec in BUILT_IN or "://" in spec or not (os.path.isdir(path) or path.endswith(".gguf")):
        return spec
    return prefix + os.path.abspath(path)


def _own_model(spec: str) -> ModelFactory:
    module_name, _, attribute = spec.removeprefix(_PYTHON).partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--model {spec}: cannot be imported: {error}") from error
    for function in ("profile", "load"):
        if not callable(getattr(found, function, None)):
            raise UsageError(f"--model {spec}: has no function {function}(settings)")
    return cast(ModelFactory, found)
