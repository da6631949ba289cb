"""Which rank holds which experts of each layer: contiguous, or computed from measured load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError


@dataclass(frozen=True, slots=True)
class Placement:
    """`held[layer][rank]`: the experts of that rank, in the order of its slots. An expert may be on several ranks.

    `layer` counts mixture-of-experts layers only. Every expert of every layer is held by at least one rank.
    """

    experts: int
    held: tuple[tuple[tuple[int, ...], ...], ...]

    def __post_init__(self) -> None:
        if not self.held or not self.held[0]:
            raise ModelError("expert placement: it has no layers or no ranks")
        for layer, ranks in enumerate(self.held):
            for rank, slots in enumerate(ranks):
                if len(set(slots)) != len(slots) or not all(0 <= expert < self.experts for expert in slots):
                    raise ModelError(f"expert placement: layer {layer}, rank {rank} holds impossible experts")
            if len(ranks) != self.ranks or {expert for slots in ranks for expert in slots} != set(range(self.experts)):
                raise ModelError(f"expert placement: layer {layer} does not place every expert on {self.ranks} ranks")

    @property
    def layers(self) -> int:
        return len(self.held)

    @property
    def ranks(self) -> int:
        return len(self.held[0])

    @classmethod
    def contiguous(cls, layers: int, experts: int, ranks: int) -> Placement:
        """Rank r holds experts [r*E/N, (r+1)*E/N) of each layer (rounded down where N does not divide E)."""
        if not 1 <= ranks <= experts:
            raise ModelError(f"{experts} experts cannot be split across {ranks} ranks: use 1 to {experts} ranks")
        cuts = [rank * experts // ranks for rank in range(ranks + 1)]
        one = tuple(tuple(range(cuts[rank], cuts[rank + 1])) for rank in range(ranks))
        return cls(experts, (one,) * layers)

    @classmethod
    def measured(cls, load: npt.ArrayLike, ranks: int, replicas: int = 0) -> Placement:
        """Balance the measured `load` [layers, experts] (tokens routed to each expert), each layer by itself.

        `replicas`: additional copies per layer, given one by one to the expert with the most load per copy. Copies
        are placed heaviest first on the least loaded rank that has room and does not hold that expert; every rank
        gets the same number of slots (or one less). This is the greedy balancing of DeepSeek's EPLB
        (https://github.com/deepseek-ai/eplb) on longest-processing-time packing (Graham 1969).
        """
        table = np.asarray(load, dtype=np.float64)
        layers, experts = table.shape
        if not 1 <= ranks <= experts:
            raise ModelError(f"{experts} experts cannot be split across {ranks} ranks: use 1 to {experts} ranks")
        if not 0 <= replicas <= experts * (ranks - 1):
            raise ModelError(f"{replicas} replicas of {experts} experts do not fit on {ranks} ranks, one of each")
        if not np.isfinite(table).all() or (table < 0).any():
            raise ModelError("expert placement: the measured load has values that are no token counts")
        return cls(experts, tuple(_balance(table[layer], ranks, replicas) for layer in range(layers)))

    def to_json(self) -> str:
        return json.dumps({"experts": self.experts, "held": self.held})

    @classmethod
    def from_json(cls, text: str) -> Placement:
        """Raises ModelError for text that is no placement."""
        try:
            value: Any = json.loads(text)
            held = tuple(tuple(tuple(map(int, slots)) for slots in ranks) for ranks in value["held"])
            return cls(int(value["experts"]), held)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise ModelError(f"expert placement: not a placement file ({str(error)[:100]})") from error


def _balance(load: npt.NDArray[np.float64], ranks: int, replicas: int) -> tuple[tuple[int, ...], ...]:
    copies = np.ones(len(load), dtype=np.int64)
    for _ in range(replicas):
        share = np.where(copies < ranks, load / copies, -1.0)
        copies[int(share.argmax())] += 1
    slots = len(load) + replicas
    room = [(rank + 1) * slots // ranks - rank * slots // ranks for rank in range(ranks)]
    carried = [0.0] * ranks
    held: list[list[int]] = [[] for _ in range(ranks)]
    for expert in sorted(range(len(load)), key=lambda expert: (-load[expert] / copies[expert], expert)):
        for _ in range(copies[expert]):
            fits = [rank for rank in range(ranks) if room[rank] > len(held[rank]) and expert not in held[rank]]
            # Near the end the ranks with room may all hold this expert: then one gets a slot more than planned.
            fits = fits or [rank for rank in range(ranks) if expert not in held[rank]]
            rank = min(fits, key=lambda rank: (carried[rank], rank))
            held[rank].append(expert)
            carried[rank] += load[expert] / copies[expert]
    return tuple(tuple(sorted(slots)) for slots in held)


def imbalance(load: Sequence[float] | npt.NDArray[Any]) -> float:
    """Largest load over mean load: 1.0 is balanced. 1.0 for no load at all."""
    values = np.asarray(load, dtype=np.float64)
    return float(values.max() / values.mean()) if values.sum() > 0 else 1.0
