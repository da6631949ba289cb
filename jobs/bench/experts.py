"""How fast the sharded experts are, what loading costs, what placement gains: `python -m jobs.bench.experts`.

[--quick] small sizes, a few minutes in all; [--json FILE] the figures; [--only layer,model,ranks,load,placement].

Peers and limits, each measured in the same run on one thread: transformers' own experts (eager, batched_mm,
grouped_mm, in bf16 and float32), a dense SwiGLU layer with the same active floating-point operations, the time to read
the weights of the experts that were hit at the memory's measured bandwidth, and the same operations at the speed of
one large matrix product. Times of one process are CPU seconds (medians), times of several are wall seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor
from torch.nn import functional as F

from model.experts.compute import ExpertWeights, best_form, multiplies
from model.experts.layer import ExpertParallel, ShardedExperts
from model.experts.placement import Placement, imbalance

HIDDEN, WIDTH, EXPERTS, TOP = 2048, 768, 128, 8  # one layer of 30B-A3B
EXPERT_BYTES = 3 * HIDDEN * WIDTH * 2
DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}
EXPERT_FLOPS = 6 * HIDDEN * WIDTH  # of one token through one expert


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.experts", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", default="layer,model,ranks,load,placement", help="parts, comma-separated")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[bool], Any]] = {
        "layer": layer_speed,
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


# --- one layer on one thread ------------------------------------------------------------------------------------------


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


def read_speed() -> float:
    """GB/s of one thread reading: a sum over 256 MiB."""
    big = torch.ones(64 << 20)
    return big.nbytes / cpu_seconds(big.sum, 5) / 1e9


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


# --- several ranks ----------------------------------------------------------------------------------------------------


def rank_speed(quick: bool) -> list[dict[str, Any]]:
    """One layer on 1 and 2 ranks, every rank with its own tokens: the same work in total on half of the tokens each."""
    sizes = [2, 32, 256] if quick else [2, 32, 256, 1024]
    rows = []
    print("one layer on several ranks (gloo, one thread each), tokens in total; per layer, of the busiest rank")
    for ranks in (1, 2):
        job = {"ranks": ranks, "placement": Placement.contiguous(1, EXPERTS, ranks).to_json(), "sizes": sizes}
        for row in run_ranks(rank_layer, job):
            rows.append({"ranks": ranks, **row})
            print(f"  {ranks} ranks, {row['tokens']:>5} tokens: {_phases(row)}")
    return rows


def _phases(row: dict[str, Any]) -> str:
    phases = ", ".join(f"{name} {row[name + '_ms']:.1f}" for name in ("dispatch", "compute", "combine"))
    sent = f"{row['bytes_per_token'] / 1024:.1f} KiB sent per token"
    return f"CPU {row['cpu_ms']:.1f} ms, wall {row['wall_ms']:.1f} ms ({phases}), {sent}"


def rank_layer(rank: int, group: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """On one rank: the layer under `placement`, for each total number of tokens in `sizes`."""
    placement = Placement.from_json(job["placement"])
    held = placement.held[0][rank]
    weights = random_experts(best_form(len(held), HIDDEN, WIDTH, torch.bfloat16), len(held))
    layer = sharded(weights, placement, rank, group)
    rows = []
    for tokens in job["sizes"]:
        share = tokens // placement.ranks
        x, chosen, shares = routed(share, seed=1000 * rank + tokens, zipf=job.get("zipf", 0.0))
        repeats = 15 if tokens <= 64 else 5
        layer(x, chosen, shares)
        layer.parallel.metrics.reset()
        walls, cpus = [], []
        for _ in range(repeats):
            if group is not None:
                torch.distributed.barrier(group)
            began, cpu_began = time.perf_counter(), time.process_time()
            layer(x, chosen, shares)
            walls.append(time.perf_counter() - began)
            cpus.append(time.process_time() - cpu_began)
        routing = layer.parallel.metrics.snapshot()
        row = {"tokens": tokens, "wall_ms": 1e3 * median(walls), "cpu_ms": 1e3 * median(cpus)}
        row |= {f"{phase}_ms": 1e3 * seconds / repeats for phase, seconds in routing.seconds.items()}
        row["bytes_per_token"] = routing.bytes_sent / repeats / share
        rows.append(row)
    return rows


def run_ranks(work: Callable[..., Any], job: dict[str, Any]) -> list[dict[str, Any]]:
    """Run `work` in one process per rank; of each size, the row of the rank that worked longest."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [spawn.Process(target=_rank, args=(work, rank, job, folder)) for rank in range(job["ranks"])]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("a rank failed")
        results = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(job["ranks"])]
    return [max(rows, key=lambda row: float(row["cpu_ms"])) for rows in zip(*results, strict=True)]


def _rank(work: Callable[..., Any], rank: int, job: dict[str, Any], folder: str) -> None:
    torch.set_num_threads(1)
    group = None
    if job["ranks"] > 1:
        store = torch.distributed.FileStore(f"{folder}/store", job["ranks"])
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=job["ranks"])
        group = torch.distributed.group.WORLD
    Path(folder, f"{rank}.json").write_text(json.dumps(work(rank, group, job)))
    if group is not None:
        torch.distributed.destroy_process_group()


