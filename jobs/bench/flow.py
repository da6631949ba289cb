"""The flow: how much of the speed of its slowest stage a whole job reaches, what a window costs, and how memory grows.

    python -m jobs.bench.flow [--quick] [--json FILE]

1. Throughput: a whole job (archive to log, from the first listing to the last commit) against its slowest stage alone,
   in alternation in one run; the ratio of the medians, for the whole job (with some seconds in which workers start)
   and from its first answered window on. "model": one replica that takes a fixed time for a window, fed
   with frames that lie ready; "decode": the same windows decoded in one worker process that does nothing else.
   Windows of realistic size (16 s at 2 fps of 640x360 video, scaled to 398x224: 9 MB).
2. Overhead: wall time and the driver's CPU time per window, windows of one small frame, a model that does nothing.
3. Model time: windows per second through everything but decoding, which a stand-in does at once, and but real videos
   (jobs/bench/synthetic.py), with models that sleep from not at all to a second for each window.
4. Steering: decoders steered by measured rates against every fixed number of them, with a slow and a fast model.
5. Nodes: 1 to 4 raylets on this machine, a replica on each that sleeps, beside the same job in Ray Data.
6. Memory: peak of the whole job (proportional set size of the driver and all processes below it, and the driver's
   own) over archives of up to 5 000 small videos, and over one video of up to 8 hours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.bench.clips import write_clip
from jobs.bench.crash import descendants
from jobs.bench.scaling import Result, model_time, nodes, steering

if TYPE_CHECKING:
    from workers.flow import Progress

PARTS = ("throughput", "overhead", "model_time", "steering", "nodes", "memory")
#: What is promised of a part: (figure, at least, which of its rows counts).
PROMISES: dict[str, tuple[str, float, Callable[[Iterable[float]], float]]] = {
    "throughput": ("ratio_job", 0.90, min),
    "model_time": ("windows_per_s", 2000.0, max),  # that of the model that does nothing
}


def make_videos(folder: Path, count: int, seconds: int, size: tuple[int, int], rate: int) -> Path:
    """Bar-coded clips: one is encoded, the others are copies with a trailing box that makes them other contents."""
    folder.mkdir(parents=True)
    options = {"preset": "ultrafast", "g": str(5 * rate)}
    clip = write_clip(folder / "clip0000.mp4", "libx264", seconds * rate, rate=rate, size=size, options=options)
    content = clip.read_bytes()
    for number in range(1, count):
        box = (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")  # ISO/IEC 14496-12, 8.1.2
        (folder / f"clip{number:04}.mp4").write_bytes(content + box)
    return folder


def whole_job(archive: Path, log: Path, model: str, settings: dict[str, Any]) -> tuple[float, int, float]:
    """(seconds, windows, windows per second once the first is answered) of a job on the Ray that runs here: with the
    start of its workers and replica, without that of Ray."""
    from jobs.run import run

    seen: list[tuple[float, int]] = []

    def note(progress: Progress) -> None:
        if progress.windows and (not seen or progress.windows > seen[-1][1]):
            seen.append((time.perf_counter(), progress.windows))

    name = f"python:jobs.bench.models:{model}"
    summary = run(str(archive), str(log), name, settings=settings, replicas=1, on_progress=note)
    assert not summary.failed and not summary.quarantined, summary.failures
    (first_s, first), (last_s, last) = seen[0], seen[-1]
    return summary.elapsed_s, summary.windows, (last - first) / max(last_s - first_s, 1e-9)


def decode_alone(archive: Path, settings: dict[str, Any]) -> tuple[float, int]:
    """(seconds, windows) of decoding an archive in one worker process that does nothing else."""
    import ray

    @ray.remote(num_cpus=1)
    def decode_all(paths: Sequence[str]) -> tuple[float, int]:
        from jobs.bench.models import nothing
        from pipeline.decode import decode_windows
        from pipeline.probe import probe

        profile = nothing.profile(settings)
        began, windows = time.perf_counter(), 0
        for path in paths:
            video = probe(path, os.path.getsize(path), "v", (path,))
            spans = (
                profile.windowing.window("v", i, video.duration_us)
                for i in range(profile.windowing.count(video.duration_us))
            )
            windows += sum(1 for _ in decode_windows(video, spans, profile.sampling))
        return time.perf_counter() - began, windows

    result: tuple[float, int] = ray.get(decode_all.remote(sorted(map(str, archive.glob("*.mp4")))))
    return result


def model_alone(model: str, settings: dict[str, Any], windows: int) -> float:
    """Seconds that one replica takes for `windows` windows, one after another, whose frames lie in the object store."""
    import numpy as np
    import ray

    from model.registry import find_model
    from pipeline.frames import Frames
    from pipeline.plan import Window
    from workers.replica import ModelChoice, start_replica

    choice = ModelChoice(f"python:jobs.bench.models:{model}", settings)
    profile = find_model(choice.spec).profile(settings)
    times = np.arange(33, dtype=np.int64) * 500_000
    frames = [ray.put([Frames(np.zeros((33, 224, 398, 3), np.uint8), times, times + 500_000)]) for _ in range(4)]
    replica = start_replica("alone", choice, profile, profile.cpus)
    try:
        ray.get(replica.ready())
        began = time.perf_counter()
        for number in range(windows):
            ray.get(replica.watch([Window("v", number, 0, 16_000_000)], [frames[number % 4]], [(0, 0)]))
        return time.perf_counter() - began
    finally:
        replica.stop()


def throughput(folder: Path, quick: bool) -> list[Result]:
    """Part 1."""
    settings = {"window_s": 16, "overlap_s": 1, "fps": 2, "short_side": 224, "seconds": 0.5}
    results = []
    for stage, videos in (("model", 4 if quick else 8), ("decode", 8 if quick else 20)):
        archive = make_videos(folder / f"for-{stage}", videos, 121, (640, 360), 25)
        job: list[float] = []
        steady: list[float] = []
        alone: list[float] = []
        for turn in range(1 if quick else 3):
            log = folder / f"log-{stage}-{turn}"
            name = "sleeping" if stage == "model" else "nothing"
            seconds, windows, steady_rate = whole_job(archive, log, name, settings)
            job.append(windows / seconds)
            steady.append(steady_rate)
            if stage == "model":
                alone.append(windows / model_alone("sleeping", settings, windows))
            else:
                alone_s, same = decode_alone(archive, settings)
                assert same == windows
                alone.append(windows / alone_s)
        job_rate, alone_rate = statistics.median(job), statistics.median(alone)
        results.append(
            {
                "slowest_stage": stage,
                "windows": windows,
                "job_per_s": job_rate,
                "steady_per_s": statistics.median(steady),
                "alone_per_s": alone_rate,
                "ratio_job": job_rate / alone_rate,
                "ratio_steady": statistics.median(steady) / alone_rate,
            }
        )
    return results


def overhead(folder: Path, quick: bool) -> list[Result]:
    """Part 2."""
    results = []
    for seconds in (300, 1200) if quick else (300, 1200, 4800):
        archive = make_videos(folder / f"small{seconds}", 1, seconds, (64, 48), 2)
        settings = {"window_s": 1, "overlap_s": 0, "fps": 1}
        before = resource.getrusage(resource.RUSAGE_SELF)
        elapsed_s, windows, _ = whole_job(archive, folder / f"log-small{seconds}", "nothing", settings)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        results.append(
            {
                "windows": windows,
                "wall_ms_per_window": elapsed_s / windows * 1e3,
                "driver_cpu_ms_per_window": cpu_s / windows * 1e3,
                "windows_per_s": windows / elapsed_s,
            }
        )
    return results


def memory(folder: Path, quick: bool) -> list[Result]:
    """Part 6: a growing number of small videos, and one video of growing length."""
    counts, hours = ((10, 40), (0.25, 1.0)) if quick else ((50, 500, 5000), (1.0, 2.0, 8.0))
    archive = make_videos(folder / "many", max(counts), 8, (320, 192), 25)
    names = sorted(map(str, archive.glob("*.mp4")))
    results = []
    for count in counts:
        listed = folder / f"first{count}.txt"
        listed.write_text("\n".join(names[:count]))
        results.append(
            {"videos": count, "hours": count * 8 / 3600, **peak_memory(f"@{listed}", folder / f"many{count}")}
        )
    for length in hours:
        one = long_video(folder / f"long{length:g}", length)
        results.append({"videos": 1, "hours": length, **peak_memory(str(one), folder / f"log-long{length:g}")})
    return results


def long_video(folder: Path, hours: float, rate: int = 2) -> Path:
    """A folder with one video of small pictures, `rate` a second."""
    return make_videos(folder, 1, round(hours * 3600), (64, 48), rate)


def peak_memory(archive: str, log: Path, window_s: int = 4) -> dict[str, float]:
    """Peak memory (MiB) of a job in a process of its own, with a Ray of its own, and the windows that it put into its
    log."""
    import deltalake
    import pyarrow.parquet as pq

    command = [sys.executable, "-m", "jobs.run", archive, "--log", str(log), "--replicas", "1"]
    command += ["--model", "python:jobs.bench.models:colours", "--fps", "2"]
    command += ["--window", str(window_s), "--overlap", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = _peak(process)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    files = deltalake.DeltaTable(str(log)).file_uris(file_pruning_predicate="record = 'windows'")
    windows = sum(pq.read_metadata(file).num_rows for file in files)
    return {"windows": windows, **{k: v / 2**20 for k, v in peak.items()}}


def _peak(process: subprocess.Popen[str]) -> dict[str, int]:
    """Peak bytes of the processes' own memory, all together and of the driver, until the process ends."""
    peak = {"all_mib": 0, "driver_mib": 0}
    while process.poll() is None:
        driver = _own(process.pid)
        peak["driver_mib"] = max(peak["driver_mib"], driver)
        peak["all_mib"] = max(peak["all_mib"], driver + sum(map(_own, descendants(process.pid))))
        time.sleep(0.25)
    return peak


