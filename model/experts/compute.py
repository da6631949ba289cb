"""The experts' own arithmetic: rows sorted by expert, one matrix product per expert that was hit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


class ExpertWeights(Protocol):
    """`count` experts of one layer: gate and up projections as one matrix [2I, H], down projection [H, I]."""

    count: int
    hidden: int
    width: int
    dtype: torch.dtype  # of the activations
    device: torch.device

    @property
    def nbytes(self) -> int: ...

    def slot(self, expert: int) -> tuple[Tensor, Tensor]:
        """Where the weights of one expert are to be written: ([2I, H], [H, I]). Call `seal(expert)` after writing."""
        ...

    def seal(self, expert: int) -> None: ...

    def run(self, x: Tensor, rows: Tensor, counts: Tensor, activation: Activation) -> Tensor:
        """The experts' outputs [P, H] for P (row, expert) pairs sorted by expert.

        `x` [R, H]: the tokens; `rows` [P]: the token of each pair; `counts` [count]: pairs of each expert.
        """
        ...


class PlainExperts:
    """Weights as they are: gate_up [count, 2I, H], down [count, H, I]."""

    def __init__(
        self, count: int, hidden: int, width: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.count, self.hidden, self.width, self.dtype, self.device = count, hidden, width, dtype, torch.device(device)
        self.gate_up = torch.empty(count, 2 * width, hidden, dtype=dtype, device=device)
        self.down = torch.empty(count, hidden, width, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        return self.gate_up.nbytes + self.down.nbytes

    def slot(self, expert: int) -> tuple[Tensor, Tensor]:
        return self.gate_up[expert], self.down[expert]

    def seal(self, expert: int) -> None:
        pass

    def run(self, x: Tensor, rows: Tensor, counts: Tensor, activation: Activation) -> Tensor:
        if x.is_cuda and self.dtype == torch.bfloat16 and len(rows):
            return run_grouped(x[rows], self.gate_up, self.down, counts, activation)
        out = torch.empty(len(rows), self.hidden, dtype=x.dtype, device=x.device)
        start = 0
        for expert, count in enumerate(counts.tolist()):
            if count == 0:
                continue
            end = start + count
            both = F.linear(x[rows[start:end]], self.gate_up[expert])
            gated = activation(both[:, : self.width]).mul_(both[:, self.width :])
            torch.mm(gated, self.down[expert].t(), out=out[start:end])
            start = end
        return out


def run_grouped(x: Tensor, gate_up: Tensor, down: Tensor, counts: Tensor, activation: Activation) -> Tensor:
    """Rows `x` [P, H] sorted by expert through one kernel for all experts; nothing waits for the host.

    `gate_up` [n, 2I, H], `down` [n, H, I], `counts` [n]. On CUDA: bf16, compute capability 8.0 or more.
    """
    ends, width = counts.cumsum(0, dtype=torch.int32), down.shape[2]
    both = F.grouped_mm(x, gate_up.transpose(1, 2), offs=ends)
    gated = activation(both[:, :width]) * both[:, width:]
    return F.grouped_mm(gated, down.transpose(1, 2), offs=ends)


def combine(outputs: Tensor, where: Tensor, weights: Tensor) -> Tensor:
    """Each token's result [T, H]: the weighted sum of its experts' rows, in router order, accumulated in float32.

    `outputs` [P, H] in any order, `where` [T, k]: the row of `outputs` of each token and router choice,
    `weights` [T, k]. The order of summation is the router's, whatever rank computed which row.
    """
    if not len(where):
        return outputs.new_zeros(0, outputs.shape[-1])
    return F.embedding_bag(where, outputs, mode="sum", per_sample_weights=weights.to(outputs.dtype))


def sort_pairs(expert: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Order of the pairs by expert (stable) and pairs per expert, for `expert` [P] in [0, experts)."""
    return expert.argsort(stable=True), tally(expert, experts)


def tally(values: Tensor, bins: int) -> Tensor:
    """How often each of 0 .. bins - 1 occurs in `values` (torch.bincount, without its wait for a GPU)."""
    counts = torch.zeros(bins, dtype=torch.int64, device=values.device)
    return counts.scatter_add_(0, values, torch.ones_like(values, dtype=torch.int64))


def inverse(order: Tensor) -> Tensor:
    """The permutation that undoes `order`."""
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return back
