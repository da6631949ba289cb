"""bf16 checkpoints on CPUs without bf16 instructions: weights packed as fp16, everything else computed in float32.

torch's bf16 products reach a tenth of its float32 speed on such a CPU. FBGEMM's packing keeps the size of bf16 and runs
at float32 speed or better (`python -m jobs.bench.experts --only model`); a bf16 weight is exact in fp16 from 6.1e-5 to
65504, smaller ones are rounded to multiples of 6.0e-8. Activations, norms and attention are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.experts.forms import can_pack, multiplies


def pays(stored: torch.dtype, device: torch.device) -> bool:
    """Whether weights of this dtype are better packed on this device."""
    half = stored in (torch.bfloat16, torch.float16)
    return half and device.type == "cpu" and not multiplies(stored) and can_pack()


class PackedLinear(nn.Module):
    """In the place of `nn.Linear`: float32 in and out, weight [out, in] packed as fp16. Not for training."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        self.nbytes = weight.numel() * 2 + (0 if bias is None else bias.nbytes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        result: Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, self._packed)
        return result.view(*x.shape[:-1], self.out_features)
