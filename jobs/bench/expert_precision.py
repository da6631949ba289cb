"""Experts in each precision (part of `python -m jobs.bench.experts`): memory, speed and error of one layer.

Peers in the same run: the experts as bf16 checkpoints are held otherwise (packed fp16 on a CPU without bf16
instructions), float32, and torch's own low-bit products, on the matrices of as many experts as the tokens hit.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.bench.expert_layers import HIDDEN, TOP, WIDTH, cpu_seconds, routed, sharded
from model.experts.blocks import BlockExperts
from model.experts.compute import ExpertWeights, PlainExperts
from model.experts.forms import best_form
from model.experts.int8 import Int8Experts
from model.experts.placement import Placement
from model.experts.quantise import quantise_blocks, quantise_int8
from model.experts.widened import LowBitExperts

EXPERTS = 32  # enough that their weights come from memory, not from a cache


def precision_cost(quick: bool) -> list[dict[str, Any]]:
    """For each precision: bits per weight as measured in memory, relative error, CPU time at several batch sizes."""
    sizes = [1, 16, 64] if quick else [1, 4, 16, 64, 256]
    forms: dict[str, Callable[[int], ExpertWeights]] = {
        "float32": lambda count: PlainExperts(count, HIDDEN, WIDTH, torch.float32),
        "bf16 or fp16": lambda count: best_form(count, HIDDEN, WIDTH, torch.float32, packed=True),
        "int8": lambda count: best_form(count, HIDDEN, WIDTH, torch.float32, bits=8),
        "int4": lambda count: best_form(count, HIDDEN, WIDTH, torch.float32, bits=4),
    }
    print(f"{EXPERTS} experts of 30B-A3B, top {TOP}, one thread: CPU ms of a layer at so many tokens")
    print(f"  {'':<26}{'bits':>6}{'MiB':>6}{'pack s':>8}{'error':>8}" + "".join(f"{n:>8}" for n in sizes))
    truth: Tensor | None = None
    rows = []
    for name, make in forms.items():
        _filled(make(1))  # loads the libraries
        before, began = _resident_mib(), time.process_time()
        weights = _filled(make(EXPERTS))
        packing, held = time.process_time() - began, _resident_mib() - before
        layer = sharded(weights, Placement.contiguous(1, EXPERTS, 1))
        row: dict[str, Any] = {"precision": name, "form": type(weights).__name__, "held_mib": held}
        row["bits"] = held * 2**23 / (3 * EXPERTS * HIDDEN * WIDTH)
        row["pack_s"] = packing
        x, chosen, shares = _routed(64)
        found = layer(x, chosen, shares)
        truth = found if truth is None else truth
        row["error"] = float((found - truth).norm() / truth.norm())
        for tokens in sizes:
            row[f"{tokens}_ms"] = 1e3 * cpu_seconds(partial(layer, *_routed(tokens)), 5 if tokens <= 16 else 2)
        rows.append(row)
        cells = "".join(f"{row[f'{n}_ms']:>8.1f}" for n in sizes)
        label = f"{name} ({row['form']})"
        print(f"  {label:<26}{row['bits']:>6.1f}{held:>6.0f}{packing:>8.1f}{row['error']:>8.4f}{cells}")
        del layer, weights
    for name, make_peer in (("int8pack_mm, bf16", _int8_peer), ("int4pack_mm, bf16", _int4_peer)):
        peer = make_peer()
        row = {"peer": name}
        for tokens in sizes:
            counts = torch.bincount(_routed(tokens)[1].flatten(), minlength=EXPERTS)
            row[f"{tokens}_ms"] = 1e3 * cpu_seconds(partial(_run_peer, peer, counts), 3 if tokens <= 16 else 1)
        rows.append(row)
        cells = "".join(f"{row[f'{n}_ms']:>8.1f}" for n in sizes)
        print(f"  torch's {name:<46}{cells}")
    return rows


def forms_by_rows(quick: bool) -> list[dict[str, Any]]:
    """CPU ms of one expert for so many rows, in every form that int8 and int4 have on a CPU: `best_form` takes the same
    one for any number of rows."""
    count = 4
    sizes = [1, 16, 256] if quick else [1, 4, 16, 64, 128, 256, 512]
    forms: dict[str, Callable[[], ExpertWeights]] = {
        "int8, FBGEMM": lambda: Int8Experts(count, HIDDEN, WIDTH, torch.float32),
        "int8, ONNX Runtime": lambda: BlockExperts(count, HIDDEN, WIDTH, 8, torch.float32),
        "int8, widened": lambda: LowBitExperts(count, HIDDEN, WIDTH, 8, torch.float32, "cpu"),
        "int4, ONNX Runtime": lambda: BlockExperts(count, HIDDEN, WIDTH, 4, torch.float32),
        "int4, widened": lambda: LowBitExperts(count, HIDDEN, WIDTH, 4, torch.float32, "cpu"),
    }
    made = {name: _filled(make()) for name, make in forms.items()}
    print(f"one expert of 30B-A3B, one thread: CPU ms for so many rows\n  {'':<22}" + "".join(f"{n:>8}" for n in sizes))
    rows: list[dict[str, Any]] = [{"form": name} for name in made]
    for size in sizes:  # all forms one after the other, so that other load meets all alike
        x, each, counts = torch.randn(size * count, HIDDEN), torch.arange(size * count), torch.full((count,), size)
        for row, weights in zip(rows, made.values(), strict=True):
            call = partial(weights.run, x, each, counts, F.silu)
            row[f"{size}_ms"] = 1e3 * cpu_seconds(call, 7 if size <= 64 else 3) / count
    for row in rows:
        print(f"  {row['form']:<22}" + "".join(f"{row[f'{n}_ms']:>8.2f}" for n in sizes))
    return rows


def _filled(weights: ExpertWeights) -> ExpertWeights:
    """Different matrices for every expert, the same for every form."""
    for expert in range(weights.count):
        generator = torch.Generator().manual_seed(expert)
        for target in weights.slot(expert):
            target.copy_(torch.randn(target.shape, generator=generator).div_(math.sqrt(target.shape[1])))
        weights.seal(expert)
    return weights


def _routed(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    x, chosen, shares = routed(tokens, seed=tokens, experts=EXPERTS)
    return x.float(), chosen, shares.float()


def _resident_mib() -> float:
    """Memory of this process, after what is free was given back (Linux with glibc)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


