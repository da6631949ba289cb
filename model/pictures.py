"""From a model's name to what turns a picture into a vector of its kind, where the model gives such vectors."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from model.registry import find_model
from pipeline.errors import UsageError


class PictureEmbedder(Protocol):
    """`made_by`: what names the vectors, as in `pipeline.features.vectors.FrameFeatures`."""

    made_by: str

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """A picture uint8 [H, W, 3] RGB -> float32 [D]."""
        ...


@runtime_checkable
class Picturing(Protocol):
    """A factory (`model.registry.ModelFactory`) whose model gives features of frames."""

    def pictures(self) -> PictureEmbedder:
        """Load what is needed for that, and no more. Raises ModelError."""
        ...


def picture_embedder(spec: str) -> PictureEmbedder:
    """Of the model that `spec` names. Raises UsageError where it gives no features of frames, ModelError where it
    cannot be loaded."""
    factory = find_model(spec)
    if not isinstance(factory, Picturing):
        raise UsageError(f"--model {spec}: gives no features of frames that a picture's could be compared with")
    return factory.pictures()
