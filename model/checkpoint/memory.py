"""What a model needs in memory, per rank and part, worked out on the meta device: nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from model.experts.layer import ShardedExperts
from model.experts.placement import Placement

PARTS = ("experts", "attention", "dense layers", "routers and norms", "embeddings", "vision")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the fullest rank, by part, for one number of ranks."""

    ranks: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def weights_memory(model: nn.Module, ranks: int, dtype: torch.dtype) -> Memory:
    """Bytes of weights in `dtype` on the fullest of `ranks` ranks, experts placed contiguously.

    `model`: planned for one rank (`plan_model`), on any device. A dense model is whole on every rank.
    Raises ModelError where the experts cannot be split so.
    """
    parts = dict.fromkeys(PARTS, 0)
    seen: set[int] = set()
    for name, parameter in model.named_parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            parts[_part(name)] += parameter.numel() * dtype.itemsize
    for module in model.modules():
        if isinstance(module, ShardedExperts):
            experts = module.parallel.placement.experts
            held = Placement.contiguous(1, experts, ranks).held[0]
            parts["experts"] += max(map(len, held)) * (module.weights.nbytes // module.weights.count)
    return Memory(ranks, parts)


def kv_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token keeps, all layers together."""
    text = config.text_config
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * dtype.itemsize)


def _part(name: str) -> str:
    if ".visual." in name:
        return "vision"
    if "embed_tokens" in name or name.startswith("lm_head"):
        return "embeddings"
    if ".self_attn." in name and "norm" not in name:
        return "attention"
    if ".mlp." in name and ".gate.weight" not in name:
        return "dense layers"
    return "routers and norms"
