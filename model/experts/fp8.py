"""Experts that stay in FP8 with their block scales: half of the memory of bf16, widened only where they are hit, or
multiplied in FP8 where the card can."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from model.experts.compute import Activation
from model.experts.widened import WidenedExperts

ROW_BLOCK = 128  # activations get a scale for so many values of a row
_LARGEST = 448.0  # of float8_e4m3fn


class Fp8Experts(WidenedExperts):
    """gate_up [count, 2I, H] and down [count, H, I] in float8_e4m3fn, one float32 scale per block of each.

    Widening rounds the product of value and scale once, as a dequantising reader does: the same numbers. H and I are
    multiples of the block's sides, and blocks are square. `arithmetic`: multiply in FP8 (see `scaled_product`).
    """

    def __init__(
        self,
        count: int,
        hidden: int,
        width: int,
        block: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        arithmetic: bool = False,
    ) -> None:
        self.count, self.hidden, self.width, self.dtype, self.device = count, hidden, width, dtype, torch.device(device)
        self.block, self.arithmetic = block, arithmetic
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
        if not self.arithmetic:
            return super().run(x, rows, counts, activation)
        out = torch.empty(len(rows), self.hidden, dtype=x.dtype, device=x.device)
        start = 0
        for expert, count in enumerate(counts.tolist()):
            if count == 0:
                continue
            end = start + count
            both = scaled_product(x[rows[start:end]], self.gate_up[expert], self.gate_up_scale[expert])
            gated = activation(both[:, : self.width]) * both[:, self.width :]
            out[start:end] = scaled_product(gated, self.down[expert], self.down_scale[expert])
            start = end
        return out

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


def can_multiply(device: torch.device, block: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether FP8 matrices with these scale blocks are multiplied as such there: torch's `scaled_mm` takes float32
    scales of blocks of 128 on Hopper (compute capability 9.0), with results in bf16. Everywhere else it raises: Ada has
    kernels for scales of whole rows or matrices, Blackwell for blocks of 32 with scales that are powers of two."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
    return hopper and block == (ROW_BLOCK, ROW_BLOCK) and dtype == torch.bfloat16


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [P, C] in float8_e4m3fn, and their scales [P, C / 128], float32: the largest value of each block becomes the
    largest that there is (DeepSeek-V3, https://arxiv.org/abs/2412.19437, section 3.3.2)."""
    blocks = x.float().view(len(x), -1, ROW_BLOCK)
    scale = (blocks.abs().amax(2) / _LARGEST).clamp_min(1e-12)
    return (blocks / scale[..., None]).to(torch.float8_e4m3fn).view(x.shape), scale


def scaled_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """`x` [P, C] times the transpose of `weight` [R, C], FP8 with `scale` [R / 128, C / 128]: both in FP8, sums in
    float32, result [P, R] in the dtype of `x`.

    On CUDA by cuBLASLt (not run so far; what torch checks of its arguments is, on the meta device). Elsewhere the same
    numbers, block by block: for tests.
    """
    if x.is_cuda or x.is_meta:
        return _by_cublas(x, weight, scale)
    values, factors = quantise_rows(x)
    outputs, columns = weight.shape
    sums = torch.einsum(
        "pbk,rbk->prb",
        values.float().view(len(x), -1, ROW_BLOCK),
        weight.float().view(outputs, columns // ROW_BLOCK, ROW_BLOCK),
    )
    weight_scale = scale.repeat_interleave(ROW_BLOCK, 0)  # [R, C / 128]
    return torch.einsum("prb,pb,rb->pr", sums, factors, weight_scale).to(x.dtype)


def _by_cublas(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """In the layout of scales that cuBLASLt wants: those of the rows next to each other, as of a multiple of 4 rows;
    those of the weights along its columns, with room for a multiple of 4 blocks."""
    count = len(x)
    values, factors = quantise_rows(F.pad(x, (0, 0, 0, -count % 4)))
    rows, blocks = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128
    by_row = factors.t().contiguous().t()
    by_block = F.pad(scale, (0, -scale.shape[1] % 4)).t()
    return F.scaled_mm(values, weight.t(), by_row, rows, by_block, blocks, output_dtype=x.dtype)[:count]
