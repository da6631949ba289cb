"""Experts that stay in FP8 with their block scales: half of the memory of bf16, widened only where they are hit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from model.experts.compute import Activation, run_grouped


class Fp8Experts:
    """gate_up [count, 2I, H] and down [count, H, I] in float8_e4m3fn, one float32 scale per block of each.

    A step widens the experts that it hits into `dtype` (the product of value and scale rounded once, as a
    dequantising reader does) and multiplies in `dtype`: the same numbers, for one more pass over those experts. H and
    I are multiples of the block's sides, and blocks are square.
    """

    def __init__(
        self,
        count: int,
        hidden: int,
        width: int,
        block: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.count, self.hidden, self.width, self.dtype, self.device = count, hidden, width, dtype, torch.device(device)
        self.block = block
        self.gate_up = torch.empty(count, 2 * width, hidden, dtype=torch.float8_e4m3fn, device=device)
        self.down = torch.empty(count, hidden, width, dtype=torch.float8_e4m3fn, device=device)
        self.gate_up_scale = torch.empty(count, 2 * width // block[0], hidden // block[1], device=device)
        self.down_scale = torch.empty(count, hidden // block[0], width // block[1], device=device)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.gate_up, self.down, self.gate_up_scale, self.down_scale))

    def slot(self, expert: int) -> tuple[Tensor, Tensor]:
        return self.gate_up[expert], self.down[expert]

    def scales(self, expert: int) -> tuple[Tensor, Tensor]:
        """Where the scales of one expert are to be written: ([2I / block, H / block], [H / block, I / block])."""
        return self.gate_up_scale[expert], self.down_scale[expert]

    def seal(self, expert: int) -> None:
        pass

    def run(self, x: Tensor, rows: Tensor, counts: Tensor, activation: Activation) -> Tensor:
        """As `ExpertWeights.run`."""
        hit = counts.nonzero().flatten()
        if x.is_cuda and self.dtype == torch.bfloat16 and len(hit):
            gate_up = self._widen(self.gate_up[hit], self.gate_up_scale[hit])
            down = self._widen(self.down[hit], self.down_scale[hit])
            return run_grouped(x[rows], gate_up, down, counts[hit], activation)
        out = torch.empty(len(rows), self.hidden, dtype=x.dtype, device=x.device)
        start = 0
        for expert, count in zip(hit.tolist(), counts[hit].tolist(), strict=True):
            gate_up = self._widen(self.gate_up[expert : expert + 1], self.gate_up_scale[expert : expert + 1])[0]
            down = self._widen(self.down[expert : expert + 1], self.down_scale[expert : expert + 1])[0]
            end = start + count
            both = F.linear(x[rows[start:end]], gate_up)
            gated = activation(both[:, : self.width]).mul_(both[:, self.width :])
            torch.mm(gated, down.t(), out=out[start:end])
            start = end
        return out

    def _widen(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Experts [n, R, C] times their scales [n, R / block, C / block], in `dtype`."""
        n, rows, columns = weight.shape
        blocks = (n, rows // self.block[0], self.block[0], columns // self.block[1], self.block[1])
        out = torch.empty(weight.shape, dtype=self.dtype, device=weight.device)
        torch.mul(weight.to(self.dtype).view(blocks), scale[:, :, None, :, None], out=out.view(blocks))
        return out
