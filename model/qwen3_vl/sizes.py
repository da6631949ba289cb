"""How large Qwen3-VL sees frames: what the checkpoint's preprocessor file says, and the resize policy. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Any

from pipeline.errors import ModelError


@dataclass(frozen=True, slots=True)
class PatchConfig:
    """What the checkpoint's video preprocessor file says. Defaults are those of the published checkpoints.

    `min_pixels` and `max_pixels` bound frames x height x width of one window (`shortest_edge` and `longest_edge` of
    the file).
    """

    patch: int = 16
    temporal: int = 2
    merge: int = 2
    min_pixels: int = 4096
    max_pixels: int = 25_165_824
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255

    @property
    def factor(self) -> int:
        """Both sides of a frame are multiples of this many px: one merged patch is one token."""
        return self.patch * self.merge

    @classmethod
    def of_files(cls, preprocessor: Mapping[str, Any] | None, vision: Mapping[str, Any]) -> PatchConfig:
        """From the parsed `video_preprocessor_config.json` (or `preprocessor_config.json`; None: absent) and the
        `vision_config` of `config.json`. Raises ModelError where the two contradict each other."""
        given = dict(preprocessor or {})
        size = given.get("size") or {}
        default = cls()
        try:
            config = cls(
                patch=int(given.get("patch_size") or vision.get("patch_size") or default.patch),
                temporal=int(given.get("temporal_patch_size") or vision.get("temporal_patch_size") or default.temporal),
                merge=int(given.get("merge_size") or vision.get("spatial_merge_size") or default.merge),
                min_pixels=int(size.get("shortest_edge") or default.min_pixels),
                max_pixels=int(size.get("longest_edge") or default.max_pixels),
                mean=_three(given.get("image_mean") or default.mean),
                std=_three(given.get("image_std") or default.std),
                rescale=float(given.get("rescale_factor") or default.rescale),
            )
        except (TypeError, ValueError, AttributeError) as e:
            raise ModelError(f"the checkpoint's preprocessor file holds a value that is not usable: {e}") from None
        for name, ours, theirs in (
            ("patch_size", config.patch, vision.get("patch_size")),
            ("temporal_patch_size", config.temporal, vision.get("temporal_patch_size")),
            ("merge_size", config.merge, vision.get("spatial_merge_size")),
        ):
            if theirs is not None and ours != theirs:
                raise ModelError(f"{name} is {ours} in the preprocessor file but {theirs} in config.json")
        if min(config.patch, config.temporal, config.merge, config.min_pixels, *config.std) <= 0:
            raise ModelError("the checkpoint's preprocessor file holds a size or a deviation that is not positive")
        return config


def _three(values: Any) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in values)
    return r, g, b


def resized(frames: int, height: int, width: int, config: PatchConfig) -> tuple[int, int]:
    """(height, width) in px that a window of `frames` frames is resized to: multiples of `config.factor`, all frames
    together within the pixel bounds, aspect ratio kept as well as that allows.

    The published policy (`smart_resize`), in the same float arithmetic. A single frame counts as a pair of two. Raises
    ModelError for an aspect ratio above 200.
    """
    frames = max(frames, config.temporal)
    factor = config.factor
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > 200:
        raise ModelError(
            f"frames of {width}x{height} px: sides differ by more than 200 times, Qwen3-VL takes none such"
        )
    h, w = round(height / factor) * factor, round(width / factor) * factor
    t = round(frames / config.temporal) * config.temporal
    if t * h * w > config.max_pixels:
        shrink = sqrt((frames * height * width) / config.max_pixels)
        h = max(factor, floor(height / shrink / factor) * factor)
        w = max(factor, floor(width / shrink / factor) * factor)
    elif t * h * w < config.min_pixels:
        grow = sqrt(config.min_pixels / (frames * height * width))
        h = ceil(height * grow / factor) * factor
        w = ceil(width * grow / factor) * factor
    return h, w
