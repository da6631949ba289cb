"""What a Qwen3-VL model needs in memory, before any machine is asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

FP8_BLOCK = (128, 128)  # of the official FP8 checkpoints: one scale for each block of an expert's weights
PRECISIONS = ("bf16", "float16", "float32", "fp8", "int8", "int4")
BITS = {"int8": 8, "int4": 4}  # of the experts; the rest stays as stored


@dataclass(frozen=True, slots=True)
class Shape:
    """A model without weights. `skeleton`: on the meta device, whole, with its experts as they would lie in memory.

    `dtype`: of everything but experts that stay in FP8 (`fp8`) or are held in few `bits`. `tensors`: of the checkpoint,
    all accounted for; None for a published size. `fp8_products`: experts are multiplied in FP8 where the card can.
    """

    name: str
    config: Any
    skeleton: Any
    dtype: torch.dtype
    fp8: bool
    tensors: int | None
    bits: int | None = None
    fp8_products: bool = False

    @property
    def precision(self) -> str:
        base = str(self.dtype).removeprefix("torch.")
        return f"fp8 experts, {base}" if self.fp8 else f"int{self.bits} experts, {base}" if self.bits else base


def model_shape(model: str, precision: str | None = None) -> Shape:
    """The model that `model` names: a checkpoint (nothing of its weights is read), or a published size.

    `precision`: None as stored; fp8: experts stay in FP8 where the checkpoint (or the published size's official FP8
    checkpoint) stores them so; int8, int4: experts are quantised while they are read, and held as on a GPU. Raises
    ModelError for a checkpoint that does not fit its configuration, UsageError for a precision that it cannot have.
    """
    import torch

    from model.checkpoint.index import open_checkpoint
    from model.checkpoint.plan import check_quantisable, plan_model, plan_shape, stored_dtype
    from model.checkpoint.published import PUBLISHED, published_config
    from model.checkpoint.skeleton import parse_config
    from model.experts.fp8 import Fp8Experts
    from model.experts.layer import ShardedExperts
    from model.experts.widened import LowBitExperts

    named = {"bf16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    chosen, bits = named.get(precision or ""), BITS.get(precision or "")
    if model in PUBLISHED:
        config = parse_config(published_config(model), model)
        dtype = chosen or stored_dtype(config)
        skeleton = plan_shape(config, model, dtype)
        layers = [m for m in skeleton.modules() if isinstance(m, ShardedExperts)]
        if precision == "fp8":
            if not layers:
                raise UsageError(
                    f"--precision fp8: {model} is a dense model; its experts would stay in FP8, it has none"
                )
            text = config.text_config
            for layer in layers:
                layer.weights = Fp8Experts(
                    text.num_experts, text.hidden_size, text.moe_intermediate_size, FP8_BLOCK, dtype, "meta"
                )
        if bits is not None:
            check_quantisable(config, bool(layers), model)
            text = config.text_config
            for layer in layers:
                layer.weights = LowBitExperts(
                    text.num_experts, text.hidden_size, text.moe_intermediate_size, bits, dtype, "meta"
                )
        return Shape(model, config, skeleton, dtype, precision == "fp8", None, bits, precision == "fp8")
    checkpoint = open_checkpoint(model)
    config = parse_config(checkpoint.config, checkpoint.path)
    dtype = chosen or stored_dtype(config)
    skeleton = plan_model(checkpoint, config, dtype=dtype, keep_fp8=chosen is None, bits=bits).model
    stays = any(isinstance(m, ShardedExperts) and isinstance(m.weights, Fp8Experts) for m in skeleton.modules())
    if precision == "fp8" and not stays:
        raise ModelError(f"{model}: --precision fp8: its experts are not stored in FP8 with whole blocks")
    return Shape(model, config, skeleton, dtype, stays, len(checkpoint.tensors), bits, precision == "fp8")


def forecast_memory(model: str, ranks: list[int], precision: str | None = None) -> dict[str, Any]:
    """Bytes of weights of the fullest rank by part, and of keys and values per token.

    Raises ModelError for a checkpoint that does not fit its configuration, or ranks that cannot hold the experts.
    """
    from model.checkpoint.memory import kv_bytes_per_token, weights_memory

    shape = model_shape(model, precision)
    return {
        "model": model,
        "precision": shape.precision,
        "tensors_checked": shape.tensors,
        "kv_bytes_per_token": kv_bytes_per_token(shape.config, shape.dtype),
        "ranks": {
            str(memory.ranks): {**memory.parts, "total": memory.total}
            for memory in (weights_memory(shape.skeleton, count, shape.dtype) for count in ranks)
        },
    }
