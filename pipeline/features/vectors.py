"""Vision features of one window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Of one vector. A model's wider features are projected down to it (model/qwen3_vl/pictures.py).
MOST_DIMENSIONS = 256

#: Vectors of one window, at most: more no model sees at once.
MOST_VECTORS = 65_536


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """One vector for each moment of a window. `made_by` names what made them (weights and recipe): only vectors of the
    same name can be compared. `at_us`: when each moment begins, relative to the window's start, ascending. `data`:
    little-endian float16 [len(at_us), D], as bytes, so that answers stay plain values."""

    made_by: str
    at_us: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, made_by: str, at_us: Sequence[int], vectors: npt.NDArray[np.floating]) -> FrameFeatures:
        """`vectors` [len(at_us), D]. Raises ValueError for other shapes."""
        if vectors.ndim != 2 or len(vectors) != len(at_us):
            raise ValueError(f"features {vectors.shape} of {len(at_us)} moments")
        return cls(made_by, tuple(int(t) for t in at_us), vectors.astype("<f2").tobytes())

    @property
    def vectors(self) -> npt.NDArray[np.float16]:
        """float16 [len(at_us), D]. Raises ValueError where the bytes are not whole vectors."""
        count = len(self.at_us)
        if not 0 < count <= MOST_VECTORS or not self.data or len(self.data) % (2 * count):
            raise ValueError(f"{len(self.data)} bytes are not the features of {count} moments")
        found = np.frombuffer(self.data, "<f2").reshape(count, -1)
        if found.shape[1] > MOST_DIMENSIONS or not np.isfinite(found).all():
            raise ValueError(f"features of {found.shape[1]} dimensions, or not finite")
        return found
