"""A real clip end to end: what the log says a model saw is what ffprobe says was shown."""

from __future__ import annotations

import json
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path
from typing import Any

from jobs.run import run


def test_every_frame_time_in_the_log_is_ffprobes(
    ray_session: None, shared_videos: Path, tmp_path: Path, read_log: Any
) -> None:
    clip = shared_videos / "nasa_13013.mp4"
    listed = json.loads(clip.with_name(f"{clip.name}.stream0.all_frames_info.json").read_text())
    shown_us = [round(Fraction(frame["pts_time"]) * 1_000_000) for frame in listed]
    settings = {"window_s": 4, "overlap_s": 1, "fps": "7.3", "short_side": 96}
    summary = run(str(clip), str(tmp_path / "log"), "python:jobs.bench.models:colours", settings=settings, replicas=1)
    assert summary.videos == 1
    windows = read_log(tmp_path / "log", "windows")
    (row,) = read_log(tmp_path / "log", "videos")
    assert row["duration_us"] == round(
        Fraction(listed[-1]["pts_time"]) * 1_000_000 + Fraction(listed[-1]["duration_time"]) * 1_000_000
    )
    assert len(windows) >= 4
    for window in windows:
        wanted: list[int] = []
        for k in range(7 * 60):
            at_us = round(k / Fraction("7.3") * 1_000_000)
            if window["start_us"] <= at_us < window["end_us"]:
                frame_us = shown_us[bisect_right(shown_us, at_us) - 1]
                wanted += [frame_us] if frame_us not in wanted else []
        assert window["frame_us"] == wanted and wanted
