"""Weights in 8 and 4 bits, and what they stand for: symmetric, one scale per row (int8) or per block of a row (int4).

int8: w = q * scale[row], q in [-127, 127]. int4: w = (q - 8) * scale[row, block], q in [0, 15], blocks of 64 columns;
the scale is the block's value of largest magnitude over -8, so that this value is met exactly (as llama.cpp's Q4_0).
A row whose length is no multiple of 64 ends in a short block, filled up with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64


def quantise_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values [R, C] and float32 scales [R] of `weight` [R, C]."""
    scale = weight.abs().amax(1).float() / 127
    scale = torch.where(scale > 0, scale, 1.0)
    return (weight / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def quantise_blocks(weight: Tensor, bits: int = 4) -> tuple[Tensor, Tensor]:
    """Unsigned values [R, blocks, BLOCK] in uint8 around 2 ** (bits - 1), and float32 scales [R, blocks]."""
    middle = 1 << (bits - 1)
    rows, columns = weight.shape
    blocks = F.pad(weight.float(), (0, -columns % BLOCK)).view(rows, -1, BLOCK)
    low, high = blocks.amin(2), blocks.amax(2)
    scale = torch.where(high > -low, high, low) / -middle
    scale = torch.where(scale != 0, scale, 1.0)
    values = (blocks / scale[..., None]).round_().add_(middle).clamp_(0, 2 * middle - 1)
    return values.to(torch.uint8), scale


def pack_nibbles(values: Tensor) -> Tensor:
    """Two values below 16 in each byte, the first in the low half: [..., n] to [..., n / 2]."""
    return values[..., 0::2] | values[..., 1::2] << 4


def widen_int8(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights [..., R, C] of int8 `values` [..., R, C] and `scale` [..., R], rounded once to `dtype`."""
    return (values * scale[..., None]).to(dtype)


def widen_int4(packed: Tensor, scale: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """Weights [..., R, columns] of `packed` nibbles [..., R, blocks, BLOCK / 2] and `scale` [..., R, blocks]."""
    values = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
    blocks = (values.to(torch.int8) - 8) * scale[..., None]
    return blocks.flatten(-2)[..., :columns].to(dtype)
