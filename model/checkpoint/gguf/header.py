"""The header of a GGUF file, checked before anything believes it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The `gguf` package
has a reader too, but it trusts the counts in the file and maps only local ones.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.checkpoint.header import BLOCKS, Stored
from model.checkpoint.source import Source, read
from pipeline.errors import ModelError

LONGEST_HEADER = 1 << 28
CHUNK = 1 << 20
MOST_DIMENSIONS = 4

#: ggml's numbers of the types that are read
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16",
}  # fmt: skip
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufFile:
    """`metadata` by key; `tensors` under the names they have in the file, shapes in the order of torch."""

    metadata: dict[str, Any]
    tensors: dict[str, Stored]


def read_gguf(source: Source, file: str) -> GgufFile:
    """Metadata and tensors of one file. Raises ModelError naming the file and what is wrong with it."""
    where = f"{source.path}/{file}"
    size = source.size(file)
    if size is None:
        raise ModelError(f"{where}: does not exist")
    cursor = _Cursor(source, file, size)
    if size < 24 or cursor.take(4) != b"GGUF":
        raise cursor.refuse("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        raise cursor.refuse(f"its version is {version}; 2 and 3 are read, little-endian")
    tensors, keys = cursor.number("Q"), cursor.number("Q")
    if tensors * 24 > size or keys * 13 > size:
        raise cursor.refuse(f"it claims {tensors} tensors and {keys} keys in {size} bytes")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.text()
        if key in metadata:
            raise cursor.refuse(f"the key {ascii(key)[:80]} occurs twice")
        metadata[key] = cursor.value(cursor.number("I"))
    found = [_tensor(cursor, file) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
        raise cursor.refuse(f"its alignment is {ascii(alignment)[:40]}, not a power of two")
    data = -(-cursor.at // alignment) * alignment
    placed: dict[str, Stored] = {}
    end = data
    for tensor in sorted(found, key=lambda tensor: tensor.start):
        start = data + tensor.start
        if tensor.name in placed:
            raise cursor.refuse(f"{ascii(tensor.name)[:80]} occurs twice")
        if start < end or tensor.start % alignment:
            raise cursor.refuse(f"{ascii(tensor.name)[:80]} overlaps the tensor before it, or lies unaligned")
        placed[tensor.name] = Stored(tensor.name, file, tensor.dtype, tensor.shape, start)
        end = start + tensor.nbytes
        if end > size:
            raise cursor.refuse(f"{ascii(tensor.name)[:80]} ends at byte {end} of {size}: it was not downloaded whole")
    return GgufFile(metadata, placed)


def _tensor(cursor: _Cursor, file: str) -> Stored:
    """One entry; its `start` is still relative to the data."""
    name = cursor.text()
    dimensions = cursor.number("I")
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise cursor.refuse(f"{ascii(name)[:80]} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
    number, start = cursor.number("I"), cursor.number("Q")
    dtype = TYPES.get(number)
    if dtype is None:
        raise cursor.refuse(
            f"{ascii(name)[:80]} is of ggml's type {number}, which is not read; known are {', '.join(TYPES.values())}"
        )
    if not all(0 < side < 1 << 40 for side in shape) or math.prod(shape) >= 1 << 48:
        raise cursor.refuse(f"{ascii(name)[:80]} has the impossible shape {list(shape)}")
    if shape[-1] % BLOCKS.get(dtype, (1, 0))[0]:
        raise cursor.refuse(f"{ascii(name)[:80]} has rows of {shape[-1]}, which are no whole blocks of {dtype}")
    return Stored(name, file, dtype, shape, start)


class _Cursor:
    """Reads a header from its start on, a chunk at a time, never beyond the file or `LONGEST_HEADER`."""

    def __init__(self, source: Source, file: str, size: int) -> None:
        self._source, self._file, self._size = source, file, size
        self.at = 0
        self._chunk, self._chunk_at = b"", 0

    def refuse(self, what: str) -> ModelError:
        return ModelError(f"{self._source.path}/{self._file}: not a usable GGUF file: {what}")

    def take(self, length: int) -> bytes:
        if self.at + length > min(self._size, LONGEST_HEADER):
            raise self.refuse(f"its header runs past byte {min(self._size, LONGEST_HEADER)}")
        offset = self.at - self._chunk_at
        if offset + length > len(self._chunk):
            end = min(self._size, self.at + max(length, CHUNK))
            self._chunk, self._chunk_at, offset = read(self._source, self._file, self.at, end), self.at, 0
        self.at += length
        return self._chunk[offset : offset + length]

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.refuse(f"{raw[:40]!r} is not UTF-8 text") from None

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise self.refuse(f"a value has the unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner == _STRING:
            if count * 8 > self._size:
                raise self.refuse(f"a list claims {count} texts")
            return [self.text() for _ in range(count)]
        if inner not in _SCALARS:
            raise self.refuse(f"a list holds values of type {inner}")
        item = np.dtype("<" + {"?": "b1"}.get(_SCALARS[inner], _SCALARS[inner]))
        return np.frombuffer(self.take(count * item.itemsize), item).tolist()
