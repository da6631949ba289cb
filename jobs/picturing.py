"""A picture that somebody has, as a vector that can be compared with what a log holds of its frames."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from model.pictures import PictureEmbedder
    from pipeline.features.search import PictureSearch

#: Models come one at a time, and so do pictures through one.
_turn = threading.Lock()


def embedded(
    search: PictureSearch, pixels: npt.NDArray[np.uint8], model: str | None = None
) -> tuple[npt.NDArray[np.float32], str]:
    """(vector, what made it) of a picture uint8 [H, W, 3] RGB, by a model that watched `search`'s log.

    `model`: where that model lies, as `run --model` takes it; None: the bundled one, where that one watched. Raises
    UsageError: the log has no features, other models watched, the model is not installed; ModelError.
    """
    watchers = search.watchers()
    listed = ", ".join(f"{name} ({made_by[:12]} ...)" for made_by, name in watchers.items())
    if model is None and "bundled" not in watchers.values():
        raise UsageError(
            f"this log was watched by {listed}: name that checkpoint with --model PATH to look for a picture in it"
        )
    with _turn:
        embedder = _embedder(model or "bundled")
        if embedder.made_by not in watchers:
            raise UsageError(
                f"{model or 'the bundled model of this installation'} is not what watched this log, or has other"
                f" weights ({embedder.made_by[:12]} ...) now: that was {listed}; name it with --model"
            )
        size = search.sampling(embedder.made_by).size(pixels.shape[1], pixels.shape[0])
        return embedder.embed(_as_watched(pixels, *size)), embedder.made_by


@lru_cache(1)
def _embedder(spec: str) -> PictureEmbedder:
    from model.pictures import picture_embedder

    try:
        return picture_embedder(spec)
    except ImportError as error:
        raise UsageError(f"search by picture needs the model: pip install 'secondsight[qwen]' ({error})") from error


def _as_watched(pixels: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    import cv2

    shrinks = width * height < pixels.shape[0] * pixels.shape[1]
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.ascontiguousarray(resized)
