"""A GGUF file and its mmproj, opened as a checkpoint."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import numpy as np

from model.checkpoint.gguf.header import GgufFile, read_gguf
from model.checkpoint.gguf.names import PATCH, PATCH_HALVES, checkpoint_name
from model.checkpoint.gguf.texts import (
    Metadata,
    architecture,
    config_of,
    deepstack_layers,
    generation_of,
    preprocessor_of,
    tokenizer_of,
)
from model.checkpoint.header import Stored
from model.checkpoint.index import Checkpoint
from model.checkpoint.source import LocalSource, RemoteSource, Source, read
from pipeline.errors import ModelError
from pipeline.storage import local_path

#: What a file's name says of its precision: one of ggml's types.
_PRECISION = re.compile(r"(?<![a-z0-9])(?:(f32)|(bf16)|(f16)|i?q([2-8])[a-z0-9_]*)(?![a-z0-9])", re.I)
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_PATCH_FILE = "patch_embed"  # held in memory: put together from its two halves
_NUMPY = {"F32": "<f4", "F16": "<f2"}
MOST_PATCH_BYTES = 1 << 28


class GgufSource:
    """The files beside a GGUF file, and those that its metadata stand for. A `Source`."""

    def __init__(self, files: Source, path: str, made: dict[str, bytes]) -> None:
        self.path, self._files, self._made = path, files, made

    def size(self, name: str) -> int | None:
        if name in self._made:
            return len(self._made[name])
        return self._files.size(name) if name.endswith(".gguf") else None

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        if name in self._made:
            buffer.cast("B")[:] = self._made[name][start : start + buffer.nbytes]
        else:
            self._files.read_into(name, start, buffer)

    def read_blocks(self, name: str, blocks: list[tuple[int, int]]) -> list[bytes]:
        if name in self._made:
            return [self._made[name][start:end] for start, end in blocks]
        return self._files.read_blocks(name, blocks)


def open_gguf(spec: str) -> Checkpoint:
    """Open `PATH/NAME.gguf` (local or an fsspec URI; the first of its files where it is split) and the mmproj beside
    it (the most precise where it lies there in several precisions). Reads headers, no weights. Raises ModelError for
    whatever is missing or cannot be believed, naming it."""
    files, name, beside = _folder(spec)
    main = _whole(files, name)
    mmproj = _mmproj(files, beside)
    projector = read_gguf(files, mmproj)
    text, vision = (
        Metadata(found.metadata, lambda what, at=at: ModelError(f"{files.path}/{at}: {what}"))  # type: ignore[misc]
        for found, at in ((main, name), (projector, mmproj))
    )
    architecture(text)
    tensors, made = _tensors(files, main, projector, deepstack_layers(vision))
    config = config_of(text, vision, {name: tensor.shape for name, tensor in tensors.items()})
    texts: dict[str, Any] = {
        "config.json": config,
        "tokenizer.json": tokenizer_of(text),
        "generation_config.json": generation_of(text),
        "video_preprocessor_config.json": preprocessor_of(vision),
    }
    made |= {file: json.dumps(content, ensure_ascii=False).encode() for file, content in texts.items()}
    if isinstance(template := text.values.get("tokenizer.chat_template"), str):
        made["chat_template.jinja"] = template.encode()
    return Checkpoint(GgufSource(files, f"{files.path}/{name}", made), config, tensors)


def _folder(spec: str) -> tuple[Source, str, list[str]]:
    """The folder's source, the file's name, and the names beside it."""
    path = local_path(spec)
    if path is None:
        folder, _, name = spec.rpartition("/")
        remote = RemoteSource(folder)
        return remote, name, remote.names()
    folder, name = os.path.split(path)
    try:
        return LocalSource(folder), name, sorted(os.listdir(folder))
    except OSError as error:
        raise ModelError(f"{folder}: {error.strerror}") from error


def _whole(files: Source, name: str) -> GgufFile:
    """The model's file, or all files of a split one together: the metadata of the first, the tensors of all."""
    split = _SPLIT.fullmatch(name)
    if split is None:
        return read_gguf(files, name)
    if int(split[2]) != 1 or not 1 <= int(split[3]) <= 1000:
        raise ModelError(f"{files.path}/{name}: give the first file, {split[1]}-00001-of-{split[3]}.gguf")
    first = read_gguf(files, name)
    for number in range(2, int(split[3]) + 1):
        part = read_gguf(files, f"{split[1]}-{number:05}-of-{split[3]}.gguf")
        if doubled := first.tensors.keys() & part.tensors.keys():
            raise ModelError(f"{files.path}/{name}: {ascii(min(doubled))[:80]} is in two of its files")
        first.tensors.update(part.tensors)
    return first


def _mmproj(files: Source, beside: list[str]) -> str:
    """The vision tower's file: of one tower in several precisions, as hubs have them, the most precise."""
    found = [name for name in beside if "mmproj" in name.lower() and name.endswith(".gguf")]
    if len({_PRECISION.sub("", name.lower()) for name in found}) != 1:
        what = f"those of several lie there ({', '.join(found[:4])})" if found else "there is none"
        raise ModelError(f"{files.path}: one mmproj*.gguf with the vision tower must lie beside the model, {what}")
    return min(found, key=_imprecision)


def _imprecision(name: str) -> int:
    """By what the file's name says: less is more precise."""
    said = _PRECISION.search(name)
    if said is None:
        return 0
    return 20 - int(said[4]) if said[4] else said.lastindex or 0


def _tensors(
    files: Source, main: GgufFile, projector: GgufFile, deepstack: list[int]
) -> tuple[dict[str, Stored], dict[str, bytes]]:
    """Every tensor by the checkpoint's name, and what had to be put together."""
    tensors: dict[str, Stored] = {}
    for name, stored in (*main.tensors.items(), *projector.tensors.items()):
        if name in PATCH_HALVES:
            continue
        known = checkpoint_name(name, deepstack)
        if known is None or known in tensors:
            raise ModelError(f"{files.path}/{stored.file}: the tensor {ascii(name)[:80]} is not one of Qwen3-VL's")
        tensors[known] = Stored(known, stored.file, stored.dtype, stored.shape, stored.start)
    halves = [_patch_half(files, projector, name) for name in PATCH_HALVES]
    if halves[0].shape != halves[1].shape:
        raise ModelError(f"{files.path}: the halves of the patch embedding differ in shape")
    whole = np.stack(halves, 2)  # [out, in, 2, height, width]
    tensors[PATCH] = Stored(PATCH, _PATCH_FILE, "F32", whole.shape, 0)
    return tensors, {_PATCH_FILE: whole.tobytes()}


def _patch_half(files: Source, projector: GgufFile, name: str) -> Any:
    stored = projector.tensors.get(name)
    if stored is None or stored.dtype not in (*_NUMPY, "BF16") or len(stored.shape) != 4:
        raise ModelError(f"{files.path}: the mmproj's {name} is missing, or not stored as F32, F16 or BF16")
    if stored.nbytes > MOST_PATCH_BYTES:
        raise ModelError(f"{files.path}: {name} takes {stored.nbytes} bytes, too many for a patch embedding")
    raw = read(files, stored.file, stored.start, stored.start + stored.nbytes)
    if stored.dtype == "BF16":
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, _NUMPY[stored.dtype]).astype(np.float32)
    return values.reshape(stored.shape)
