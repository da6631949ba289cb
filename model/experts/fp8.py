"""Experts that stay in FP8 with their block scales: half of the memory of bf16, widened only where they are hit."""

from __future__ import annotations

import torch
from torch import Tensor

from model.experts.widened import WidenedExperts


class Fp8Experts(WidenedExperts):
    """gate_up [count, 2I, H] and down [count, H, I] in float8_e4m3fn, one float32 scale per block of each.

    Widening rounds the product of value and scale once, as a dequantising reader does: the same numbers. H and I are
    multiples of the block's sides, and blocks are square.
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

    def widen(self, experts: Tensor | slice) -> tuple[Tensor, Tensor]:
        return (
            self._widen(self.gate_up[experts], self.gate_up_scale[experts]),
            self._widen(self.down[experts], self.down_scale[experts]),
        )

    def _widen(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Experts [n, R, C] times their scales [n, R / block, C / block], in `dtype`."""
        n, rows, columns = weight.shape
        blocks = (n, rows // self.block[0], self.block[0], columns // self.block[1], self.block[1])
        out = torch.empty(weight.shape, dtype=self.dtype, device=weight.device)
        torch.mul(weight.to(self.dtype).view(blocks), scale[:, :, None, :, None], out=out.view(blocks))
        return out
