"""What the router and the exchange did: tokens per expert and layer, bytes, seconds. Cheap enough to stay on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from model.experts.compute import tally
from model.experts.placement import Placement, imbalance

Phase = Literal["dispatch", "compute", "combine"]


@dataclass(frozen=True, slots=True)
class Routing:
    """A snapshot of one rank. `tokens[layer][expert]`: its own tokens routed there (each counts top-k times)."""

    tokens: list[list[int]]
    bytes_sent: int
    seconds: dict[str, float]
    forwards: int

    def load_imbalance(self, placement: Placement) -> float:
        """Largest over mean load of the ranks, layers averaged, were these tokens all there is (1.0: balanced)."""
        per_layer = []
        for counts, ranks in zip(self.tokens, placement.held, strict=True):
            copies = [sum(expert in held for held in ranks) for expert in range(placement.experts)]
            per_layer.append(imbalance([sum(counts[e] / copies[e] for e in held) for held in ranks]))
        return sum(per_layer) / len(per_layer) if per_layer else 1.0

    def expert_imbalance(self) -> float:
        """Largest over mean load of the experts, layers averaged."""
        return sum(map(imbalance, self.tokens)) / len(self.tokens) if self.tokens else 1.0


class RoutingMetrics:
    """Counts of one rank since the start or the last `reset`."""

    def __init__(self, layers: int, experts: int, device: torch.device | str = "cpu") -> None:
        self.tokens = torch.zeros(layers, experts, dtype=torch.int64, device=device)
        self.reset()

    def reset(self) -> None:
        self.tokens.zero_()
        self.bytes_sent = 0
        self.forwards = 0
        self._seconds: dict[str, float] = {"dispatch": 0.0, "compute": 0.0, "combine": 0.0}
        self._pending: list[tuple[Phase, Any, Any]] = []

    def count(self, layer: int, chosen: Tensor) -> None:
        """Add the router's choices [T, k] of one layer."""
        self.tokens[layer] += tally(chosen.reshape(-1), self.tokens.shape[1])
        self.forwards += layer == 0

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Add the time of a block: wall seconds on a CPU, the device's own on CUDA (read at the next snapshot)."""
        if self.tokens.is_cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._pending.append((phase, begin, end))
            if len(self._pending) > 4096:
                self._settle()
        else:
            started = time.perf_counter()
            yield
            self._seconds[phase] += time.perf_counter() - started

    def snapshot(self) -> Routing:
        self._settle()
        return Routing(self.tokens.tolist(), self.bytes_sent, dict(self._seconds), self.forwards)

    def _settle(self) -> None:
        for phase, begin, end in self._pending:
            end.synchronize()
            self._seconds[phase] += begin.elapsed_time(end) / 1e3
        self._pending.clear()
