"""A checkpoint becomes a model: transformers' Qwen3-VL with the experts of each layer sharded across ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.activations import ACT2FN

from model.checkpoint.fill import fill
from model.checkpoint.fp8 import block_size
from model.checkpoint.index import Checkpoint, open_checkpoint
from model.checkpoint.layout import ExpertReads, ExpertShape, Layout, Read
from model.checkpoint.skeleton import build_skeleton, parse_config
from model.experts.compute import best_form
from model.experts.layer import ExpertParallel, ShardedExperts
from model.experts.lockstep import Lockstep
from model.experts.placement import Placement
from pipeline.errors import ModelError


@dataclass
class LoadedModel:
    """One rank's model, ready to run under `torch.inference_mode()`.

    `model` is transformers' Qwen3VL(Moe)ForConditionalGeneration. `parallel` is None for a dense model. Where there
    are several ranks all of them must run the same number of forwards: drive them by `lockstep`.
    """

    model: Any
    config: Any
    checkpoint: Checkpoint
    rank: int
    ranks: int
    device: torch.device
    dtype: torch.dtype
    parallel: ExpertParallel | None
    lockstep: Lockstep


def load_qwen3_vl(
    path: str,
    rank: int = 0,
    ranks: int = 1,
    group: dist.ProcessGroup | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    placement: Placement | None = None,
    attention: str = "sdpa",
) -> LoadedModel:
    """Load the share of one rank: its experts of every layer and all the rest.

    `path`: a local directory, an fsspec URI or a hub id. `group`: the process group of the replica's ranks (gloo on
    CPUs, NCCL on GPUs), needed where `ranks` > 1. `dtype`: of the weights, by default the checkpoint's own.
    `placement`: which rank holds which experts, by default contiguous. Host memory peaks at the share of this rank
    plus little more than one matrix. Raises ModelError naming what is missing, extra, misshapen or not to be believed.
    """
    device = torch.device(device)
    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config, checkpoint.path)
    dtype = dtype or stored_dtype(config)
    plan = plan_model(checkpoint, config, rank, ranks, group, dtype, device, placement, attention)
    _fill_parameters(plan, checkpoint, dtype, device)
    for module, reads in plan.experts:
        for slot, expert in enumerate(plan.held[module.layer]):
            _fill_expert(module, slot, reads[expert], checkpoint, plan.block)
    for part in plan.model.modules():
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)
    return LoadedModel(plan.model, config, checkpoint, rank, ranks, device, dtype, plan.parallel, Lockstep(plan.model))


@dataclass
class Plan:
    """A model without weights, and what is to be read for them. `held[layer]`: the experts of this rank."""

    model: Any
    block: tuple[int, int] | None
    parameters: dict[str, Read]
    experts: list[tuple[ShardedExperts, list[ExpertReads]]]
    held: list[tuple[int, ...]]
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
) -> Plan:
    """Build the model and map every tensor of the checkpoint to it, reading none.

    On the meta device nothing is allocated: a dry run of any size. Raises ModelError as `load_qwen3_vl`.
    """
    model: Any = build_skeleton(config, attention, checkpoint.path)
    block = block_size(checkpoint.config, checkpoint.path)
    layout = Layout(checkpoint, block)
    parallel = shard_experts(model, config, rank, ranks, group, dtype, torch.device(device), placement)
    parameters = _plan_parameters(model, layout, config)
    experts = _plan_experts(model, layout)
    layout.refuse_extra()
    held = [slots[rank] for slots in parallel.placement.held] if parallel else []
    return Plan(model, block, parameters, experts, held, parallel)


def _fill_parameters(plan: Plan, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
    for name, read in plan.parameters.items():
        target = torch.empty(plan.model.get_parameter(name).shape, dtype=dtype, device=device)
        fill(checkpoint.source, read, plan.block, target)
        owner, _, leaf = name.rpartition(".")
        setattr(plan.model.get_submodule(owner), leaf, nn.Parameter(target, requires_grad=False))
    if "lm_head.weight" not in plan.parameters:
        plan.model.lm_head.weight = plan.model.get_input_embeddings().weight


def _fill_expert(
    module: ShardedExperts, slot: int, reads: ExpertReads, checkpoint: Checkpoint, block: tuple[int, int] | None
) -> None:
    gate_up, down = module.weights.slot(slot)
    for part, read in zip(gate_up.chunk(len(reads.gate_up)), reads.gate_up, strict=True):
        fill(checkpoint.source, read, block, part)
    fill(checkpoint.source, reads.down, block, down)
    module.weights.seal(slot)


def stored_dtype(config: Any) -> torch.dtype:
    """The dtype that config.json names; bfloat16 where it names none that can be computed with."""
    named = getattr(config, "dtype", None) or getattr(config.text_config, "dtype", None)
    if isinstance(named, str):
        named = getattr(torch, named, None)
    return named if named in (torch.float32, torch.bfloat16, torch.float16) else torch.bfloat16


def shard_experts(
    model: nn.Module,
    config: Any,
    rank: int,
    ranks: int,
    group: dist.ProcessGroup | None,
    dtype: torch.dtype,
    device: torch.device,
    placement: Placement | None,
) -> ExpertParallel | None:
    """Put ours in the place of every experts module, so that the full one never has memory."""
    blocks = [module for module in model.modules() if type(module).__name__ == "Qwen3VLMoeTextSparseMoeBlock"]
    if not blocks:
        return None
    text = config.text_config
    placement = placement or Placement.contiguous(len(blocks), text.num_experts, ranks)
    if (placement.layers, placement.experts, placement.ranks) != (len(blocks), text.num_experts, ranks):
        raise ModelError(
            f"expert placement: made for {placement.layers} layers of {placement.experts} experts on {placement.ranks} "
            f"ranks, this model has {len(blocks)} of {text.num_experts} on {ranks}"
        )
    parallel = ExpertParallel(placement, rank, group, device)
    for layer, moe in enumerate(blocks):
        held = len(placement.held[layer][rank])
        weights = best_form(held, text.hidden_size, text.moe_intermediate_size, dtype, device)
        moe.experts = ShardedExperts(parallel, layer, weights, text.num_experts_per_tok, ACT2FN[text.hidden_act])
    return parallel


def _plan_parameters(model: nn.Module, layout: Layout, config: Any) -> dict[str, Read]:
    reads = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name == "lm_head.weight" and config.tie_word_embeddings and not layout.has(name):
            continue
        reads[name] = layout.parameter(name, parameter.shape)
    return reads


def _plan_experts(model: nn.Module, layout: Layout) -> list[tuple[ShardedExperts, list[ExpertReads]]]:
    plans = []
    for prefix, module in model.named_modules():
        if isinstance(module, ShardedExperts):
            shape = ExpertShape(module.parallel.placement.experts, module.weights.hidden, module.weights.width)
            plans.append((module, layout.experts(prefix, shape)))
    return plans
