"""An archive is planned lazily: what the driver holds does not grow with the number of its videos, nor much with their
length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_EACH = 20  # windows
PLANS = "import json; from jobs.bench.planning import plan; print(json.dumps(plan({videos}, {of_each})))"


def _planned(videos: int, of_each: int = OF_EACH) -> dict[str, float]:
    """In a process of its own: the most memory that a process had is known, what it has is not."""
    program = PLANS.format(videos=videos, of_each=of_each)
    got = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    figures: dict[str, float] = json.loads(got.stdout)
    return figures


def test_eight_times_the_videos_take_no_more_memory() -> None:
    few, many = _planned(500), _planned(4000)
    assert (few["windows"], many["windows"]) == (500 * OF_EACH, 4000 * OF_EACH)
    # Of each video 16 bytes are kept, and what a set needs for them: 0.3 MiB. A list of the Videos would be 1.4 MiB.
    assert many["peak_mib"] - few["peak_mib"] < 1.0


def test_one_video_of_eight_hours_takes_what_its_answers_do() -> None:
    long = _planned(1, 8 * 3600 // 4)
    assert long["windows"] == 7200
    assert long["peak_mib"] < 7200 * 1.2 / 1024  # 1.2 KiB of each window; a window's one frame of 64 x 48 has 9 KiB
