"""Run by the expert tests as a program of its own: forks the ranks of a gang, and each answers samples in lockstep.

`python expert_ranks.py JOB.json`: {"checkpoint", "ranks", "work": per rank a list of sample arguments, "out",
"replicated", "placement", "dtype", "bits"}. Rank r writes `out/r.pt`: logits of its samples, and its routing metrics.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.distributed as dist

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import expert_checkpoints  # noqa: E402

from model.checkpoint.load import load_qwen3_vl  # noqa: E402
from model.experts.placement import Placement  # noqa: E402


def run_rank(rank: int, job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    ranks = job["ranks"]
    store = dist.FileStore(f"{job['out']}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    placement = Placement.from_json(job["placement"]) if job.get("placement") else None
    named = job.get("dtype", "float32")
    dtype = getattr(torch, named) if named else None
    group = dist.group.WORLD
    loaded = load_qwen3_vl(job["checkpoint"], rank, ranks, group, dtype, placement=placement, bits=job.get("bits"))
    queue = [expert_checkpoints.sample(**sample) for sample in job["work"][rank]]
    answers = []
    with torch.inference_mode():
        if job.get("replicated"):
            assert loaded.parallel is not None
            with loaded.parallel.replicated():
                answers = [loaded.model(**inputs).logits.clone() for inputs in queue]
        else:
            while loaded.lockstep.step(bool(queue)):
                if queue:
                    answers.append(loaded.model(**queue.pop(0)).logits.clone())
                else:
                    loaded.lockstep.idle()
    routing = loaded.parallel.metrics.snapshot() if loaded.parallel else None
    metrics = routing and {"tokens": routing.tokens, "bytes": routing.bytes_sent, "seconds": routing.seconds}
    torch.save({"logits": answers, "metrics": metrics}, f"{job['out']}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        Path(job["out"]).mkdir(parents=True)
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=run_rank, args=(rank, job)) for rank in range(job["ranks"])]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        failed = [process for process in processes if process.exitcode != 0]
        for process in failed:
            process.kill()
        if failed:
            sys.exit(f"ranks failed: {[process.exitcode for process in processes]}")
