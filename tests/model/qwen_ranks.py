"""Windows of noise for the Qwen3-VL tests; and, as a program, a gang whose ranks each answer theirs in lockstep.

`python -m tests.model.qwen_ranks JOBS.json`: a list of {"checkpoint", "ranks", "work": per rank a list of rounds, each
a list of window numbers, "together", "constrained", "max_new_tokens", "settings", "out"}. Rank r writes `out/r.json`:
token ids per round, and its report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from model.qwen3_vl import QwenFactory
from model.qwen3_vl.load import load_watcher  # noqa: F401  (imported before the ranks are forked)
from pipeline.frames import Frames
from pipeline.plan import Window
from tests.model.forked_ranks import run_jobs

WINDOW_US = 8_000_000
#: frames, height, width of each test window: even, odd and single counts, several sizes
SHAPES = [(4, 64, 96), (3, 64, 64), (1, 96, 64), (9, 32, 64), (2, 128, 96), (6, 64, 96)]


def window(number: int) -> tuple[Window, Frames]:
    """A window of noise at uneven times, the same for the same number."""
    count, height, width = SHAPES[number % len(SHAPES)]
    rng = np.random.default_rng(number)
    start = number * WINDOW_US
    times = np.sort(rng.choice(WINDOW_US, count, replace=False)).astype(np.int64) + start
    pixels = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Window("video", number, start, start + WINDOW_US), Frames(pixels, times, times + 100_000)


def tokens_of(watcher: Any, numbers: list[int], constrained: bool, together: bool = False) -> list[list[int]]:
    """Token ids of the answers to windows, through everything but the parsing."""
    requests = [watcher._request(*window(number)) for number in numbers]
    if not constrained:
        for request in requests:
            request.constraint = None
    generator = watcher.generator
    answers = generator.generate_together(requests) if together else generator.generate(requests)
    return [answer.tokens for answer in answers]


def run_rank(rank: int, job: dict[str, Any]) -> None:
    factory = QwenFactory(job["checkpoint"])
    settings = {"max_new_tokens": job["max_new_tokens"], "ranks": job["ranks"], "prompt": job["prompt"]}
    settings |= job.get("settings", {})
    watcher: Any = factory.load_rank(settings, rank, job["ranks"], dist.group.WORLD)
    said = [
        tokens_of(watcher, numbers, job["constrained"], job.get("together", False)) for numbers in job["work"][rank]
    ]
    Path(f"{job['out']}/{rank}.json").write_text(json.dumps({"said": said, "report": watcher.report()}))


if __name__ == "__main__":
    run_jobs(run_rank)
