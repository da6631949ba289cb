"""Gangs for tests, in a program of their own: `run_jobs(work)` forks the ranks of each job of the file that is its
argument, joins them in a gloo group, and lets each do `work(rank, job)`.

A job is a JSON object with "ranks" and "out", a folder that is made.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]
Work = Callable[[int, dict[str, Any]], None]


def run_jobs(work: Work) -> None:
    """Exits with an error where a rank failed."""
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        Path(job["out"]).mkdir(parents=True)
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=_rank, args=(work, rank, job)) for rank in range(job["ranks"])]
        for process in processes:
            process.start()
        for process in processes:
            process.join(180)
        failed = [process.exitcode for process in processes if process.exitcode != 0]
        for process in processes:
            process.kill()
        if failed:
            sys.exit(f"ranks failed: {failed}")


def _rank(work: Work, rank: int, job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{job['out']}/store", job["ranks"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job["ranks"])
    work(rank, job)
    dist.barrier()
    dist.destroy_process_group()
