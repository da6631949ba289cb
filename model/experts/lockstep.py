"""Ranks of a replica that never wait for ever: who has nothing to do joins the others' steps with no tokens.

Every mixture-of-experts layer is a collective, so all ranks must run the same number of forwards. Each rank's loop:

    while lockstep.step(has_work := bool(queue)):
        if has_work:
            model(...)          # one forward
        else:
            lockstep.idle()     # the same collectives, without tokens
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from model.experts.layer import ExpertParallel, ShardedExperts


class Lockstep:
    """Keeps the ranks of one model in step. For a dense model, or a single rank, it costs nothing."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, ShardedExperts)]
        self.parallel: ExpertParallel | None = self.layers[0].parallel if self.layers else None

    def step(self, has_work: bool) -> bool:
        """Whether any rank has work, so that all must run (or idle) one more forward. Collective.

        One integer is all_reduced. All ranks get the same answer: False ends all their loops together.
        """
        parallel = self.parallel
        if parallel is None or parallel.group is None or parallel.ranks == 1:
            return has_work
        flag = torch.tensor([int(has_work)], dtype=torch.int32, device=self.layers[0].weights.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=parallel.group)
        return bool(flag.item())

    def idle(self) -> None:
        """One forward of nothing: joins the collectives of each layer with zero tokens."""
        for layer in self.layers:
            layer.idle()
