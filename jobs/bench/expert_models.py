"""Whole models (part of `python -m jobs.bench.experts`): what loading costs, and the speed in each precision."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs.bench.expert_gangs import run_ranks
from jobs.bench.expert_layers import HIDDEN, WIDTH, cpu_seconds

#: as --precision: dtype, bits of the experts
PRECISIONS: dict[str, tuple[torch.dtype | None, int | None]] = {
    "auto": (None, None),
    "bf16": (torch.bfloat16, None),
    "float32": (torch.float32, None),
    "int8": (None, 8),
    "int4": (None, 4),
}


def load_cost(quick: bool) -> list[dict[str, Any]]:
    """Wall time and peak host memory of loading, page cache warm, for 1, 2 and 4 ranks and by from_pretrained."""
    layers = 1 if quick else 4
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        experts_mib, rest_mib = write_checkpoint(Path(folder), layers)
        print(f"loading {experts_mib:.0f} MiB of experts (hub layout, bf16) and {rest_mib:.0f} MiB of the rest")
        for ranks in (1, 2, 4):
            for precision in PRECISIONS if ranks == 1 else ("auto", "int8"):
                row = run_ranks(rank_load, {"ranks": ranks, "path": folder, "precision": precision})[0]
                rows.append({"ranks": ranks, "precision": precision, **row})
                print(f"  {ranks} ranks, {precision}: {_cost(row)} for a share of {row['share_mib']:.0f} MiB")
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

    dtype, bits = PRECISIONS[job["precision"]]

    def load() -> float:
        loaded = load_qwen3_vl(job["path"], rank, job["ranks"], group, dtype, bits=bits)
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
            **{f"ours, {name}": partial(_ours, load_qwen3_vl, folder, *how) for name, how in PRECISIONS.items()},
            **{
                f"transformers, {name}": partial(
                    Qwen3VLMoeForConditionalGeneration.from_pretrained, folder, dtype=dtype
                )
                for name, (dtype, _) in PRECISIONS.items()
                if dtype
            },
        }
        for name, load in loaders.items():
            row = {"model": name, "prompt": prompt, **forward_times(load(), prompt)}
            rows.append(row)
            print(f"  {name:<24} {prompt} tokens {row['prompt_ms']:>8.0f} ms, one more {row['step_ms']:>6.1f} ms")
    return rows


def _ours(load: Callable[..., Any], folder: str, dtype: torch.dtype | None, bits: int | None) -> Any:
    return load(folder, dtype=dtype, bits=bits).model


def forward_times(model: Any, prompt: int) -> dict[str, float]:
    from transformers import DynamicCache

    ids = torch.randint(0, 4096, (1, prompt), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        prefill = cpu_seconds(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1), 1)
        cache = DynamicCache()
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        step = cpu_seconds(lambda: model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True), 9)
    return {"prompt_ms": 1e3 * prefill, "step_ms": 1e3 * step}
