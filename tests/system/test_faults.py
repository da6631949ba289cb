"""Nodes, workers, drivers, the store and the disk fail while a run works: `python -m jobs.bench.faults` in small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jobs.bench.faults import KINDS, draw, has_ranks

SEEDS = (6, 10, 15, 18, 19)  # which between them draw every kind of fault


def test_the_seeds_draw_every_kind_of_fault_and_the_same_ones_every_time() -> None:
    assert {fault.kind for seed in SEEDS for fault in draw(seed)} == {*KINDS, "rank"}
    assert [seed for seed in SEEDS if has_ranks(seed)] == [19]
    assert draw(SEEDS[0]) == draw(SEEDS[0]) != draw(SEEDS[1])


def test_whatever_fails_the_log_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    """In a process of its own: the cluster of several nodes must not meet the Ray of the other tests."""
    out = tmp_path / "outcomes.json"
    command = [sys.executable, "-c", _PLAY, str(out), *map(str, SEEDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


_PLAY = """
import sys
from jobs.bench.faults import play_seeds
outcomes = play_seeds([int(s) for s in sys.argv[2:]], videos=4, seconds=12)
sys.exit(any(o.wrong for o in outcomes))
"""