# --- placement --------------------------------------------------------------------------------------------------------


def placement_gain(quick: bool) -> dict[str, Any]:
    """Skewed routing (Zipf, the hot experts neighbours): contiguous placement against one computed from the load."""
    zipf, tokens = 1.0, 512 if quick else 2048
    load = torch.zeros(EXPERTS)
    for seed in range(8):  # the load is measured on other tokens than those that are timed
        _, chosen, _ = routed(512, seed=10_000 + seed, zipf=zipf)
        load += torch.bincount(chosen.flatten(), minlength=EXPERTS)
    figures: dict[str, Any] = {}
    print(f"placement under skewed routing (Zipf {zipf}): load imbalance of the ranks (largest / mean), 1 is balanced")
    for ranks in (2, 4, 8, 16):
        placements = {
            "contiguous": Placement.contiguous(1, EXPERTS, ranks),
            "measured": Placement.measured(load.numpy()[None], ranks),
            "measured, 8 replicas": Placement.measured(load.numpy()[None], ranks, 8),
        }
        shares = {name: rank_imbalance(load, placement) for name, placement in placements.items()}
        figures[f"imbalance on {ranks}"] = shares
        print(f"  {ranks:>2} ranks: " + ", ".join(f"{name} {value:.2f}" for name, value in shares.items()))
        if ranks == 2:
            for name, placement in placements.items():
                job = {"ranks": 2, "placement": placement.to_json(), "sizes": [tokens], "zipf": zipf}
                row = run_ranks(rank_layer, job)[0]
                figures[f"{name} on 2"] = row
                print(f"      2 ranks, {tokens} tokens, {name}: {_phases(row)}")
    return figures


def rank_imbalance(load: Tensor, placement: Placement) -> float:
    held = placement.held[0]
    copies = [sum(expert in slots for slots in held) for expert in range(EXPERTS)]
    return imbalance([sum(float(load[expert]) / copies[expert] for expert in slots) for slots in held])


# --- loading ----------------------------------------------------------------------------------------------------------


def load_cost(quick: bool) -> list[dict[str, Any]]:
    """Wall time and peak host memory of loading, page cache warm, for 1, 2 and 4 ranks and by from_pretrained."""
    layers = 1 if quick else 4
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        experts_mib, rest_mib = write_checkpoint(Path(folder), layers)
        print(f"loading {experts_mib:.0f} MiB of experts (hub layout, bf16) and {rest_mib:.0f} MiB of the rest")
        for ranks in (1, 2, 4):
            for dtype in ("auto", "bfloat16", "float32") if ranks == 1 else ("auto",):
                row = run_ranks(rank_load, {"ranks": ranks, "path": folder, "dtype": dtype})[0]
                rows.append({"ranks": ranks, "dtype": dtype, **row})
                print(f"  {ranks} ranks, {dtype}: {_cost(row)} for a share of {row['share_mib']:.0f} MiB")
        row = run_ranks(rank_from_pretrained, {"ranks": 1, "path": folder})[0]
        rows.append({"from_pretrained": True, **row})
        print(f"  from_pretrained, bfloat16: {_cost(row)}")
    return rows


def _cost(row: dict[str, Any]) -> str:
    return f"{row['wall_ms'] / 1e3:.1f} s (CPU {row['cpu_ms'] / 1e3:.1f}), peak {row['peak_mib']:.0f} MiB"


def write_checkpoint(folder: Path, layers: int) -> tuple[float, float]:
    """A random checkpoint of 30B-A3B's layers with a small vocabulary and tower; MiB of experts and of the rest."""
    from safetensors.torch import save_file

    from model.checkpoint.plan import plan_shape
    from model.checkpoint.published import published_config
    from model.checkpoint.skeleton import parse_config

    raw = published_config("30B-A3B")
    raw["text_config"] |= {"num_hidden_layers": layers, "vocab_size": 4096, "num_experts": 32}
    raw["vision_config"] |= {"depth": 2, "deepstack_visual_indexes": [0]}
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = {}
    for name, parameter in plan_shape(parse_config(raw, "bench"), "bench", torch.bfloat16).named_parameters():
        tensors[name] = torch.randn(parameter.shape).mul_(0.02).bfloat16()
    rest = sum(tensor.nbytes for tensor in tensors.values())
    save_file(tensors, folder / "rest.safetensors")
    index = dict.fromkeys(tensors, "rest.safetensors")
    experts = 0
    for layer in range(layers):
        prefix, file = f"model.language_model.layers.{layer}.mlp.experts", f"experts-{layer}.safetensors"
        tensors = {
            f"{prefix}.gate_up_proj": torch.randn(32, HIDDEN, 2 * WIDTH).mul_(0.02).bfloat16(),
            f"{prefix}.down_proj": torch.randn(32, WIDTH, HIDDEN).mul_(0.02).bfloat16(),
        }
        experts += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return experts / 2**20, rest / 2**20


