"""The key-value cache of a batch: room for the whole answer is taken once, so that a step copies nothing.

transformers' DynamicCache concatenates, which copies the whole cache at every token; its StaticCache makes every step
attend over the full capacity. This one writes in place and attends over what is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

Prefix = Sequence[tuple[torch.Tensor, torch.Tensor]]  # keys and values [1, heads, P, dim] of each layer


class RoomyLayer(CacheLayerMixin):
    """Keys and values [B, heads, capacity, dim] of one layer, filled from the left."""

    def __init__(self, capacity: int, prefix: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
        super().__init__()
        self.capacity, self.filled, self._prefix = capacity, 0 if prefix is None else prefix[0].shape[2], prefix

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads, _, dim = key_states.shape
        self.keys = key_states.new_empty(batch, heads, self.capacity, dim)
        self.values = value_states.new_empty(batch, heads, self.capacity, value_states.shape[-1])
        if self._prefix is not None:
            self.keys[:, :, : self.filled] = self._prefix[0]
            self.values[:, :, : self.filled] = self._prefix[1]
            self._prefix = None
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self.filled + key_states.shape[2]
        self.keys[:, :, self.filled : end] = key_states
        self.values[:, :, self.filled : end] = value_states
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + query_length, 0

    def get_seq_length(self) -> int:
        return self.filled

    def get_max_length(self) -> int:
        return self.capacity

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows of the batch go on."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]

    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of what is filled."""
        assert self.keys is not None and self.values is not None
        return self.keys[:, :, : self.filled].clone(), self.values[:, :, : self.filled].clone()


class RoomyCache(Cache):
    """A cache for one batch. `prefix`: what all its rows begin with."""

    def __init__(self, layers: int, capacity: int, prefix: Prefix | None = None) -> None:
        self.roomy = [RoomyLayer(capacity, prefix[i] if prefix else None) for i in range(layers)]
        super().__init__(layers=list(self.roomy))

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows of the batch go on."""
        for layer in self.roomy:
            layer.keep(rows)

    def as_prefix(self) -> Prefix:
        """What this cache of one row holds, for others to begin with."""
        return [layer.held() for layer in self.roomy]
