"""A checkpoint becomes a model: transformers' Qwen3-VL with the experts of each layer sharded across ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from model.checkpoint.fill import Filler
from model.checkpoint.index import Checkpoint, open_checkpoint
from model.checkpoint.layout import ExpertReads
from model.checkpoint.packed import PackedLinear, pays
from model.checkpoint.plan import Plan, plan_model, stored_dtype
from model.checkpoint.skeleton import parse_config
from model.experts.fp8 import Fp8Experts
from model.experts.layer import ExpertParallel, ShardedExperts
from model.experts.lockstep import Lockstep
from model.experts.placement import Placement


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
    keep_fp8: bool | None = None,
    bits: int | None = None,
    fp8_arithmetic: bool = False,
) -> LoadedModel:
    """Load the share of one rank: its experts of every layer and all the rest.

    `path`: a local directory, an fsspec URI or a hub id. `group`: the process group of the replica's ranks (gloo on
    CPUs, NCCL on GPUs), needed where `ranks` > 1. `dtype`: of weights and activations; by default the checkpoint's own,
    but on CPUs that cannot multiply it float32 with packed weights (see packed.py; the ranks agree on it: collective).
    `placement`: which rank holds which experts, by default contiguous. `keep_fp8`: whether experts stored in
    block-scaled FP8 stay so in memory, by default on GPUs only (all else is dequantised). `bits`: 8 or 4, to
    quantise the experts while they are read (the rest stays in `dtype`). `fp8_arithmetic`: experts stored in FP8 are
    multiplied in FP8 where the device can (elsewhere they are widened). Host memory peaks at the share of this rank
    plus little more than one matrix. Raises ModelError naming what is missing, extra, misshapen or not to be believed.
    """
    device = torch.device(device)
    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config, checkpoint.path)
    packed = dtype is None and _all_ranks(pays(stored_dtype(config), device), device, ranks, group)
    dtype = dtype or (torch.float32 if packed else stored_dtype(config))
    keep_fp8 = device.type == "cuda" if keep_fp8 is None else keep_fp8
    plan = plan_model(
        checkpoint,
        config,
        rank,
        ranks,
        group,
        dtype,
        device,
        placement,
        attention,
        keep_fp8,
        packed,
        bits,
        fp8_arithmetic,
    )
    filler = Filler(checkpoint.source, plan.block)
    _fill_parameters(plan, filler, dtype, device, packed)
    for module, reads in plan.experts:
        for slot, expert in enumerate(module.parallel.placement.held[module.layer][rank]):
            _fill_expert(module, slot, reads[expert], filler)
    for part in plan.model.modules():
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)
    return LoadedModel(plan.model, config, checkpoint, rank, ranks, device, dtype, plan.parallel, Lockstep(plan.model))


def _all_ranks(wanted: bool, device: torch.device, ranks: int, group: dist.ProcessGroup | None) -> bool:
    """Whether every rank wants it: they exchange activations, so they must compute in one dtype."""
    if ranks == 1 or group is None:
        return wanted
    flag = torch.tensor([int(wanted)], device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN, group=group)
    return bool(flag.item())


def _fill_parameters(plan: Plan, filler: Filler, dtype: torch.dtype, device: torch.device, packed: bool) -> None:
    model, reads = plan.model, plan.parameters

    def filled(name: str) -> torch.Tensor:
        target = torch.empty(model.get_parameter(name).shape, dtype=dtype, device=device)
        filler.fill(reads[name], target)
        return target

    for name in reads:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if not packed or not isinstance(module, nn.Linear | PackedLinear):
            setattr(module, leaf, nn.Parameter(filled(name), requires_grad=False))
        elif leaf == "weight":
            bias = filled(f"{owner}.bias") if f"{owner}.bias" in reads else None
            model.set_submodule(owner, PackedLinear(filled(name), bias))
    if "lm_head.weight" not in reads:
        model.lm_head.weight = model.get_input_embeddings().weight


def _fill_expert(module: ShardedExperts, slot: int, reads: ExpertReads, filler: Filler) -> None:
    weights = module.weights
    gate_up, down = weights.slot(slot)
    targets = [*zip(reads.gate_up, gate_up.chunk(len(reads.gate_up)), strict=True), (reads.down, down)]
    if isinstance(weights, Fp8Experts):
        gate_up_scale, down_scale = weights.scales(slot)
        scales = [*gate_up_scale.chunk(len(reads.gate_up)), down_scale]
        for (read, target), scale in zip(targets, scales, strict=True):
            filler.fill(replace(read, scale=None), target)
            assert read.scale is not None
            filler.fill(replace(read, stored=read.scale, scale=None), scale)
    else:
        for read, target in targets:
            filler.fill(read, target)
    weights.seal(slot)
