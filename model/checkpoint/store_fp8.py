"""Store a checkpoint in block-scaled FP8: `python -m model.checkpoint.store_fp8 CHECKPOINT FOLDER [--block 128]`.

The layout of the published FP8 checkpoints (see fp8.py): the linear layers of the language model and its experts in
e4m3 with one float32 scale per block, all else (vision, embeddings, routers, norms, output layer) as it was. One file
of the checkpoint is in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from model.checkpoint.fill import DTYPES, Filler
from model.checkpoint.fp8 import SCALE_SUFFIX, block_size
from model.checkpoint.header import Stored
from model.checkpoint.index import INDEX, SINGLE, Checkpoint, open_checkpoint
from model.checkpoint.layout import FLOATS, Read
from model.checkpoint.source import read
from pipeline.errors import ModelError, SecondsightError, UsageError

LARGEST = torch.finfo(torch.float8_e4m3fn).max
_STORED = re.compile(r"language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj\.|mlp\.(?!gate\.))")
#: Files beside the weights that make a checkpoint whole; config.json is written anew.
SMALL_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "world.toml",
)  # fmt: skip


def store_fp8(spec: str, folder: Path, block: int = 128) -> Path:
    """Write the checkpoint at `spec` (directory, URI or hub id) into `folder`, quantised. Returns `folder`.

    Raises ModelError for a checkpoint that cannot be read or is quantised already, UsageError for a folder in use.
    """
    from safetensors.torch import save_file

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty: choose a new folder")
    checkpoint = open_checkpoint(spec)
    if block_size(checkpoint.config, checkpoint.path) is not None:
        raise ModelError(f"{checkpoint.path}: is stored in FP8 already")
    folder.mkdir(parents=True, exist_ok=True)
    filler = Filler(checkpoint.source, None)
    files = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    index: dict[str, str] = {}
    for file in files:
        tensors: dict[str, Tensor] = {}
        for name, stored in checkpoint.tensors.items():
            if stored.file == file:
                tensors |= _tensors(name, stored, filler, block)
        name = SINGLE if len(files) == 1 else file
        save_file(tensors, folder / name, {"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    if len(files) > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    _write_rest(checkpoint, folder, block)
    return folder


def quantise(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """e4m3 values of `weight` [..., R, C] and the float32 scales of its blocks; those at the edges may be cut off."""
    rows, columns = weight.shape[-2:]
    padded = F.pad(weight.float(), (0, -columns % block, 0, -rows % block))
    blocks = padded.unflatten(-1, (-1, block)).unflatten(-3, (-1, block))  # [..., R / b, b, C / b, b]
    scale = blocks.abs().amax((-3, -1)) / LARGEST
    scale = torch.where(scale > 0, scale, 1.0)
    values = (blocks / scale[..., :, None, :, None]).to(torch.float8_e4m3fn)
    return values.flatten(-2).flatten(-3, -2)[..., :rows, :columns].contiguous(), scale


def _tensors(name: str, stored: Stored, filler: Filler, block: int) -> dict[str, Tensor]:
    if len(stored.shape) < 2 or stored.dtype not in FLOATS or not _STORED.search(name):
        if stored.dtype not in DTYPES:
            raise ModelError(f"{stored.file}: {name} is stored as {stored.dtype}, which is no weight")
        plain = torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
        filler.fill(Read(stored), plain)
        return {name: plain}
    weight = torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
    filler.fill(Read(stored), weight)
    if not torch.isfinite(weight).all():
        raise ModelError(f"{stored.file}: {name} holds values that are not finite")
    # One matrix at a time: float32 copies of a whole stack of experts would be many GiB.
    matrices = weight.flatten(0, -3) if weight.dim() > 2 else weight[None]
    parts = [quantise(matrix, block) for matrix in matrices]
    values = torch.stack([part for part, _ in parts]).view(weight.shape)
    scales = torch.stack([scale for _, scale in parts])
    return {name: values, f"{name}{SCALE_SUFFIX}": scales.view(*weight.shape[:-2], *scales.shape[1:])}


def _write_rest(checkpoint: Checkpoint, folder: Path, block: int) -> None:
    kept = sorted({name.rpartition(".")[0] for name in checkpoint.tensors if not _STORED.search(name)})
    config = {
        **checkpoint.config,
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [block, block],
            "modules_to_not_convert": kept,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in SMALL_FILES:
        if (size := checkpoint.source.size(name)) is not None:
            (folder / name).write_bytes(read(checkpoint.source, name, 0, size))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m model.checkpoint.store_fp8", description=__doc__)
    parser.add_argument("checkpoint", help="directory, URI or hub id of a Qwen3-VL checkpoint")
    parser.add_argument("folder", type=Path, help="where to write it; made where absent")
    parser.add_argument("--block", type=int, default=128, help="sides of the block that shares a scale (default: 128)")
    args = parser.parse_args()
    try:
        if args.block < 1:
            raise UsageError(f"--block {args.block}: must be at least 1")
        store_fp8(args.checkpoint, args.folder, args.block)
    except (SecondsightError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in args.folder.glob("*.safetensors"))
    print(f"{args.folder}: {size / 2**20:.1f} MiB of weights in FP8 blocks of {args.block} x {args.block}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
