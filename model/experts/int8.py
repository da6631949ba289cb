"""int8 experts on CPUs with FBGEMM: half of the memory of bf16, integer products, the same numbers in any batch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from model.experts.compute import Activation
from model.experts.packed import StreamedExperts
from model.experts.quantise import quantise_int8

#: Digits of an activation lie in [-63, 63]: AVX2 adds two products of a byte pair in 16 bits, saturating, and
#: 2 * 127 * (64 + 63) fits. CPUs with VNNI would take more, but then their numbers would not be these.
DIGIT = 63
#: One digit's worth in units of the digit above: the rest after rounding lies in [-0.5, 0.5].
BASE = 2 * DIGIT


class Int8Experts(StreamedExperts):
    """Weights in int8 with a scale per output, multiplied as integers by torch's FBGEMM kernels.

    Each row of the activations is written as scale * (high + low / 126), two digits of 7 bits (an error of at most
    1/15876 of the row's largest value), and both digits go through one integer product. One digit would be faster
    with many rows and is not good enough: it alone cost 2.6% of an expert's result on a trained checkpoint, the
    weights 0.6%; rows with outliers, which large models have, would lose more. Integer sums are exact and rows have
    scales of their own, so that a token's result depends neither on its batch nor on the number of ranks.
    """

    @property
    def nbytes(self) -> int:
        return self.count * (3 * self.hidden * self.width + 4 * (2 * self.width + self.hidden) * 2)

    def pack(self, gate_up: Tensor, down: Tensor) -> Any:
        return _prepack(gate_up), _prepack(down)

    def multiply(self, x: Tensor, packed: Any, activation: Activation) -> Tensor:
        both = product(x, packed[0])
        gated = activation(both[:, : self.width]).mul_(both[:, self.width :])
        return product(gated, packed[1])


def product(x: Tensor, packed: Any) -> Tensor:
    """`x` [n, K] in float32 times a packed int8 matrix [N, K]: [n, N] in float32."""
    scale = x.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny) / DIGIT
    scaled = x / scale
    high = scaled.round()
    low = scaled.sub_(high).mul_(BASE).round_()
    # The scale of 1 and the zero point of 64 hand the digits over as they are.
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    digits: Tensor = multiply(torch.cat([high, low]), 1.0, DIGIT + 1, packed)
    return digits[: len(x)].add_(digits[len(x) :], alpha=1 / BASE).mul_(scale)


def _prepack(weight: Tensor) -> Any:
    values, scale = quantise_int8(weight)
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"  # "x86" takes oneDNN where there is VNNI, whose packing is another
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to drop quantised tensors; pyproject.toml holds its version
            tensor = torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(tensor, None)
    finally:
        torch.backends.quantized.engine = before
