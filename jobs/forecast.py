"""`secondsight forecast`: what a Qwen3-VL model needs in memory, before any machine is asked for it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pipeline.errors import UsageError

DESCRIPTION = """\
What a Qwen3-VL model needs in memory, for each number of ranks, by part.

MODEL is a checkpoint (directory, URI or hub id: every tensor is checked against its configuration, no weights are
read) or a published size: 2B, 4B, 8B, 32B, 30B-A3B, 235B-A22B.

  secondsight forecast --model 235B-A22B --ranks 1,2,4,8,16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="MODEL", help="a checkpoint, or a published size")
    parser.add_argument("--ranks", default="1,2,4,8,16", help="numbers of ranks, comma-separated (default %(default)s)")
    parser.add_argument("--precision", choices=["bf16", "float16", "float32"], help="default: the checkpoint's own")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    try:
        ranks = [int(number) for number in args.ranks.split(",")]
        if min(ranks) < 1:
            raise ValueError
    except ValueError:
        raise UsageError(f"--ranks {args.ranks}: expected positive numbers with commas, such as 1,2,4") from None
    facts = forecast_memory(args.model, ranks, args.precision)
    print(json.dumps(facts, indent=2) if args.json else _table(facts))
    return 0


def forecast_memory(model: str, ranks: list[int], precision: str | None = None) -> dict[str, Any]:
    """Bytes of weights of the fullest rank by part, and of keys and values per token.

    Raises ModelError for a checkpoint that does not fit its configuration, or ranks that cannot hold the experts.
    """
    import torch

    from model.checkpoint.index import open_checkpoint
    from model.checkpoint.memory import kv_bytes_per_token, weights_memory
    from model.checkpoint.plan import plan_model, plan_shape, stored_dtype
    from model.checkpoint.published import PUBLISHED, published_config
    from model.checkpoint.skeleton import parse_config

    chosen = {"bf16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, None: None}[precision]
    tensors = None
    if model in PUBLISHED:
        config = parse_config(published_config(model), model)
        dtype = chosen or stored_dtype(config)
        skeleton = plan_shape(config, model, dtype)
    else:
        checkpoint = open_checkpoint(model)
        config = parse_config(checkpoint.config, checkpoint.path)
        dtype = chosen or stored_dtype(config)
        skeleton = plan_model(checkpoint, config, dtype=dtype).model
        tensors = len(checkpoint.tensors)
    return {
        "model": model,
        "precision": str(dtype).removeprefix("torch."),
        "tensors_checked": tensors,
        "kv_bytes_per_token": kv_bytes_per_token(config, dtype),
        "ranks": {
            str(memory.ranks): {**memory.parts, "total": memory.total}
            for memory in (weights_memory(skeleton, count, dtype) for count in ranks)
        },
    }


def _table(facts: dict[str, Any]) -> str:
    counts = list(facts["ranks"])
    unit, size = ("GiB", 2**30) if facts["ranks"][counts[0]]["total"] >= 2**30 else ("MiB", 2**20)
    lines = [f"{facts['model']}, weights in {facts['precision']}: {unit} on the fullest rank"]
    if facts["tensors_checked"] is not None:
        lines[0] += f" (all {facts['tensors_checked']} tensors of the checkpoint are accounted for)"
    lines.append(f"{'ranks':<20}" + "".join(f"{count:>10}" for count in counts))
    for part in facts["ranks"][counts[0]]:
        cells = "".join(f"{facts['ranks'][count][part] / size:>10.2f}" for count in counts)
        lines.append(f"{part:<20}{cells}")
    kv = facts["kv_bytes_per_token"]
    lines.append(f"keys and values: {kv / 1024:.0f} KiB per token, {kv * 32768 / 2**30:.2f} GiB per 32 768 tokens")
    return "\n".join(lines)
