"""Small clips, and the rows of an event log read without our own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import deltalake
import numpy as np
import pyarrow.parquet as pq
import pytest

MakeClip = Callable[..., Path]
ReadLog = Callable[[Path, str], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def make_clip() -> MakeClip:
    """make_clip(path, seconds=6, seed=0): an H.264 clip of 64x48 at 5 fps whose colour changes with every frame."""

    def make(path: Path, seconds: float = 6, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=5, options={"g": "10", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.thread_count = 1
            for _ in range(round(5 * seconds)):
                picture = np.tile(random.integers(0, 255, 3, np.uint8), (48, 64, 1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture(scope="session")
def read_log() -> ReadLog:
    """read_log(log, table): the rows of one of the log's tables, by delta-rs and pyarrow alone."""

    def read(log: Path, table: str) -> list[dict[str, Any]]:
        files = deltalake.DeltaTable(str(log)).file_uris([("record", "=", table)])
        return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]

    return read
