"""Experts on several ranks (part of `python -m jobs.bench.experts`): the exchange, and what placement gains."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from jobs.bench.expert_layers import EXPERTS, HIDDEN, WIDTH, random_experts, routed, sharded
from model.experts.forms import best_form
from model.experts.placement import Placement, imbalance


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
