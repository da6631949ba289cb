"""The sharded mixture-of-experts layer: takes the place of transformers' experts module, below its own router."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.experts.compute import Activation, ExpertWeights, combine, inverse, sort_pairs
from model.experts.exchange import dispatch, send_back
from model.experts.metrics import RoutingMetrics
from model.experts.placement import Placement


class ExpertParallel:
    """What the layers of one rank share: the process group, the placement, the metrics.

    With `replicated()` every rank is given the same tokens (for a batch smaller than the gang): nothing is
    dispatched, each rank computes its own experts and one all_reduce brings the results together.
    """

    def __init__(
        self,
        placement: Placement,
        rank: int = 0,
        group: dist.ProcessGroup | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if placement.ranks > 1 and (group is None or (group.size(), group.rank()) != (placement.ranks, rank)):
            raise ValueError(f"rank {rank} of {placement.ranks} needs a process group of that shape")
        self.placement, self.rank, self.group = placement, rank, group
        self.ranks = placement.ranks
        self.metrics = RoutingMetrics(placement.layers, placement.experts, device)
        self.same_tokens = False

    @contextmanager
    def replicated(self) -> Iterator[None]:
        """Within this block all ranks call the model with bit-identical tokens (broadcast them before)."""
        self.same_tokens = True
        try:
            yield
        finally:
            self.same_tokens = False


class ShardedExperts(nn.Module):
    """The experts of one layer that this rank holds. `layer` counts mixture-of-experts layers from 0."""

    def __init__(
        self, parallel: ExpertParallel, layer: int, weights: ExpertWeights, top_k: int, activation: Activation
    ) -> None:
        super().__init__()
        self.parallel, self.layer, self.weights = parallel, layer, weights
        self.top_k, self.activation = top_k, activation
        held = parallel.placement.held[layer]
        places: list[list[tuple[int, int]]] = [[] for _ in range(parallel.placement.experts)]
        for rank, experts in enumerate(held):
            for slot, expert in enumerate(experts):
                places[expert].append((rank, slot))
        most = max(map(len, places))
        table = torch.tensor([place + place[:1] * (most - len(place)) for place in places])
        self._rank_of, self._slot_of = table.to(weights.device).unbind(2)  # [experts, most]
        self._copies = torch.tensor([len(place) for place in places], device=weights.device)
        self._most = most

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Tokens [T, H], the router's choices [T, k] and their weights [T, k] to the layer's result [T, H].

        Collective where there is more than one rank; T may be 0.
        """
        parallel = self.parallel
        x = hidden_states.contiguous()
        if not parallel.same_tokens or parallel.rank == 0:
            parallel.metrics.count(self.layer, top_k_index)
        if parallel.ranks == 1:
            return self._alone(x, top_k_index, top_k_weights)
        if parallel.same_tokens:
            return self._all_reduced(x, top_k_index, top_k_weights)
        return self._dispatched(x, top_k_index, top_k_weights)

    def idle(self) -> None:
        """Take part in the other ranks' step with no tokens."""
        weights = self.weights
        chosen = torch.zeros(0, self.top_k, dtype=torch.int64, device=weights.device)
        x = torch.zeros(0, weights.hidden, dtype=weights.dtype, device=weights.device)
        self(x, chosen, torch.zeros(0, self.top_k, dtype=weights.dtype, device=weights.device))

    def _alone(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        _, slots = self._places(chosen)
        tokens = torch.arange(len(x), device=x.device).repeat_interleave(chosen.shape[1])
        outputs, order = self._compute(x, tokens, slots.reshape(-1))
        with self.parallel.metrics.timed("combine"):
            return combine(outputs, inverse(order).view_as(chosen), shares)

    def _dispatched(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        group, metrics = self.parallel.group, self.parallel.metrics
        assert group is not None
        with metrics.timed("dispatch"):
            arrived, ticket, moved = dispatch(x, *self._places(chosen), group)
        outputs, order = self._compute(arrived.x, arrived.rows, arrived.slots)
        with metrics.timed("combine"):
            home, moved_back = send_back(outputs[inverse(order)], ticket, group)
            metrics.bytes_sent += moved + moved_back
            return combine(home, ticket.where, shares)

    def _all_reduced(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        group, metrics = self.parallel.group, self.parallel.metrics
        rank_of, slots = self._places(chosen)
        mine = (rank_of.reshape(-1) == self.parallel.rank).nonzero(as_tuple=True)[0]
        outputs, order = self._compute(x, mine // chosen.shape[1], slots.reshape(-1)[mine])
        with metrics.timed("combine"):
            # Every row is zero on all ranks but one, so the sum is exact whatever its order.
            rows = x.new_zeros(chosen.numel(), x.shape[1])
            rows[mine[order]] = outputs
            dist.all_reduce(rows, group=group)
            metrics.bytes_sent += rows.nbytes * (self.parallel.ranks - 1) // self.parallel.ranks * 2
            return combine(rows, torch.arange(len(rows), device=x.device).view_as(chosen), shares)

    def _compute(self, x: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the pairs (rows, slots) sorted by slot, and that order."""
        with self.parallel.metrics.timed("compute"):
            order, counts = sort_pairs(slots, self.weights.count)
            return self.weights.run(x, rows[order], counts, self.activation), order

    def _places(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Rank and slot [T, k] of each chosen expert; the copies of a replicated one take turns by token."""
        if self._most == 1:
            return self._rank_of[:, 0][chosen], self._slot_of[:, 0][chosen]
        token = torch.arange(len(chosen), device=chosen.device)[:, None]
        copy = token % self._copies[chosen]
        return self._rank_of[chosen, copy], self._slot_of[chosen, copy]
