"""The header of a safetensors file, checked before anything believes it.

Format: 8 bytes little-endian length, that many bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data
(https://github.com/huggingface/safetensors). The same rules as the reference reader, and no torch: names unique,
offsets in order, without overlap or hole, covering the data exactly, each span as long as its dtype and shape say.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from model.checkpoint.source import Source, read
from pipeline.errors import ModelError

LONGEST_HEADER = 100_000_000  # as the reference reader
MOST_DIMENSIONS = 16

#: bytes per element of the dtypes that a checkpoint may hold
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip

#: Quantised types of GGUF files: values and bytes of a block, which lies within a row.
BLOCKS = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "IQ4_NL": (32, 18),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
    "IQ4_XS": (256, 136),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as it lies in a file: `start` is its absolute byte offset there."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        if self.dtype in BLOCKS:
            values, nbytes = BLOCKS[self.dtype]
            return math.prod(self.shape) // values * nbytes
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(source: Source, file: str) -> dict[str, Stored]:
    """Every tensor of one safetensors file, by name. Raises ModelError naming the file and what is wrong with it."""
    where = f"{source.path}/{file}"

    def refuse(what: str) -> ModelError:
        return ModelError(f"{where}: not a usable safetensors file: {what}")

    size = source.size(file)
    if size is None:
        raise ModelError(f"{where}: does not exist: download the whole checkpoint")
    if size < 8:
        raise refuse(f"{size} bytes, the header alone needs more: it was not downloaded whole")
    length = int.from_bytes(read(source, file, 0, 8), "little")
    if length > LONGEST_HEADER or 8 + length > size:
        raise refuse(f"its header claims {length} bytes of a file of {size}")
    try:
        header = json.loads(read(source, file, 8, 8 + length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise refuse(f"its header is not JSON ({str(error)[:100]})") from error
    if not isinstance(header, dict):
        raise refuse("its header is not a JSON object")

    data = 8 + length
    header.pop("__metadata__", None)
    tensors = [_entry(refuse, name, file, spec, data) for name, spec in header.items()]
    end = data
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != end:
            what = "overlaps the tensor before it" if tensor.start < end else "leaves a hole before it"
            raise refuse(f"{_short(tensor.name)} {what}")
        end += tensor.nbytes
    if end != size:
        raise refuse(
            f"its tensors end at byte {end}, the file at {size}: it was not downloaded whole, or tampered with"
        )
    return {tensor.name: tensor for tensor in tensors}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(refuse: Any, name: str, file: str, spec: Any, data: int) -> Stored:
    if not isinstance(spec, dict) or set(spec) != {"dtype", "shape", "data_offsets"}:
        raise refuse(f"{_short(name)} has no dtype, shape and data_offsets, or more than these")
    dtype, shape, offsets = spec["dtype"], spec["shape"], spec["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise refuse(f"{_short(name)} has the unknown dtype {_short(str(dtype))}")
    if not _counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise refuse(f"{_short(name)} has the impossible shape {_short(str(shape))}")
    if not _counts(offsets) or len(offsets) != 2:
        raise refuse(f"{_short(name)} has the impossible offsets {_short(str(offsets))}")
    tensor = Stored(name, file, dtype, tuple(shape), data + offsets[0])
    if offsets[1] - offsets[0] != tensor.nbytes:
        raise refuse(
            f"{_short(name)} spans {offsets[1] - offsets[0]} bytes, {dtype} {list(shape)} needs {tensor.nbytes}"
        )
    return tensor


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _short(text: str) -> str:
    """Text from the file, printable and not long: it ends up on a terminal."""
    return ascii(text[:120])
