"""How fast the sharded experts are, what loading costs, what placement gains: `python -m jobs.bench.experts`.

[--quick] small sizes, a few minutes in all; [--json FILE] the figures;
[--only layer,precision,forms,model,ranks,load,placement].

Peers and limits, each measured in the same run on one thread: transformers' own experts (eager, batched_mm,
grouped_mm, in bf16 and float32), a dense SwiGLU layer with the same active floating-point operations, the time to read
the weights of the experts that were hit at the memory's measured bandwidth, and the same operations at the speed of
one large matrix product. Times of one process are CPU seconds (medians), times of several are wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.bench.expert_gangs import placement_gain, rank_speed
from jobs.bench.expert_layers import (
    EXPERT_BYTES,
    EXPERT_FLOPS,
    EXPERTS,
    HIDDEN,
    TOP,
    WIDTH,
    cpu_seconds,
    random_experts,
    read_speed,
    routed,
    sharded,
)
from jobs.bench.expert_models import load_cost, model_speed
from jobs.bench.expert_precision import forms_by_rows, precision_cost
from model.experts.forms import best_form, multiplies
from model.experts.layer import ShardedExperts
from model.experts.placement import Placement


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.experts", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    everything = "layer,precision,forms,model,ranks,load,placement"
    parser.add_argument("--only", default=everything, help="parts, comma-separated")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[bool], Any]] = {
        "layer": layer_speed,
        "precision": precision_cost,
        "forms": forms_by_rows,
        "ranks": rank_speed,
        "load": load_cost,
        "model": model_speed,
        "placement": placement_gain,
    }
    figures = {}
    for name in args.only.split(","):
        figures[name] = parts[name](args.quick)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


def layer_speed(quick: bool) -> dict[str, Any]:
    sizes = [1, 16, 256] if quick else [1, 4, 16, 64, 256, 1024, 4096]
    limits = machine_limits()
    weights = random_experts(best_form(EXPERTS, HIDDEN, WIDTH, torch.bfloat16), EXPERTS)
    layer = sharded(weights, Placement.contiguous(1, EXPERTS, 1))
    peers = transformers_peers(quick)
    dense = dense_peers()
    form = type(weights).__name__
    print(f"one layer, H {HIDDEN}, I {WIDTH}, {EXPERTS} experts, top {TOP}, weights in bf16, one thread; ours: {form}")
    print(f"large products: {limits['gemm_gflop_s']} GFLOP/s; one row from cache: {limits['cached_row_gb_s']} GB/s")
    rows = []
    for tokens in sizes:
        row = layer_row(tokens, layer, peers, dense, max(limits["gemm_gflop_s"].values()))
        rows.append(row)
        times = {key.removesuffix("_ms"): value for key, value in row.items() if key.endswith("_ms")}
        print(
            f"  {tokens:>5} tokens, {row['experts_hit']:>3} experts hit, reads at {row['read_gb_s']:.1f} GB/s; in ms:"
        )
        print("        " + ", ".join(f"{name} {value:.1f}" for name, value in times.items()))
        print(
            f"        {row['of_best_transformers']:.2f} times transformers' best, {row['of_best_dense']:.2f} of the "
            f"best dense layer, {row['of_bound']:.2f} of the larger bound"
        )
    return {"form": form, "limits": limits, "rows": rows}


def layer_row(
    tokens: int,
    layer: ShardedExperts,
    peers: dict[str, tuple[Callable[..., Tensor], int, torch.dtype]],
    dense: dict[str, tuple[Callable[[Tensor], Tensor], torch.dtype]],
    gflop_s: float,
) -> dict[str, Any]:
    """Everything at one number of tokens, one after the other, so that other load on the machine meets all alike."""
    x, chosen, shares = routed(tokens, seed=tokens)
    repeats = 9 if tokens <= 64 else 3 if tokens <= 1024 else 1
    hit = int(chosen.unique().numel())
    row: dict[str, Any] = {"tokens": tokens, "experts_hit": hit, "read_gb_s": read_speed()}
    row["ours_ms"] = 1e3 * cpu_seconds(partial(layer, x, chosen, shares), repeats)
    for name, (peer, most, dtype) in peers.items():
        if tokens <= most:
            call = partial(peer, x.to(dtype), chosen, shares.to(dtype))
            row[f"{name}_ms"] = 1e3 * cpu_seconds(call, min(repeats, 3))
    for name, (run, dtype) in dense.items():
        if tokens <= 256 or dtype != torch.bfloat16 or multiplies(dtype) or "packed" in name:
            row[f"{name}_ms"] = 1e3 * cpu_seconds(partial(run, x.to(dtype)), min(repeats, 5))
    row["read_bound_ms"] = 1e3 * hit * EXPERT_BYTES / row["read_gb_s"] / 1e9
    row["gemm_bound_ms"] = 1e3 * tokens * TOP * EXPERT_FLOPS / gflop_s / 1e9
    ours = row["ours_ms"]
    row["of_best_transformers"] = min(row[f"{name}_ms"] for name in peers if f"{name}_ms" in row) / ours
    row["of_best_dense"] = min(row[f"{name}_ms"] for name in dense if f"{name}_ms" in row) / ours
    row["of_bound"] = max(row["read_bound_ms"], row["gemm_bound_ms"]) / ours
    return row


def machine_limits() -> dict[str, Any]:
    """The speed of one large product in each form that an expert can take, and of one row times a cached matrix.

    A row from memory cannot be faster than reading and multiplying one after the other where the kernel does not
    overlap them: 1 / (1 / read + 1 / cached row).
    """
    x, w = torch.randn(1024, HIDDEN), torch.randn(2 * WIDTH, HIDDEN)
    flops = 2 * 1024 * HIDDEN * 2 * WIDTH
    xb, wb = x.bfloat16(), w.bfloat16()
    multiply, packed = torch.ops.quantized.linear_dynamic_fp16, torch.ops.quantized.linear_prepack_fp16(w, None)
    speeds = {
        "float32": flops / cpu_seconds(lambda: F.linear(x, w), 3),
        "bf16": flops / cpu_seconds(lambda: F.linear(xb, wb), 1),
        "packed fp16": flops / cpu_seconds(lambda: multiply(x, packed), 3),
    }
    rows = {
        "bf16": wb.nbytes / cpu_seconds(lambda: F.linear(xb[:1], wb), 9),
        "packed fp16": wb.nbytes / cpu_seconds(lambda: multiply(x[:1], packed), 9),
    }
    return {
        "gemm_gflop_s": {name: round(speed / 1e9, 1) for name, speed in speeds.items()},
        "cached_row_gb_s": {name: round(speed / 1e9, 1) for name, speed in rows.items()},
    }


def transformers_peers(quick: bool) -> dict[str, tuple[Callable[..., Tensor], int, torch.dtype]]:
    """name -> (forward, most tokens it is worth waiting for, dtype)."""
    from transformers import Qwen3VLMoeTextConfig
    from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts

    found: dict[str, tuple[Callable[..., Tensor], int, torch.dtype]] = {}
    for dtype, label in [(torch.bfloat16, "bf16"), (torch.float32, "float32")]:
        module: Any = None
        for name, most in [("eager", 4096), ("batched_mm", 1 if quick else 4), ("grouped_mm", 4096)]:
            config: Any = Qwen3VLMoeTextConfig(
                hidden_size=HIDDEN, moe_intermediate_size=WIDTH, num_experts=EXPERTS, num_experts_per_tok=TOP
            )
            config._experts_implementation = name
            with torch.device("meta"):
                peer = Qwen3VLMoeTextExperts(config)
            if module is None:
                module = peer
                for part in ("gate_up_proj", "down_proj"):
                    value = torch.empty(getattr(peer, part).shape, dtype=dtype)
                    value.copy_(torch.randn(value.shape[1:]) * 0.02)
                    setattr(module, part, torch.nn.Parameter(value, requires_grad=False))
            else:
                peer.gate_up_proj, peer.down_proj = module.gate_up_proj, module.down_proj
            # without bf16 instructions 1024 tokens take minutes in bf16
            slow = not multiplies(dtype)
            found[f"{name} {label}"] = (inference(peer), min(most, 256 if slow else most), dtype)
    return found


def inference(module: Any) -> Callable[..., Tensor]:
    def run(*args: Tensor) -> Tensor:
        with torch.inference_mode():
            result: Tensor = module(*args)
            return result

    return run


def dense_peers() -> dict[str, tuple[Callable[[Tensor], Tensor], torch.dtype]]:
    """A dense SwiGLU layer with the width of all experts of one token together, in each form."""
    wide = TOP * WIDTH
    both, down = torch.randn(2 * wide, HIDDEN) * 0.02, torch.randn(HIDDEN, wide) * 0.02

    def plain(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        a, b = both.to(dtype), down.to(dtype)

        def run(x: Tensor) -> Tensor:
            h = F.linear(x, a)
            return F.linear(F.silu(h[:, :wide]).mul_(h[:, wide:]), b)

        return run

    a, b = (torch.ops.quantized.linear_prepack_fp16(w, None) for w in (both, down))
    multiply = torch.ops.quantized.linear_dynamic_fp16

    def packed(x: Tensor) -> Tensor:
        h = multiply(x.float(), a)
        result: Tensor = multiply(F.silu(h[:, :wide]).mul_(h[:, wide:]), b)
        return result

    return {
        "dense bf16": (plain(torch.bfloat16), torch.bfloat16),
        "dense float32": (plain(torch.float32), torch.float32),
        "dense packed fp16": (packed, torch.bfloat16),
    }


if __name__ == "__main__":
    main()
