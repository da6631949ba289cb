"""A training run on disk, in one safetensors file: written whole, resumed exactly, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import UsageError

_TENSORS = "state.safetensors"


def save_state(
    folder: Path,
    step: int,
    settings: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Keep everything that the next step depends on, in place of what was kept before."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{number}/{key}": value for key, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{_TENSORS}"
    described = {"run": json.dumps({"step": step, "settings": dict(settings)}, sort_keys=True)}
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, unfinished, described
    )
    unfinished.replace(folder / _TENSORS)


def load_state(
    folder: Path,
    settings: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
) -> int:
    """Take up a run where it was kept; the step to go on with, 0 where there is none. Raises UsageError where the run
    in `folder` was made with other settings."""
    path = folder / _TENSORS
    if not path.exists():
        return 0
    step, kept = described_run(folder)
    wanted = json.loads(json.dumps(dict(settings)))
    if other := sorted(k for k in kept.keys() | wanted.keys() if kept.get(k) != wanted.get(k)):
        told = ", ".join(f"{k} {kept.get(k)} (now {wanted.get(k)})" for k in other)
        raise UsageError(f"{folder}: holds a run with {told}: use the same settings or another folder")
    tensors = load_file(path)
    for name, module in modules.items():
        module.load_state_dict({k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")})
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer/{i}/"):
                _, _, number, entry = key.split("/")
                state.setdefault(int(number), {})[entry] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def described_run(folder: Path) -> tuple[int, dict[str, Any]]:
    """The step that a run is at, and its settings."""
    with safe_open(folder / _TENSORS, "pt") as file:
        run = json.loads(file.metadata()["run"])
    return run["step"], run["settings"]