def rank_load(rank: int, group: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    from model.checkpoint.load import load_qwen3_vl
    from model.checkpoint.packed import PackedLinear

    def load() -> float:
        loaded = load_qwen3_vl(job["path"], rank, job["ranks"], group, DTYPES[job["dtype"]])
        rest = sum(parameter.nbytes for parameter in loaded.model.parameters())
        rest += sum(module.nbytes for module in loaded.model.modules() if isinstance(module, PackedLinear))
        return (rest + sum(layer.weights.nbytes for layer in loaded.lockstep.layers)) / 2**20

    return [peak_of(load)]


def rank_from_pretrained(rank: int, group: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    from transformers import Qwen3VLMoeForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()

    def load() -> float:
        model: Any = Qwen3VLMoeForConditionalGeneration.from_pretrained(job["path"], dtype=torch.bfloat16)
        return float(sum(parameter.nbytes for parameter in model.parameters()) / 2**20)

    return [peak_of(load)]


def peak_of(load: Callable[[], float]) -> dict[str, Any]:
    """Wall time of `load`, and by how much memory rose above what was there before (Linux)."""

    def status(key: str) -> float:
        text = Path("/proc/self/status").read_text()
        return next(float(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(key))

    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, began, cpu_began = status("VmRSS"), time.perf_counter(), time.process_time()
    share = load()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return {"wall_ms": 1e3 * wall, "cpu_ms": 1e3 * cpu, "peak_mib": status("VmHWM") - before, "share_mib": share}


# --- a whole model ----------------------------------------------------------------------------------------------------


def model_speed(quick: bool) -> list[dict[str, Any]]:
    """A few layers of 30B-A3B (32 experts) as one model: a prompt and single steps in each precision, and peers."""
    from transformers import Qwen3VLMoeForConditionalGeneration
    from transformers.utils import logging

    from model.checkpoint.load import load_qwen3_vl

    logging.disable_progress_bar()
    layers, prompt = (1, 128) if quick else (2, 512)
    print(
        f"{layers} layers of 30B-A3B with 32 experts as a model, one thread: CPU ms of a prompt and of one more token"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), layers)
        loaders: dict[str, Callable[[], Any]] = {
            **{f"ours, {name}": partial(_ours, load_qwen3_vl, folder, dtype) for name, dtype in DTYPES.items()},
            **{
                f"transformers, {name}": partial(
                    Qwen3VLMoeForConditionalGeneration.from_pretrained, folder, dtype=dtype
                )
                for name, dtype in DTYPES.items()
                if dtype
            },
        }
        for name, load in loaders.items():
            row = {"model": name, "prompt": prompt, **forward_times(load(), prompt)}
            rows.append(row)
            print(f"  {name:<24} {prompt} tokens {row['prompt_ms']:>8.0f} ms, one more {row['step_ms']:>6.1f} ms")
    return rows


def _ours(load: Callable[..., Any], folder: str, dtype: torch.dtype | None) -> Any:
    return load(folder, dtype=dtype).model


def forward_times(model: Any, prompt: int) -> dict[str, float]:
    from transformers import DynamicCache

    ids = torch.randint(0, 4096, (1, prompt), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        prefill = cpu_seconds(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1), 1)
        cache = DynamicCache()
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        step = cpu_seconds(lambda: model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True), 9)
    return {"prompt_ms": 1e3 * prefill, "step_ms": 1e3 * step}


# --- shared -----------------------------------------------------------------------------------------------------------


def sharded(weights: ExpertWeights, placement: Placement, rank: int = 0, group: Any = None) -> ShardedExperts:
    return ShardedExperts(ExpertParallel(placement, rank, group), 0, weights, TOP, F.silu)


def random_experts(weights: ExpertWeights, count: int) -> ExpertWeights:
    """The same random matrices in the place of every expert: as slow to read and multiply as different ones."""
    values = [torch.randn(target.shape).mul_(0.02) for target in weights.slot(0)]
    for expert in range(count):
        for target, value in zip(weights.slot(expert), values, strict=True):
            target.copy_(value)
        weights.seal(expert)
    return weights


def routed(tokens: int, seed: int, zipf: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Random tokens in bf16 and a router's choices: expert e is chosen in proportion to (1 + e) ** -zipf."""
    generator = torch.Generator().manual_seed(seed)
    popularity = (1.0 + torch.arange(EXPERTS)) ** -zipf
    # The largest of log-popularity plus Gumbel noise: sampling without replacement.
    noise = -torch.log(-torch.log(torch.rand(tokens, EXPERTS, generator=generator)))
    shares, chosen = (popularity.log() + noise).topk(TOP)
    x = torch.randn(tokens, HIDDEN, generator=generator).bfloat16()
    return x, chosen, shares.softmax(-1).bfloat16()


def cpu_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median CPU time of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return median(times[1:])


if __name__ == "__main__":
    main()
