"""In which form a rank holds the experts of a layer: the fastest for what it runs on, or one that takes less memory.

| form | where (measured by `python -m jobs.bench.experts`) |
|---|---|
| `PlainExperts` | any device and dtype that multiplies natively; CUDA uses torch's grouped_mm |
| `PackedExperts` | bf16 or fp16 weights on a CPU without such instructions: FBGEMM's fp16 packing, fp32 arithmetic |
| `Fp8Experts` | FP8 checkpoints, kept in FP8 |
| `Int8Experts` | int8 on a CPU with FBGEMM |
| `BlockExperts` | int4 on any CPU, int8 on CPUs without FBGEMM: ONNX Runtime's block-quantised products |
| `LowBitExperts` | int8 and int4 on other devices: widened where they are hit |

Of int8 and of int4 the form is the fastest at any number of rows of an expert up to 256, and within 10% of it at 512
(`--only forms`): nothing is gained by changing it with the batch, which would want the weights twice, and a token's
answer would depend on the batch that it is in.
"""

from __future__ import annotations

import torch

from model.experts.blocks import BlockExperts
from model.experts.compute import ExpertWeights, PlainExperts
from model.experts.int8 import Int8Experts
from model.experts.packed import PackedExperts
from model.experts.widened import LowBitExperts


def best_form(
    count: int,
    hidden: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    packed: bool = False,
    bits: int | None = None,
) -> ExpertWeights:
    """Empty experts in the form that is fastest for activations of this dtype on this device.

    `packed`: hold the weights in half precision although the activations are float32. `bits`: 8 or 4, of quantised
    weights; None for weights as they are.
    """
    device = torch.device(device)
    if bits is not None:
        if device.type != "cpu":
            return LowBitExperts(count, hidden, width, bits, dtype, device)
        if bits == 8 and can_pack():
            return Int8Experts(count, hidden, width, dtype)
        return BlockExperts(count, hidden, width, bits, dtype)
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
