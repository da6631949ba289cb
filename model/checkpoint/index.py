"""A checkpoint as a whole: its configuration, every tensor and where it lies, and a digest of its weights. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from model.checkpoint.header import Stored, read_header
from model.checkpoint.source import Source, open_source, read
from pipeline.errors import ModelError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MOST_JSON = 64 << 20
SAMPLE = 4096  # bytes of one sampled block
SAMPLED_EVERY = 16 << 20  # one block per so many bytes of a tensor, or part thereof


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. `config` is config.json as it is; `tensors` by name."""

    source: Source
    config: dict[str, Any]
    tensors: dict[str, Stored]

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def weights_hash(self) -> str:
        """A digest that changes when the weights do, without reading them all (a 60 GB checkpoint: about 20 MB).

        SHA-256 over every tensor in name order: its name, dtype, shape, and a block of 4 KiB from the middle of each
        16 MiB of it or part thereof. How the tensors are cut into files does not enter. Training, merging, quantising
        or corrupting a tensor changes it; someone who edits single values between the blocks on purpose stays unseen.
        """
        blocks: dict[str, list[tuple[int, int]]] = {}
        for _, tensor in sorted(self.tensors.items()):
            spans = blocks.setdefault(tensor.file, [])
            spans += sample_spans(tensor)
        read_blocks = {file: iter(self.source.read_blocks(file, spans)) for file, spans in blocks.items()}
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
            for _ in sample_spans(tensor):
                digest.update(next(read_blocks[tensor.file]))
        return digest.hexdigest()


def sample_spans(tensor: Stored) -> list[tuple[int, int]]:
    """The byte spans of a tensor that enter `weights_hash`."""
    spans = []
    for start in range(0, tensor.nbytes, SAMPLED_EVERY):
        length = min(SAMPLED_EVERY, tensor.nbytes - start)
        block = min(SAMPLE, length)
        at = tensor.start + start + (length - block) // 2
        spans.append((at, at + block))
    return spans


def open_checkpoint(spec: str) -> Checkpoint:
    """Open a local directory, an fsspec URI, a hub id or a GGUF file. Reads configuration and headers, no weights.

    Raises ModelError for whatever is missing or cannot be believed, naming it.
    """
    if spec.endswith(".gguf"):
        from model.checkpoint.gguf.open import open_gguf

        return open_gguf(spec)
    source = open_source(spec)
    config = read_json(source, "config.json")
    if source.size(INDEX) is not None:
        return Checkpoint(source, config, _indexed(source))
    if source.size(SINGLE) is None:
        raise ModelError(
            f"{source.path}: neither {SINGLE} nor {INDEX}: only safetensors are read (pickled weights could run code)"
        )
    return Checkpoint(source, config, read_header(source, SINGLE))


def _indexed(source: Source) -> dict[str, Stored]:
    where = f"{source.path}/{INDEX}"
    files = read_json(source, INDEX).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ModelError(f"{where}: has no weight_map")
    for file in files.values():
        plain = isinstance(file, str) and file.isascii() and file.isprintable() and file.endswith(".safetensors")
        if not plain or "/" in file or "\\" in file or file.startswith("."):
            raise ModelError(f"{where}: {ascii(file)[:120]} is not the plain name of a safetensors file beside it")
    tensors: dict[str, Stored] = {}
    for file in sorted(set(files.values())):
        for name, tensor in read_header(source, file).items():
            if files.get(name) != file:
                raise ModelError(f"{where}: {ascii(name)[:120]} lies in {file}, which the index does not say")
            tensors[name] = tensor
    missing = sorted(set(files) - set(tensors))
    if missing:
        raise ModelError(f"{where}: {ascii(missing[0])[:120]} is not in {files[missing[0]]} ({len(missing)} missing)")
    return tensors


def read_json(source: Source, name: str) -> dict[str, Any]:
    """One JSON object of the checkpoint. Raises ModelError where it is absent, too large or not JSON."""
    where = f"{source.path}/{name}"
    size = source.size(name)
    if size is None:
        raise ModelError(f"{where}: does not exist: a checkpoint is a directory with config.json and safetensors")
    if size > MOST_JSON:
        raise ModelError(f"{where}: {size} bytes are too many for this file")
    try:
        value = json.loads(read(source, name, 0, size))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: not JSON ({str(error)[:100]})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{where}: not a JSON object")
    return value
