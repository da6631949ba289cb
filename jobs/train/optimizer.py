"""The optimizer: Muon for the matrices inside the network and for the patch embedding, AdamW for all the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_EMBEDDINGS = ("embed_tokens", "lm_head", "pos_embed", "gate.weight", "heads.")
_WIDEST = 512  # larger square matrices cost more to orthogonalise than they gain at this size of model


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: K. Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), scaled to the step
    size of AdamW as J. Liu et al. 2025 (arXiv 2502.16982, eq. 4) do.

    torch.optim.Muon takes no stacks of matrices; the experts of a layer are one [E, rows, columns], and equal shapes go
    through the iteration together. A convolution's kernel counts as one row per output: what a patch looks like in
    detail is learned as fast as how bright it is.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[_sides(parameter)].append(parameter)
            for (rows, columns), parameters in shapes.items():
                sought = torch.cat([self._momentum(p, group["momentum"]).view(-1, rows, columns) for p in parameters])
                parts = orthogonal(sought).split([p.numel() // (rows * columns) for p in parameters])
                size = 0.2 * max(rows, columns) ** 0.5
                for parameter, part in zip(parameters, parts, strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.add_(part.view_as(parameter), alpha=-group["lr"] * size)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)


def _sides(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns of what is one matrix, or each of a stack of them."""
    if parameter.dim() > 3:
        return parameter.shape[0], parameter[0].numel()
    return parameter.shape[-2], parameter.shape[-1]


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly U V^T of each matrix [..., rows, columns] = U S V^T, by the quintic Newton-Schulz iteration of Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def optimizers(parts: Iterable[nn.Module], lr: float) -> list[torch.optim.Optimizer]:
    """For all parameters of `parts`."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in (named for part in parts for named in part.named_parameters()):
        inside = parameter.dim() > 1 and not any(mark in name for mark in _EMBEDDINGS)
        (matrices if inside and min(_sides(parameter)) < _WIDEST else rest).append(parameter)
    return [Muon(matrices, lr), torch.optim.AdamW(rest, lr, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)]
