"""What the benchmarks of the experts share: one layer of 30B-A3B, random weights, routed tokens, and a clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.experts.compute import ExpertWeights
from model.experts.layer import ExpertParallel, ShardedExperts
from model.experts.placement import Placement

HIDDEN, WIDTH, EXPERTS, TOP = 2048, 768, 128, 8  # one layer of 30B-A3B
EXPERT_BYTES = 3 * HIDDEN * WIDTH * 2  # in bf16
EXPERT_FLOPS = 6 * HIDDEN * WIDTH  # of one token through one expert


def read_speed() -> float:
    """GB/s of one thread reading: a sum over 256 MiB."""
    big = torch.ones(64 << 20)
    return big.nbytes / cpu_seconds(big.sum, 5) / 1e9


def sharded(weights: ExpertWeights, placement: Placement, rank: int = 0, group: Any = None) -> ShardedExperts:
    return ShardedExperts(ExpertParallel(placement, rank, group), 0, weights, TOP, F.silu)


def random_experts(weights: ExpertWeights, count: int) -> ExpertWeights:
    """The same random matrices in the place of every expert: as slow to read and multiply as different ones."""
    values = [torch.randn(target.shape).mul_(0.02) for target in weights.slot(0)]
    for expert in range(count):
        for target, value in zip(weights.slot(expert), values, strict=True):
            target.copy_(value)
        weights.seal(expert)
    return weights


def routed(tokens: int, seed: int, zipf: float = 0.0, experts: int = EXPERTS) -> tuple[Tensor, Tensor, Tensor]:
    """Random tokens in bf16 and a router's choices: expert e is chosen in proportion to (1 + e) ** -zipf."""
    generator = torch.Generator().manual_seed(seed)
    popularity = (1.0 + torch.arange(experts)) ** -zipf
    # The largest of log-popularity plus Gumbel noise: sampling without replacement.
    noise = -torch.log(-torch.log(torch.rand(tokens, experts, generator=generator)))
    shares, chosen = (popularity.log() + noise).topk(TOP)
    x = torch.randn(tokens, HIDDEN, generator=generator).bfloat16()
    return x, chosen, shares.softmax(-1).bfloat16()


def cpu_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median CPU time of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return median(times[1:])
