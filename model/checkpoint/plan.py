"""A model without weights, and what is to be read for each part of it. Reads no weights, allocates only the experts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.activations import ACT2FN

from model.checkpoint.fp8 import block_size
from model.checkpoint.index import Checkpoint
from model.checkpoint.layout import ExpertReads, ExpertShape, Layout, Read
from model.checkpoint.skeleton import build_skeleton
from model.experts.compute import ExpertWeights
from model.experts.forms import best_form
from model.experts.fp8 import Fp8Experts, can_multiply
from model.experts.layer import ExpertParallel, ShardedExperts
from model.experts.placement import Placement
from pipeline.errors import ModelError

logger = logging.getLogger(__name__)


@dataclass
class Plan:
    """`parameters` by name; `experts`: each layer's module and what every expert of that layer is read from."""

    model: Any
    block: tuple[int, int] | None
    parameters: dict[str, Read]
    experts: list[tuple[ShardedExperts, list[ExpertReads]]]
    parallel: ExpertParallel | None


def plan_model(
    checkpoint: Checkpoint,
    config: Any,
    rank: int = 0,
    ranks: int = 1,
    group: dist.ProcessGroup | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "meta",
    placement: Placement | None = None,
    attention: str = "sdpa",
    keep_fp8: bool = False,
    packed: bool = False,
    bits: int | None = None,
    fp8_arithmetic: bool = False,
) -> Plan:
    """Build the model of one rank and map every tensor of the checkpoint to it.

    On the meta device nothing at all is allocated: a dry run of any size. Raises ModelError as `load_qwen3_vl`.
    """
    device = torch.device(device)
    model: Any = build_skeleton(config, attention, checkpoint.path)
    block = block_size(checkpoint.config, checkpoint.path)
    if fp8_arithmetic and block is None:
        raise ModelError(
            f"{checkpoint.path}: is not stored in FP8: `python -m model.checkpoint.store_fp8` writes such a checkpoint"
        )
    layout = Layout(checkpoint, block)
    text = config.text_config
    blocks = sparse_blocks(model)
    parallel = expert_parallel(config, len(blocks), rank, ranks, group, device, placement) if blocks else None
    if bits is not None:
        check_quantisable(config, bool(blocks), checkpoint.path)
    experts = []
    multiply = fp8_arithmetic and block is not None and can_multiply(device, block, dtype)
    if fp8_arithmetic and not multiply and rank == 0:
        logger.warning("%s: experts are not multiplied in FP8 on %s, but in %s", checkpoint.path, device, dtype)
    for layer, (prefix, moe) in enumerate(blocks.items()):
        assert parallel is not None
        shape = ExpertShape(text.num_experts, text.hidden_size, text.moe_intermediate_size)
        reads = layout.experts(f"{prefix}.experts", shape)
        count = len(parallel.placement.held[layer][rank])
        weights: ExpertWeights
        if bits is None and keep_fp8 and block is not None and all(stays_fp8(read, shape, block) for read in reads):
            weights = Fp8Experts(count, shape.hidden, shape.width, block, dtype, device, multiply)
        else:
            weights = best_form(count, shape.hidden, shape.width, dtype, device, packed, bits)
        moe.experts = sharded(config, parallel, layer, weights)
        experts.append((moe.experts, reads))
    parameters = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied = name == "lm_head.weight" and config.tie_word_embeddings and not layout.has(name)
        if not tied:
            parameters[name] = layout.parameter(name, parameter.shape)
    layout.refuse_extra()
    return Plan(model, block, parameters, experts, parallel)


def plan_shape(config: Any, name: str, dtype: torch.dtype) -> Any:
    """The model of a configuration alone, its experts on one rank, all on the meta device."""
    model: Any = build_skeleton(config, "sdpa", name)
    text, blocks, meta = config.text_config, sparse_blocks(model), torch.device("meta")
    for layer, moe in enumerate(blocks.values()):
        parallel = expert_parallel(config, len(blocks), 0, 1, None, meta, None)
        weights = best_form(text.num_experts, text.hidden_size, text.moe_intermediate_size, dtype, meta)
        moe.experts = sharded(config, parallel, layer, weights)
    return model


def sparse_blocks(model: nn.Module) -> dict[str, Any]:
    """transformers' mixture-of-experts blocks by name, in the order of the layers."""
    named = model.named_modules()
    return {name: module for name, module in named if type(module).__name__ == "Qwen3VLMoeTextSparseMoeBlock"}


def expert_parallel(
    config: Any,
    layers: int,
    rank: int,
    ranks: int,
    group: dist.ProcessGroup | None,
    device: torch.device,
    placement: Placement | None,
) -> ExpertParallel:
    """What the layers share. Raises ModelError for a placement that was made for another model or gang."""
    experts = config.text_config.num_experts
    placement = placement or Placement.contiguous(layers, experts, ranks)
    if (placement.layers, placement.experts, placement.ranks) != (layers, experts, ranks):
        raise ModelError(
            f"expert placement: made for {placement.layers} layers of {placement.experts} experts on {placement.ranks} "
            f"ranks, this model has {layers} of {experts} on {ranks}"
        )
    return ExpertParallel(placement, rank, group, device)


def sharded(config: Any, parallel: ExpertParallel, layer: int, weights: ExpertWeights) -> ShardedExperts:
    text = config.text_config
    return ShardedExperts(parallel, layer, weights, text.num_experts_per_tok, ACT2FN[text.hidden_act])


def stays_fp8(reads: ExpertReads, shape: ExpertShape, block: tuple[int, int]) -> bool:
    """Whether an expert is stored in FP8 with whole blocks, so that its scales can be kept beside it as they are."""
    whole = all(shape.hidden % side == 0 and shape.width % side == 0 for side in block)
    return whole and block[0] == block[1] and all(read.scale is not None for read in (*reads.gate_up, reads.down))


def check_quantisable(config: Any, mixture: bool, path: str) -> None:
    """Raises ModelError for a model whose experts cannot be held in few bits."""
    if not mixture:
        raise ModelError(f"{path}: a dense model has no experts to hold in 8 or 4 bits; choose float32 or bf16")
    if config.text_config.hidden_act not in ("silu", "swish"):
        raise ModelError(f"{path}: experts in 8 or 4 bits know SiLU, not {ascii(config.text_config.hidden_act)[:40]}")


def stored_dtype(config: Any) -> torch.dtype:
    """The dtype that config.json names; bfloat16 where it names none that can be computed with."""
    named = getattr(config, "dtype", None) or getattr(config.text_config, "dtype", None)
    if isinstance(named, str):
        named = getattr(torch, named, None)
    return named if named in (torch.float32, torch.bfloat16, torch.float16) else torch.bfloat16
