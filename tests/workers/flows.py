"""Runs of the flow over small clips, as its tests want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.bench.models import colours
from jobs.run import RunSummary, configure, run
from pipeline.archive import fingerprint
from pipeline.config import RunConfig
from pipeline.decode import decode_windows
from pipeline.probe import probe
from pipeline.reduce import reduce_events
from pipeline.video import Source, Video

SETTINGS = {"window_s": 2, "overlap_s": 0.5, "fps": 2, "short_side": 32, "cpus": 0.5}
COLOURS, FRAGILE, NOTHING = (f"python:jobs.bench.models:{name}" for name in ("colours", "fragile", "nothing"))


def flow(archive: Path, log: Path, model: str = COLOURS, **options: Any) -> RunSummary:
    settings = {**SETTINGS, **options.pop("settings", {})}
    return run(str(archive), str(log), model, settings=settings, replicas=options.pop("replicas", 1), **options)


def flow_config() -> RunConfig:
    return configure(colours.profile(SETTINGS))


def alone(path: Path) -> tuple[Video, list[tuple[int, int, str, str]], list[tuple[int, ...]]]:
    """A clip watched in this process without the flow: its events, and the frame times of each window."""
    config, profile = flow_config(), colours.profile(SETTINGS)
    source = Source(str(path), path.stat().st_size)
    video = probe(source.uri, source.size_bytes, fingerprint(source), (source.uri,))
    count = config.windowing.count(video.duration_us)
    windows = [config.windowing.window(video.video_id, i, video.duration_us) for i in range(count)]
    seen = list(decode_windows(video, windows, config.sampling))
    answers = colours.load(SETTINGS).watch(seen)
    events = reduce_events(answers, profile.rules, video.duration_us).events
    return video, [(e.start_us, e.end_us, e.kind, e.text) for e in events], [tuple(f.time_us.tolist()) for _, f in seen]


def events_of(rows: list[dict[str, Any]], video_id: str) -> list[tuple[int, int, str, str]]:
    found = [(r["start_us"], r["end_us"], r["kind"], r["text"]) for r in rows if r["video_id"] == video_id]
    return sorted(found)


def assert_whole(log: Path, clips: list[Path], read_log: Any) -> None:
    """Every clip is in the log once, done, with the very rows that watching it alone gives."""
    videos, events, windows = (read_log(log, table) for table in ("videos", "events", "windows"))
    assert len({v["video_id"] for v in videos}) == len(videos) == len(clips)
    for clip in clips:
        video, expected, frame_us = alone(clip)
        (row,) = [v for v in videos if v["video_id"] == video.video_id]
        assert row["status"] == "done" and row["duration_us"] == video.duration_us
        assert events_of(events, video.video_id) == sorted(expected) and expected
        mine = sorted((w["window"], tuple(w["frame_us"])) for w in windows if w["video_id"] == video.video_id)
        assert mine == list(enumerate(frame_us))
