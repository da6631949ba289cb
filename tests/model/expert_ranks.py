"""Run by the expert tests as a program of its own: forks the ranks of a gang, and each answers samples in lockstep.

`python -m tests.model.expert_ranks JOBS.json`: a list of {"checkpoint", "ranks", "work": per rank a list of sample
arguments, "out", "replicated", "placement", "dtype", "bits"}. Rank r writes `out/r.pt`: logits of its samples, and its
routing metrics.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from model.checkpoint.load import load_qwen3_vl
from model.experts.placement import Placement
from tests.model import expert_checkpoints
from tests.model.forked_ranks import run_jobs


def run_rank(rank: int, job: dict[str, Any]) -> None:
    placement = Placement.from_json(job["placement"]) if job.get("placement") else None
    named = job.get("dtype", "float32")
    dtype = getattr(torch, named) if named else None
    group = dist.group.WORLD
    path, ranks, bits = job["checkpoint"], job["ranks"], job.get("bits")
    loaded = load_qwen3_vl(path, rank, ranks, group, dtype, placement=placement, bits=bits)
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


if __name__ == "__main__":
    run_jobs(run_rank)
