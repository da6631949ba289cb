"""Vision features, computed once for each content.

The vision tower sees each temporal pair of frames alone, so a pair's features depend on its pixels only: static
cameras, slides, overlapping windows and repeated videos are recognised by a hash of the pixels and not computed again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from model.qwen3_vl.patches import patchify
from model.qwen3_vl.sizes import PatchConfig


@dataclass(frozen=True, slots=True)
class Features:
    """Of one temporal pair: `levels` [1 + D, tokens, hidden], the tower's output and its D DeepStack outputs."""

    levels: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.levels.nbytes


class FeatureCache:
    """The features used last, up to `limit_bytes`, by content."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self.hits = self.misses = 0
        self._entries: OrderedDict[bytes, Features] = OrderedDict()

    def get(self, key: bytes) -> Features | None:
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._entries.move_to_end(key)
        return found

    def put(self, key: bytes, features: Features) -> None:
        if features.nbytes > self.limit_bytes or key in self._entries:
            return
        self._entries[key] = features
        self.held_bytes += features.nbytes
        while self.held_bytes > self.limit_bytes:
            _, dropped = self._entries.popitem(last=False)
            self.held_bytes -= dropped.nbytes


class VisionEncoder:
    """The vision tower behind the cache.

    `tower`: transformers' `Qwen3VL(Moe)VisionModel`. `batch_patches`: patches that go through it at once.
    """

    def __init__(self, tower: Any, config: PatchConfig, cache: FeatureCache, batch_patches: int = 16_384) -> None:
        self.tower, self.config, self.cache, self.batch_patches = tower, config, cache, batch_patches

    @torch.inference_mode()
    def encode(self, videos: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Resized videos, each uint8 [T', 3, h, w] -> features of each, [1 + D, tokens, hidden]."""
        pairs = [pair for video in videos for pair in video.split(self.config.temporal)]
        keys = [_content_key(pair) for pair in pairs]
        known: dict[bytes, Features] = {}
        missing: dict[bytes, torch.Tensor] = {}
        for key, pair in zip(keys, pairs, strict=True):
            if key in known or key in missing:
                self.cache.hits += 1
            elif (found := self.cache.get(key)) is not None:
                known[key] = found
            else:
                missing[key] = pair
        for part in self._parts(missing):
            for key, features in zip(part, self._compute([missing[key] for key in part]), strict=True):
                known[key] = features
                self.cache.put(key, features)
        of_pair = iter(keys)
        return [
            torch.cat([known[next(of_pair)].levels for _ in range(len(video) // self.config.temporal)], dim=1)
            for video in videos
        ]

    def _parts(self, missing: dict[bytes, torch.Tensor]) -> list[list[bytes]]:
        """Keys in parts of at most `batch_patches` patches (one pair at least)."""
        parts: list[list[bytes]] = []
        room = 0
        for key, pair in missing.items():
            patches = pair.shape[2] * pair.shape[3] // self.config.patch**2
            if not parts or patches > room:
                parts.append([])
                room = self.batch_patches
            parts[-1].append(key)
            room -= patches
        return parts

    def _compute(self, pairs: list[torch.Tensor]) -> list[Features]:
        weight = self.tower.patch_embed.proj.weight
        patches = torch.cat([patchify(pair.to(weight.device), self.config)[0] for pair in pairs]).to(weight.dtype)
        sides = [(pair.shape[2] // self.config.patch, pair.shape[3] // self.config.patch) for pair in pairs]
        grid = torch.tensor([[1, h, w] for h, w in sides], device=weight.device)
        out = self.tower(patches, grid_thw=grid, return_dict=True)
        levels = torch.stack([out.pooler_output, *out.deepstack_features])
        tokens = [h * w // self.config.merge**2 for h, w in sides]
        # Copies, so that a cached pair does not keep its whole batch alive.
        return [Features(part.clone()) for part in levels.split(tokens, dim=1)]


def _content_key(pair: torch.Tensor) -> bytes:
    """Hash of the pixels of a pair uint8 [2, 3, h, w] and of its shape."""
    digest = hashlib.blake2b(repr(tuple(pair.shape)).encode(), digest_size=16)
    digest.update(pair.permute(0, 2, 3, 1).contiguous().numpy().data)  # the order in which resize leaves them
    return digest.digest()
