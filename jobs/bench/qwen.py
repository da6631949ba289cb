"""Watching windows with a random mixture of experts of middle size, against transformers' own generate.

`python -m jobs.bench.qwen [--quick] [--json FILE]`: one process, one thread, greedy, the same windows and the same
number of tokens for both, float32; CPU seconds. `prefill`: prompt tokens per second until the first answer token,
vision tower included. `decode`: answer tokens per second after it. Then what the shared prefix and the feature cache
save.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from model.checkpoint.load import load_qwen3_vl
from model.qwen3_vl.generate import Generator, Request
from model.qwen3_vl.patches import patchify
from model.qwen3_vl.prompt import TokenizedPrompt
from model.qwen3_vl.sizes import PatchConfig
from model.qwen3_vl.vision import FeatureCache, VisionEncoder

VIDEO, START, END = 32_000, 32_001, 32_002
PREFIX_TOKENS = 600  # a profile's system text is some 500 to 700
PATCHES = PatchConfig()


def save_checkpoint(folder: Path) -> None:
    """64 M active of 0.2 G parameters, transformers' own model, float32."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    config = Qwen3VLMoeConfig(
        text_config={
            "vocab_size": 32_768,
            "hidden_size": 768,
            "intermediate_size": 1536,
            "num_hidden_layers": 8,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 320,
            "max_position_embeddings": 32_768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 6,
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_heads": 6,
            "out_hidden_size": 768,
            "deepstack_visual_indexes": [1, 3, 5],
        },
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    Qwen3VLMoeForConditionalGeneration(config).save_pretrained(folder)


def request(number: int, pairs: int, side: int) -> Request:
    """A window of noise: the shared beginning, `pairs` of frames of side x side px, a question."""
    seed = torch.Generator().manual_seed(number)
    shared = torch.randint(0, 32_000, (PREFIX_TOKENS,), generator=torch.Generator().manual_seed(99))
    seen = (side // PATCHES.factor) ** 2
    one = torch.tensor([17, 18, 19, START] + [VIDEO] * seen + [END])
    ids = torch.cat([shared, one.repeat(pairs), torch.randint(0, 32_000, (20,), generator=seed)])
    video = torch.randint(0, 256, (2 * pairs, side, side, 3), generator=seed, dtype=torch.uint8).permute(0, 3, 1, 2)
    types = torch.where(ids == VIDEO, 2, 0)
    grid = (pairs, side // PATCHES.patch, side // PATCHES.patch)
    return Request(TokenizedPrompt(ids, types, grid), video)


class Measured:
    """CPU times of a run: until every window had its first answer token, and from there to the end."""

    def __init__(self, started: float, first: float, ended: float, said: list[list[int]]) -> None:
        self.prefill_s, self.decode_s, self.said = first - started, ended - first, said


class Ours:
    def __init__(self, folder: Path) -> None:
        self.loaded = load_qwen3_vl(str(folder), dtype=torch.float32)

    def generator(self, tokens: int, prefix: bool = True, cache_bytes: int = 0) -> Generator:
        encoder = VisionEncoder(self.loaded.model.model.visual, PATCHES, FeatureCache(cache_bytes))
        shared = request(0, 1, 64).prompt.ids[:PREFIX_TOKENS].tolist() if prefix else []
        generator = Generator(self.loaded, encoder, shared, frozenset(), tokens, 1 << 20)
        generator.generate([])  # the prefix is computed when a replica warms up
        return generator

    def run(self, requests: list[Request], tokens: int) -> Measured:
        generator = self.generator(tokens)
        firsts: list[float] = []
        agree = generator._agree

        def watch(tokens: torch.Tensor) -> torch.Tensor:
            firsts.append(time.process_time())
            return agree(tokens)

        generator._agree = watch  # type: ignore[method-assign]
        started = time.process_time()
        answers = generator.generate(requests)
        return Measured(started, firsts[0], time.process_time(), [answer.tokens for answer in answers])


class Stock:
    def __init__(self, folder: Path) -> None:
        from transformers import Qwen3VLMoeForConditionalGeneration

        self.model = Qwen3VLMoeForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None

    def run(self, requests: list[Request], tokens: int) -> Measured:
        """All windows in one batch, padded on the left, as its documentation says."""
        width = max(len(r.prompt) for r in requests)

        def padded(rows: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])

        inputs = {
            "input_ids": padded([r.prompt.ids for r in requests]),
            "mm_token_type_ids": padded([r.prompt.types for r in requests]),
            "attention_mask": padded([torch.ones_like(r.prompt.ids) for r in requests]),
            "video_grid_thw": torch.tensor([r.prompt.grid for r in requests]),
        }
        firsts: list[float] = []

        def watch(ids: Any, scores: torch.Tensor) -> torch.Tensor:
            firsts.append(time.process_time())
            return scores

        started = time.process_time()
        patches = [patchify(r.video, PATCHES) for r in requests]
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                pixel_values_videos=torch.cat([p.reshape(-1, p.shape[-1]) for p in patches]),
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=0,
                logits_processor=[watch],
            )
        return Measured(started, firsts[0], time.process_time(), out[:, width:].tolist())


