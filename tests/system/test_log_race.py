"""Committers killed at random on one log (the full numbers: python -m jobs.bench.log_race)."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.bench.log_race import race
from jobs.bench.s3 import storage


@pytest.mark.parametrize(("kind", "processes", "commits"), [("disk", 3, 6), ("s3", 2, 5)])
def test_nothing_lost_nothing_twice(tmp_path: Path, kind: str, processes: int, commits: int) -> None:
    with storage(kind, tmp_path) as uri:
        figures = race(uri, tmp_path, processes, commits, seed=3)
    assert figures["lost"] == figures["twice"] == 0
    assert figures["commits"] >= processes * commits and figures["videos in the log"] > commits
