"""Block-scaled FP8 weights: one float scale per block of (usually) 128 x 128 values, `<name>_scale_inv` beside them.

Format: `quantization_config = {"quant_method": "fp8", "weight_block_size": [128, 128]}` in config.json, as DeepSeek-V3
introduced it (https://arxiv.org/abs/2412.19437, section 3.3.2); despite its name the scale is multiplied.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.errors import ModelError

SCALE_SUFFIX = "_scale_inv"


def block_size(config: dict[str, Any], path: str) -> tuple[int, int] | None:
    """The scale blocks of a checkpoint, None where it is not quantised. Raises ModelError for other quantisations."""
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    where = f"{path}/config.json"
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method != "fp8":
        raise ModelError(f"{where}: quantised as {method!a}: only block-scaled fp8 and plain weights are read")
    block = quantization.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and 0 < n <= 1 << 20 for n in block):
        raise ModelError(f"{where}: weight_block_size is {ascii(block)[:80]}, expected two sizes such as [128, 128]")
    return block[0], block[1]


def scale_shape(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """The shape of the scales of a weight [..., rows, columns]: blocks at the edges may be cut off."""
    return *shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1])


def dequantise(weight: Tensor, scale: Tensor, block: tuple[int, int], out: Tensor) -> None:
    """Write `weight` [rows, columns] times its scale blocks into `out`, a strip of blocks at a time."""
    rows, columns = weight.shape
    for strip in range(scale.shape[0]):
        part = slice(strip * block[0], min(rows, (strip + 1) * block[0]))
        factors = scale[strip].float().repeat_interleave(block[1])[:columns]
        out[part] = weight[part].float() * factors
