"""From a checkpoint's bytes into tensors that already exist: no second copy of a model, hardly one of a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.checkpoint.fp8 import dequantise
from model.checkpoint.header import BLOCKS, Stored
from model.checkpoint.layout import Read
from model.checkpoint.source import Source
from pipeline.errors import ModelError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
STRIP = 64 << 20  # bytes read at a time where they cannot go straight to their place
UNPACKED = 4 << 20  # bytes of float32 dequantised at a time


class Filler:
    """Reads matrices of one checkpoint. What cannot go straight to its place passes through one buffer, used again
    and again: buffers that come and go between lasting ones would leave holes in the heap."""

    def __init__(self, source: Source, block: tuple[int, int] | None) -> None:
        self._source, self._block = source, block
        self._stage = torch.empty(0, dtype=torch.uint8)

    def fill(self, read: Read, target: Tensor) -> None:
        """Read one matrix into `target`, converting dtype, orientation and FP8 scales on the way.

        Where nothing needs converting and `target` is in host memory the bytes go straight there.
        """
        stored = read.stored
        shape = stored.shape if read.item is None else stored.shape[1:]
        items = 1 if read.item is None else stored.shape[0]
        start = stored.start + (read.item or 0) * (stored.nbytes // items)
        if stored.dtype in BLOCKS:
            self._fill_blocks(stored, start, shape, target)
            return
        dtype = DTYPES[stored.dtype]
        if read.scale is not None and self._block is not None:
            scale = self._scale(read.scale, read.item)
            weight = self._staged(stored.file, start, dtype, shape)
            whole = torch.empty(shape, dtype=torch.float32)
            matrices, scales = (weight, scale) if weight.dim() > 2 else (weight[None], scale[None])
            for matrix, factors, out in zip(matrices, scales, whole.view_as(matrices), strict=True):
                dequantise(matrix, factors, self._block, out)
            target.copy_(whole.transpose(-1, -2) if read.transposed else whole)
        elif read.transposed:
            target.copy_(self._staged(stored.file, start, dtype, shape).transpose(-1, -2))
        elif target.dtype == dtype and target.device.type == "cpu" and target.is_contiguous():
            _read_into(self._source, stored.file, start, target)
        else:
            rows = shape[0] if shape else 1
            row_bytes = max(1, (stored.nbytes // items) // max(rows, 1))
            step = max(1, STRIP // row_bytes)
            flat = target if shape else target.view(1)
            for row in range(0, rows, step):
                part = flat[row : row + step]
                part.copy_(self._staged(stored.file, start + row * row_bytes, dtype, part.shape))

    def _fill_blocks(self, stored: Stored, start: int, shape: tuple[int, ...], target: Tensor) -> None:
        """A matrix of a GGUF file, dequantised some rows at a time."""
        try:
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize
        except ImportError as error:
            raise ModelError(
                f"{stored.file}: GGUF files need the package gguf: pip install 'secondsight[gguf]'"
            ) from error
        values, nbytes = BLOCKS[stored.dtype]
        rows, columns = math.prod(shape[:-1]), shape[-1]
        row_bytes = columns // values * nbytes
        flat = target.view(rows, columns)
        step = max(1, UNPACKED // (4 * columns))
        for row in range(0, rows, step):
            part = flat[row : row + step]
            raw = self._staged(stored.file, start + row * row_bytes, torch.uint8, (len(part), row_bytes))
            part.copy_(torch.from_numpy(dequantize(raw.numpy(), GGMLQuantizationType[stored.dtype])))

    def _scale(self, scale: Stored, item: int | None) -> Tensor:
        shape = scale.shape if item is None else scale.shape[1:]
        items = 1 if item is None else scale.shape[0]
        found = torch.empty(shape, dtype=DTYPES[scale.dtype])
        _read_into(self._source, scale.file, scale.start + (item or 0) * (scale.nbytes // items), found)
        return found

    def _staged(self, file: str, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """A matrix in the buffer, valid until the next one."""
        nbytes = math.prod(shape) * dtype.itemsize
        if len(self._stage) < nbytes:
            self._stage = torch.empty(nbytes, dtype=torch.uint8)
        found = self._stage[:nbytes].view(dtype).view(shape)
        _read_into(self._source, file, start, found)
        return found


def _read_into(source: Source, file: str, start: int, tensor: Tensor) -> None:
    if tensor.numel():
        source.read_into(file, start, tensor.view(-1).view(torch.uint8).numpy().data)
