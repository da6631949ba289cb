"""The experts' own arithmetic: rows sorted by expert, one matrix product per expert that was hit.

Each class holds the experts of one layer on one rank in the form that is fastest where it runs (`best_form`):

| form | where (measured by `python -m jobs.bench.experts`) |
|---|---|
| `PlainExperts` | any device and dtype that multiplies natively; CUDA uses torch's grouped_mm |
| `Fp8Experts` (fp8.py) | FP8 checkpoints, kept in FP8 |
| `PackedExperts` | bf16 or fp16 weights on a CPU without such instructions: FBGEMM's fp16 packing, fp32 arithmetic |
"""

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


def best_form(
    count: int,
    hidden: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    packed: bool = False,
) -> ExpertWeights:
    """Empty experts in the form that is fastest for activations of this dtype on this device.

    `packed`: hold the weights in half precision although the activations are float32.
    """
    device = torch.device(device)
    if packed:
        return PackedExperts(count, hidden, width, dtype)
    if device.type == "cpu" and dtype in (torch.bfloat16, torch.float16) and not multiplies(dtype) and can_pack():
        return PackedExperts(count, hidden, width, dtype)
    return PlainExperts(count, hidden, width, dtype, device)


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has matrix instructions for `dtype` that torch uses (AVX-512 BF16, AMX; Arm has its own)."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def can_pack() -> bool:
    """Whether torch was built with FBGEMM and it runs on this CPU (x86 with AVX2 or more)."""
    return any(engine in torch.backends.quantized.supported_engines for engine in ("x86", "fbgemm"))


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


class PackedExperts:
    """bf16 or fp16 weights on a CPU that cannot multiply them: kept as fp16 in FBGEMM's packing, multiplied in fp32.

    `dtype` is that of the activations.

    torch's bf16 kernels without bf16 instructions reach a tenth of its fp32 speed; FBGEMM widens fp16 in registers and
    reads half of the bytes of fp32. A bf16 weight is exact in fp16 from 6.1e-5 to 65504; smaller ones are rounded to
    multiples of 6.0e-8, larger ones are clamped. The packing takes about 11% more memory than the bare weights.
    """

    def __init__(self, count: int, hidden: int, width: int, dtype: torch.dtype) -> None:
        self.count, self.hidden, self.width, self.dtype = count, hidden, width, dtype
        self.device = torch.device("cpu")
        self._packed: list[tuple[torch.ScriptObject, torch.ScriptObject] | None] = [None] * count
        self._scratch = (torch.empty(0), torch.empty(0))

    @property
    def nbytes(self) -> int:
        return self.count * 3 * self.hidden * self.width * 2

    def slot(self, expert: int) -> tuple[Tensor, Tensor]:
        if not len(self._scratch[0]):
            self._scratch = torch.empty(2 * self.width, self.hidden), torch.empty(self.hidden, self.width)
        return self._scratch

    def seal(self, expert: int) -> None:
        gate_up, down = self._scratch
        pack = torch.ops.quantized.linear_prepack_fp16
        self._packed[expert] = pack(gate_up, None), pack(down, None)
        if expert == self.count - 1:
            self._scratch = torch.empty(0), torch.empty(0)

    def run(self, x: Tensor, rows: Tensor, counts: Tensor, activation: Activation) -> Tensor:
        out = torch.empty(len(rows), self.hidden, dtype=x.dtype)
        multiply = torch.ops.quantized.linear_dynamic_fp16
        start = 0
        for expert, count in enumerate(counts.tolist()):
            if count == 0:
                continue
            packed = self._packed[expert]
            if packed is None:
                raise RuntimeError(f"expert {expert} was never loaded")
            end = start + count
            both = multiply(x[rows[start:end]].float(), packed[0])
            gated = activation(both[:, : self.width]).mul_(both[:, self.width :])
            out[start:end] = multiply(gated, packed[1])
            start = end
        return out


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
