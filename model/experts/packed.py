"""Experts on a CPU whose library takes one matrix at a time and keeps it in a packing of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from model.experts.compute import Activation


class StreamedExperts(ABC):
    """Experts that are packed one by one as they are read: the whole layer never exists in another precision.

    `dtype` is that of the activations; the arithmetic around the packed products is float32.
    """

    def __init__(self, count: int, hidden: int, width: int, dtype: torch.dtype) -> None:
        self.count, self.hidden, self.width, self.dtype = count, hidden, width, dtype
        self.device = torch.device("cpu")
        self._packed: list[Any] = [None] * count
        self._scratch = (torch.empty(0), torch.empty(0))

    @property
    @abstractmethod
    def nbytes(self) -> int: ...

    @abstractmethod
    def pack(self, gate_up: Tensor, down: Tensor) -> Any:
        """One expert, [2I, H] and [H, I] in float32, as it is kept. The arguments are used again for the next."""

    @abstractmethod
    def multiply(self, x: Tensor, packed: Any, activation: Activation) -> Tensor:
        """Rows `x` [n, H] in float32 through one expert: [n, H] in float32."""

    def slot(self, expert: int) -> tuple[Tensor, Tensor]:
        if not len(self._scratch[0]):
            self._scratch = torch.empty(2 * self.width, self.hidden), torch.empty(self.hidden, self.width)
        return self._scratch

    def seal(self, expert: int) -> None:
        self._packed[expert] = self.pack(*self._scratch)
        if expert == self.count - 1:
            self._scratch = torch.empty(0), torch.empty(0)

    def run(self, x: Tensor, rows: Tensor, counts: Tensor, activation: Activation) -> Tensor:
        """As `ExpertWeights.run`."""
        out = torch.empty(len(rows), self.hidden, dtype=x.dtype)
        start = 0
        for expert, count in enumerate(counts.tolist()):
            if count == 0:
                continue
            packed = self._packed[expert]
            if packed is None:
                raise RuntimeError(f"expert {expert} was never loaded")
            end = start + count
            out[start:end] = self.multiply(x[rows[start:end]].float(), packed, activation)
            start = end
        return out


class PackedExperts(StreamedExperts):
    """bf16 or fp16 weights on a CPU that cannot multiply them: kept as fp16 in FBGEMM's packing, multiplied in fp32.

    torch's bf16 kernels without bf16 instructions reach a tenth of its fp32 speed; FBGEMM widens fp16 in registers and
    reads half of the bytes of fp32. A bf16 weight is exact in fp16 from 6.1e-5 to 65504; smaller ones are rounded to
    multiples of 6.0e-8, larger ones are clamped. The packing takes about 11% more memory than the bare weights.
    """

    @property
    def nbytes(self) -> int:
        return self.count * 3 * self.hidden * self.width * 2

    def pack(self, gate_up: Tensor, down: Tensor) -> Any:
        prepack = torch.ops.quantized.linear_prepack_fp16
        return prepack(gate_up, None), prepack(down, None)

    def multiply(self, x: Tensor, packed: Any, activation: Activation) -> Tensor:
        product = torch.ops.quantized.linear_dynamic_fp16
        both = product(x, packed[0])
        gated = activation(both[:, : self.width]).mul_(both[:, self.width :])
        result: Tensor = product(gated, packed[1])
        return result
