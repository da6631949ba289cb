"""Kill -9 of the driver in the middle of its work; `python -m jobs.bench.crash` does it 20 times."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from jobs.bench.crash import differences, finish, make_archive, play, rows


def test_a_killed_driver_loses_nothing_and_doubles_nothing(ray_session: None, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    archive = make_archive(tmp_path / "archive", videos=8, seconds=8)
    truth_log = tmp_path / "truth"
    said = finish(archive, truth_log, address)
    truth = rows(truth_log)
    assert "8 videos" in said and truth["videos"].total() == 9
    assert truth["windows"].total() == 8 * 3 and truth["events"].total() > 8 * 20
    result = play(archive, tmp_path / "log", truth, [0.3, 1.2], address)
    assert result.kills_s, "the run ended before it was killed"
    assert not result.wrong


def test_differences_are_found(tmp_path: Path) -> None:
    """The comparison itself can fail."""
    rows_of = {"videos": ["a", "b"], "windows": ["x"], "events": []}

    truth = {k: Counter(v) for k, v in rows_of.items()}
    assert differences(truth, truth) == []
    lost = {**truth, "videos": Counter(["a"])}
    twice = {**truth, "windows": Counter(["x", "x"])}
    assert differences(lost, truth) == ["videos: 1 missing, 0 too many, such as b"]
    assert differences(twice, truth) == ["windows: 0 missing, 1 too many, such as x"]
    with pytest.raises(KeyError):
        differences({}, truth)