Peer = Callable[[Tensor, int], Tensor]


def _run_peer(peer: tuple[Peer, Peer], counts: Tensor) -> None:
    """Both products of each expert that was hit, without the gathering and the sum around them."""
    gate_up, down = peer
    for expert, count in enumerate(counts.tolist()):
        if count:
            both = gate_up(torch.zeros(count, HIDDEN, dtype=torch.bfloat16), expert)
            down(F.silu(both[:, :WIDTH]).mul_(both[:, WIDTH:]), expert)


def _int8_peer() -> tuple[Peer, Peer]:
    def one(rows: int, columns: int) -> Peer:
        values, scale = quantise_int8(torch.randn(rows, columns))
        copies, factors = [values.clone() for _ in range(EXPERTS)], scale.bfloat16()
        return lambda x, expert: torch.ops.aten._weight_int8pack_mm(x, copies[expert], factors)

    return one(2 * WIDTH, HIDDEN), one(HIDDEN, WIDTH)


def _int4_peer() -> tuple[Peer, Peer]:
    def one(rows: int, columns: int) -> Peer:
        values, scale = quantise_blocks(torch.randn(rows, columns))
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        packed = pack(values.flatten(1).to(torch.int32), 2)
        copies = [packed.clone() for _ in range(EXPERTS)]
        factors = torch.stack([scale, torch.zeros_like(scale)], -1).transpose(0, 1).contiguous().bfloat16()
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        return lambda x, expert: multiply(x.contiguous(), copies[expert], 64, factors)

    return one(2 * WIDTH, HIDDEN), one(HIDDEN, WIDTH)
