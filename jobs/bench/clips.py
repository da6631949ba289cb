"""Small videos whose every frame carries its own number, made with the encoders in PyAV's wheel.

The number stands along the top edge: 24 cells, black or white, 16 bits of number and 8 bits of check sum.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

_CELLS = 24


def _bits(number: int) -> int:
    return number << 8 | zlib.crc32(number.to_bytes(2, "big")) & 0xFF


def read_number(picture: Picture) -> int | None:
    """The number on a picture (uint8 [H, W, 3], upright, of any size), or None where it is damaged."""
    width = picture.shape[1]
    cell = width / _CELLS
    rows = picture[int(cell * 0.3) : max(int(cell * 0.3) + 1, int(cell * 0.7)), :, :].mean(axis=(0, 2))
    bits = 0
    for i in range(_CELLS):
        a = int((i + 0.3) * cell)
        bits = bits << 1 | int(rows[a : max(a + 1, int((i + 0.7) * cell))].mean() > 127)
    number = bits >> 8
    return number if _bits(number) == bits else None


@lru_cache(maxsize=4)
def _textures(width: int, height: int) -> list[Picture]:
    """Two wide landscapes of soft blobs, to pan over, and one of fine grain."""
    rng = np.random.default_rng(7)
    lands = []
    for scale in (8, 24):
        coarse = rng.integers(0, 256, (height // scale + 2, 2 * width // scale + 2, 3)).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(coarse, "rgb24").reformat(2 * width, height, interpolation="BICUBIC")
        lands.append(np.ascontiguousarray(frame.to_ndarray(), np.uint8))
    lands.append(rng.integers(0, 7, (2 * height, 2 * width, 1)).astype(np.uint8))
    return lands


def draw(number: int, width: int, height: int) -> Picture:
    """Picture `number` of a film: a pan, another scene every 75 pictures, a moving bright square, grain."""
    soft, coarse, grain = _textures(width, height)
    scene = number // 75
    x = (3 * number + 97 * scene) % width
    picture = (soft if scene % 2 else coarse)[:, x : x + width].copy()
    size = height // 5
    top, left = (5 * number) % (height - size), (7 * number) % (width - size)
    picture[top : top + size, left : left + size] //= 2
    gy, gx = (number * 31) % height, (number * 17) % width
    picture += np.minimum(grain[gy : gy + height, gx : gx + width], 255 - picture)
    cell = width // _CELLS
    picture[:cell] = 0
    for i in range(_CELLS):
        if _bits(number) >> (_CELLS - 1 - i) & 1:
            picture[:cell, i * width // _CELLS : (i + 1) * width // _CELLS] = 255
    return picture


def write_clip(
    path: Path | str,
    codec: str,
    count: int,
    *,
    size: tuple[int, int] = (320, 192),
    rate: Fraction | int = 30,
    pts: Iterable[int] | None = None,
    time_base: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    picture: Callable[[int], Picture] | None = None,
    change: Callable[[av.VideoStream], None] | None = None,
    format: str | None = None,
    first: int = 0,
) -> Path:
    """Writes pictures `first` to `first + count - 1`, presented at `pts` (default: one per tick of 1 / `rate`)."""
    width, height = size
    base = time_base or Fraction(1, 1) / Fraction(rate)
    with av.open(str(path), "w", format=format, container_options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=dict(options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = base
        stream.codec_context.thread_count = 1
        if change:
            change(stream)
        ticks = iter(pts) if pts is not None else iter(range(count))
        for number in range(first, first + count):
            frame = av.VideoFrame.from_ndarray(picture(number) if picture else draw(number, width, height), "rgb24")
            frame = frame.reformat(format=pix_fmt, threads=1)
            frame.pts, frame.time_base = next(ticks), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)