def _own(pid: int) -> int:
    """Bytes of a process (proc(5), smaps_rollup), those that it shares, as in the object store, counted once; without
    the pages of files, programs above all: its share of these grows when other processes end."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller archives, about two minutes")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--only", choices=PARTS, help="one part")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures: dict[str, list[Result]] = {}
    parts: dict[str, Callable[[Path, bool], list[Result]]] = {
        "throughput": throughput,
        "overhead": overhead,
        "model_time": model_time,
        "steering": steering,
    }
    with tempfile.TemporaryDirectory(prefix="secondsight-flow-") as name:
        folder = Path(name)
        if args.only not in ("memory", "nodes"):
            import ray

            from workers.cluster import start_local

            start_local()
            for part, measure in parts.items():
                if args.only in (None, part):
                    figures[part] = measure(folder, args.quick)
                    _print(part, figures[part])
            ray.shutdown()
        if args.only in (None, "nodes"):
            figures["nodes"] = nodes(folder, args.quick)
            _print("nodes", figures["nodes"])
        if args.only in (None, "memory"):
            figures["memory"] = memory(folder, args.quick)
            _print("memory", figures["memory"])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def _print(part: str, results: list[Result]) -> None:
    print(f"\n{part}", flush=True)
    columns = list(results[0])
    print("  ".join(f"{c:>24}" for c in columns))
    for result in results:
        cells = [f"{v:>24.3f}" if isinstance(v, float) else f"{v!s:>24}" for v in result.values()]
        print("  ".join(cells), flush=True)
    if part in PROMISES:
        print(promise(part, results), flush=True)


def promise(part: str, results: list[Result]) -> str:
    """What is promised of a part, beside what was measured."""
    figure, least, of_rows = PROMISES[part]
    found = of_rows(result[figure] for result in results)
    return f"promised: {figure} >= {least:g}; measured: {found:.3f} ({'kept' if found >= least else 'NOT KEPT'})"


if __name__ == "__main__":
    sys.exit(main())
