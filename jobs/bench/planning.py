"""The driver's own work alone: archives of growing size planned lazily, decoded and watched by nobody, reduced.

    python -m jobs.bench.planning [--quick] [--json FILE]

Schedule, decoders, answers and reducing of every window run as in a real job, in a process of its own for each size;
Ray, pixels and the log's files are left out. Columns: CPU microseconds of a window, and the peak memory of the process
beyond what it had before its first video: flat, but for the 16 bytes of each video's name that tell a copy.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

from jobs.bench.synthetic import WINDOW_S, sources, video_of
from pipeline.event import WindowEvents
from pipeline.plan import SECOND_US, Sampling, Windowing
from workers.commit import video_result
from workers.schedule import Schedule
from workers.work import Decoded, Parcel

WINDOWS = 100  # of each video


def plan(videos: int, of_each: int = WINDOWS) -> dict[str, float]:
    """Put `videos` videos of `of_each` windows through the schedule."""
    schedule = Schedule(
        Sampling(fps=Fraction(1, WINDOW_S), short_side=None),
        Windowing(WINDOW_S * SECOND_US, 0),
        budget_bytes=1 << 30,
        decoders=16,
    )
    names, seen = sources(videos, of_each * WINDOW_S), set()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    done = windows = 0
    more = True
    while more or not schedule.idle():
        while more and schedule.wants_videos():
            source = next(names, None)
            more = source is not None
            if source is not None:
                video = video_of(source)
                seen.add(bytes.fromhex(video.video_id))
                schedule.add(video)
        while (order := schedule.next_decode(0.0)) is not None:
            for segment in order.segments:
                of, span = segment.video, range(segment.first, segment.last + 1)
                for first in range(0, len(span), order.parcel_windows):
                    part = [
                        schedule._windowing.window(of.video_id, i, of.duration_us)
                        for i in span[first : first + order.parcel_windows]
                    ]
                    schedule.decoders.taking(order.number)
                    parcel = Parcel(tuple(Decoded(w, (w.start_us,), (), 0.0, 0) for w in part))
                    schedule.taken(order.number, parcel, None, 0.0)
            schedule.decoders.ended(order.number, 0.0)
            while (batch := schedule.next_batch(most=256)) is not None:
                schedule.answered(batch, [WindowEvents(w, ()) for w in batch.windows], "replica")
                schedule.fresh()
        for watched in schedule.finished():
            result, _ = video_result(watched, ("name",), "run", "config", {})
            done, windows = done + 1, windows + len(result.windows)
    assert done == videos and windows == videos * of_each
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "videos": videos,
        "windows": windows,
        "cpu_us_per_window": (time.process_time() - began) / windows * 1e6,
        "peak_mib": peak / 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 4,000 videos (default: 100,000)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(plan(args.one)))
        return 0
    figures = []
    for videos in (1_000, 4_000) if args.quick else (1_000, 10_000, 100_000):
        command = [sys.executable, "-m", "jobs.bench.planning", "--one", str(videos)]
        figures.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print("  ".join(f"{name} {value:,.1f}" for name, value in figures[-1].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
