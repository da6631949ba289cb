"""A video of eight hours through the whole job: what the driver holds does not grow with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jobs.bench.flow import long_video, peak_memory


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_eight_hours_take_the_driver_no_more_memory_than_a_quarter(tmp_path: Path) -> None:
    """With 30 000 events."""
    peak = {}
    for hours in (0.25, 8):
        video = long_video(tmp_path / f"video{hours}", hours, rate=1)
        peak[hours] = peak_memory(str(video), tmp_path / f"log{hours}", window_s=16)
    assert (peak[0.25]["windows"], peak[8]["windows"]) == (60, 1920)
    assert peak[8]["driver_mib"] - peak[0.25]["driver_mib"] < 40, peak
