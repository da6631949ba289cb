"""What Qwen3-VL's eye makes of a picture, as one vector: of the frames that are watched, and of a picture asked about.

The vector of a temporal pair of frames is the mean of the tower's merged tokens (those that the language model reads),
projected to `MOST_DIMENSIONS` where it is wider. The projection is a random one with a fixed seed, which keeps angles
well enough (Johnson and Lindenstrauss, 1984) and the same in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from model.checkpoint.fill import Filler
from model.checkpoint.index import open_checkpoint
from model.checkpoint.plan import plan_model
from model.checkpoint.skeleton import parse_config
from model.qwen3_vl.files import read_text_files
from model.qwen3_vl.patches import resize
from model.qwen3_vl.sizes import PatchConfig
from model.qwen3_vl.vision import FeatureCache, VisionEncoder
from pipeline.features.vectors import MOST_DIMENSIONS, FrameFeatures

#: Raised when the same weights would give other vectors.
RECIPE = "mean-1"

_VISUAL = "model.visual."


def made_by(weights_hash: str) -> str:
    """What names the vectors of a checkpoint."""
    return f"{weights_hash}:{RECIPE}"


def pooled(levels: torch.Tensor, pairs: int) -> torch.Tensor:
    """Features of a video [1 + D, pairs x tokens, hidden] -> float32 [pairs, at most MOST_DIMENSIONS], on the CPU."""
    tokens = levels[0].float()
    vectors = tokens.reshape(pairs, -1, tokens.shape[-1]).mean(1).cpu()
    return vectors if vectors.shape[1] <= MOST_DIMENSIONS else vectors @ _projection(vectors.shape[1])


@lru_cache(4)
def _projection(width: int) -> torch.Tensor:
    seeded = np.random.Generator(np.random.PCG64(width))  # its stream is the same everywhere, torch's is not promised
    drawn = seeded.standard_normal((width, MOST_DIMENSIONS), dtype=np.float64) / MOST_DIMENSIONS**0.5
    return torch.from_numpy(drawn.astype(np.float32))


def window_features(
    weights_hash: str, seen: torch.Tensor, frame_us: Sequence[int], config: PatchConfig
) -> FrameFeatures | None:
    """`seen` [pairs, D] of the frames at `frame_us` (relative to their window's start); None where they are not
    finite, or too large for float16."""
    vectors = seen.numpy()
    if not bool(np.all(np.abs(vectors) < 6e4)):
        return None
    return FrameFeatures.of(made_by(weights_hash), list(frame_us)[:: config.temporal], vectors)


class PictureEmbedder:
    """The vision tower of a checkpoint alone. Raises ModelError for a checkpoint that cannot be used.

    Not thread-safe.
    """

    def __init__(self, path: str) -> None:
        checkpoint = open_checkpoint(path)
        config = parse_config(checkpoint.config, checkpoint.path)
        plan = plan_model(checkpoint, config, dtype=torch.float32, device="meta")
        filler = Filler(checkpoint.source, plan.block)
        for name, read in plan.parameters.items():
            if name.startswith(_VISUAL):
                weight = torch.empty(plan.model.get_parameter(name).shape, dtype=torch.float32)
                filler.fill(read, weight)
                owner, _, leaf = name.rpartition(".")
                setattr(plan.model.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))
        tower: Any = plan.model.model.visual
        self._encoder = VisionEncoder(tower.eval(), read_text_files(checkpoint.source).patches, FeatureCache(0))
        self.made_by = made_by(checkpoint.weights_hash)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """A picture uint8 [H, W, 3] RGB -> float32 [D]. It is seen as a video of one picture that stands still."""
        return self.embed_frames(pixels[None])[0]

    def embed_frames(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Frames of a video uint8 [T, H, W, 3] RGB -> float32 [pairs, D], as they are when a window is watched."""
        video = resize(frames, self._encoder.config)
        return pooled(self._encoder.encode([video])[0], len(video) // self._encoder.config.temporal).numpy()
