"""Experts kept in few bits as tensors on any device, and widened to the activations' dtype where they are hit."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from model.experts.compute import Activation, run_grouped
from model.experts.quantise import BLOCK, pack_nibbles, quantise_blocks, quantise_int8, widen_int4, widen_int8


class WidenedExperts(ABC):
    """A step widens the experts that it hits into `dtype` and multiplies there: one more pass over those experts."""

    count: int
    hidden: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def widen(self, experts: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Some experts in `dtype`: gate_up [n, 2I, H] and down [n, H, I]."""

    def run(self, x: Tensor, rows: Tensor, counts: Tensor, activation: Activation) -> Tensor:
        """As `ExpertWeights.run`."""
        hit = counts.nonzero().flatten()
        if x.is_cuda and self.dtype == torch.bfloat16 and len(hit):
            return run_grouped(x[rows], *self.widen(hit), counts[hit], activation)
        out = torch.empty(len(rows), self.hidden, dtype=x.dtype, device=x.device)
        start = 0
        for expert, count in zip(hit.tolist(), counts[hit].tolist(), strict=True):
            gate_up, down = self.widen(slice(expert, expert + 1))
            end = start + count
            both = F.linear(x[rows[start:end]], gate_up[0])
            gated = activation(both[:, : self.width]).mul_(both[:, self.width :])
            torch.mm(gated, down[0].t(), out=out[start:end])
            start = end
        return out


class LowBitExperts(WidenedExperts):
    """int8 (a scale per output) or int4 (a scale per 64 inputs) weights: see quantise.py."""

    def __init__(
        self, count: int, hidden: int, width: int, bits: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.count, self.hidden, self.width, self.dtype, self.device = count, hidden, width, dtype, torch.device(device)
        self.bits = bits
        self._gate_up = self._room(2 * width, hidden)
        self._down = self._room(hidden, width)
        self._scratch = (torch.empty(0), torch.empty(0))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (*self._gate_up, *self._down))

    def slot(self, expert: int) -> tuple[Tensor, Tensor]:
        if not len(self._scratch[0]):
            both, down = (2 * self.width, self.hidden), (self.hidden, self.width)
            self._scratch = torch.empty(both, device=self.device), torch.empty(down, device=self.device)
        return self._scratch

    def seal(self, expert: int) -> None:
        for weight, (values, scale) in zip(self._scratch, (self._gate_up, self._down), strict=True):
            if self.bits == 8:
                quantised, factors = quantise_int8(weight)
            else:
                quantised, factors = quantise_blocks(weight)
                quantised = pack_nibbles(quantised)
            values[expert], scale[expert] = quantised, factors
        if expert == self.count - 1:
            self._scratch = torch.empty(0), torch.empty(0)

    def widen(self, experts: Tensor | slice) -> tuple[Tensor, Tensor]:
        found = []
        for (values, scale), columns in ((self._gate_up, self.hidden), (self._down, self.width)):
            if self.bits == 8:
                found.append(widen_int8(values[experts], scale[experts], self.dtype))
            else:
                found.append(widen_int4(values[experts], scale[experts], columns, self.dtype))
        return found[0], found[1]

    def _room(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        blocks = -(-columns // BLOCK)
        values, dtype, scales = (
            ((rows, columns), torch.int8, (rows,))
            if self.bits == 8
            else ((rows, blocks, BLOCK // 2), torch.uint8, (rows, blocks))
        )
        return (
            torch.empty(self.count, *values, dtype=dtype, device=self.device),
            torch.empty(self.count, *scales, device=self.device),
        )