def speeds(measured: Measured, requests: list[Request], tokens: int) -> dict[str, float]:
    prompt = sum(len(r.prompt) for r in requests)
    return {
        "prefill_tokens_s": prompt / measured.prefill_s,
        "decode_tokens_s": len(requests) * (tokens - 1) / measured.decode_s,
    }


def cpu_s(generator: Generator, requests: list[Request]) -> float:
    started = time.process_time()
    generator.generate(requests)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.qwen", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller batches, about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    batches, tokens, pairs = ((1, 4), 17, 4) if args.quick else ((1, 4, 16), 65, 8)
    figures: dict[str, Any] = {"batches": {}}
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder))
        ours, stock = Ours(Path(folder)), Stock(Path(folder))
        ours.run([request(0, 1, 64)], 2), stock.run([request(0, 1, 64)], 2)
        print(f"{'windows':>8} {'prompt':>7}   {'prefill tokens/s':^26}   {'decode tokens/s':^26}   same tokens")
        print(f"{'':>8} {'':>7}   {'stock':>8} {'ours':>8} {'ratio':>8}   {'stock':>8} {'ours':>8} {'ratio':>8}")
        for count in batches:
            # Lengths differ: some windows are shorter, as the last of each video is.
            requests = [request(i, pairs - i % 3, 256) for i in range(count)]
            runs = [side.run(requests, tokens) for side in (stock, ours)]
            theirs, mine = (speeds(run, requests, tokens) for run in runs)
            pairs_of_answers = zip(runs[0].said, runs[1].said, strict=True)
            same = sum(a == b for x, y in pairs_of_answers for a, b in zip(x, y, strict=True))
            share = same / (count * tokens)
            row: dict[str, Any] = {"prompt_tokens": sum(len(r.prompt) for r in requests), "same": share}
            row |= {"stock": theirs, "ours": mine}
            cells = []
            for what in ("prefill_tokens_s", "decode_tokens_s"):
                row[f"{what}_ratio"] = ratio = mine[what] / theirs[what]
                cells.append(f"{theirs[what]:8.0f} {mine[what]:8.0f} {ratio:8.2f}")
            print(f"{count:>8} {row['prompt_tokens']:>7}   {cells[0]}   {cells[1]}   {share:.0%}")
            figures["batches"][count] = row

        requests = [request(i, pairs, 256) for i in range(batches[-1])]
        plain = cpu_s(ours.generator(1, prefix=False), requests)
        prefixed = cpu_s(ours.generator(1), requests)
        cached = ours.generator(1, cache_bytes=1 << 30)
        cpu_s(cached, requests)
        again = cpu_s(cached, requests)
        print(f"prefill of {len(requests)} windows, shared prefix {PREFIX_TOKENS} tokens of {len(requests[0].prompt)}:")
        print(f"  everything anew {plain:.2f} s; prefix once {prefixed / plain:.2f} of that;", end=" ")
        print(f"and frames seen before {again / plain:.2f}")
        figures["prefill_s"] = {"anew": plain, "prefix_once": prefixed, "prefix_once_frames_seen": again}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
