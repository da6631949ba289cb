"""Sampling frames at a steady rate, by Secondsight and its peers: processor time, wrong frames, time errors, memory.

Every frame of the clips carries its number, so that a wrong one shows. Processor time is given as a ratio to a full
single-threaded `ffmpeg -f null` decode of the same clip in the same run; below 1 is faster than decoding everything.
Each measurement is a process of its own, bound to its cores; the least of some runs counts. Needs the ffmpeg command.

    python -m jobs.bench.decode [--quick] [--json FILE] [--codecs hevc,av1] [--peers secondsight,decord2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from jobs.bench.clips import read_number, write_clip
from jobs.bench.decode_peers import CHILD_PEAK_MB, PEERS, RATE, peak_mb
from pipeline.errors import UsageError

X264 = {"preset": "medium", "crf": "23"}

#: name -> (file, encoder, width, height, seconds, encoder options)
CLIPS: dict[str, tuple[str, str, int, int, int, dict[str, str]]] = {
    "h264-250": ("h264_250.mp4", "libx264", 1280, 720, 30, {**X264, "g": "250"}),
    "h264-48": ("h264_48.mp4", "libx264", 1280, 720, 30, {**X264, "g": "48", "keyint_min": "48"}),
    "hevc": ("hevc.mp4", "libx265", 1920, 1080, 8, {"preset": "fast", "x265-params": "pools=none:log-level=error"}),
    "vp9": ("vp9.webm", "libvpx-vp9", 1280, 720, 12, {"deadline": "realtime", "cpu-used": "6", "b": "2M"}),
    "av1": ("av1.mp4", "libsvtav1", 1280, 720, 12, {"preset": "10", "g": "120", "svtav1-params": "lp=1"}),
}


def worker(peer: str, path: str, fps: Fraction, cores: int) -> dict[str, Any]:
    """Runs one peer once in this process: processor and wall time in s, peak memory in MB, what it gave."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    sample = PEERS[peer]
    if peer == "torchcodec":
        import torchcodec.decoders  # noqa: F401 importing is not decoding
    if peer == "opencv":
        import cv2  # noqa: F401
    if peer == "decord2":
        import decord  # noqa: F401
    import pipeline.decode
    import pipeline.probe  # noqa: F401

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    reading = 0.0
    found: list[tuple[float, int | None]] = []
    wall, cpu = time.perf_counter(), spent()
    for seconds, picture in sample(path, fps, cores):
        before = time.process_time()
        found.append((seconds, read_number(picture)))
        reading += time.process_time() - before
    cpu, wall = spent() - cpu - reading, time.perf_counter() - wall - reading
    return {"cpu_s": cpu, "wall_s": wall, "peak_mb": peak_mb("self") + CHILD_PEAK_MB[0], "found": found}


def judge(found: list[tuple[float, int | None]], fps: Fraction, frames: int) -> tuple[int, float]:
    """(wanted times at which another frame or none came, largest error of a claimed time in ms)."""
    expected = []
    k = 0
    while (number := int(k / fps * RATE)) < frames:
        expected.append(number)
        k += 1
    numbers = [number for _, number in found]
    if fps > RATE:
        expected = sorted(set(expected))
    wrong = sum(a != b for a, b in zip(expected, numbers, strict=False)) + abs(len(expected) - len(numbers))
    errors = [abs(seconds - number / RATE) for seconds, number in found if number is not None]
    return wrong, 1000 * max(errors, default=0.0)


def raw_decode_s(path: str, runs: int) -> float:
    """Processor seconds of a full single-threaded decode by the ffmpeg command; the least of `runs`."""
    best = float("inf")
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-an", "-f", "null", "-"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def make(name: str, folder: Path, quick: bool) -> tuple[Path, int]:
    """The clip (made where it is not there yet) and its number of frames."""
    file, encoder, width, height, seconds, options = CLIPS[name]
    if quick:
        width, height, seconds = width // 2, height // 2, seconds // 2
    path = folder / f"{width}x{height}_{seconds}s_{file}"
    if not path.exists():
        part = path.with_name("part_" + path.name)
        write_clip(part, encoder, seconds * RATE, size=(width, height), rate=RATE, options=options)
        part.rename(path)
    return path, seconds * RATE


def run_apart(peer: str, path: Path, fps: Fraction, cores: int) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "jobs.bench.decode", "--worker", peer, str(path), str(fps), str(cores)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    if done.returncode:
        print(f"  {peer} failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:150]}")
        return None
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def lengths(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Peak memory over the length of the video."""
    rows = []
    for seconds in (20, 80) if quick else (20, 80, 320):
        path = folder / f"long_{seconds}s.mp4"
        if not path.exists():
            part = path.with_name("part_" + path.name)
            write_clip(part, "libx264", seconds * RATE, size=(384, 216), options={"preset": "ultrafast", "g": "250"})
            part.rename(path)
        result = run_apart("secondsight", path, Fraction(1), 1)
        if result:
            rows.append({"seconds": seconds, "peak_mb": result["peak_mb"]})
            print(f"  {seconds:>4} s of video: {result['peak_mb']:.0f} MB")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small clips, 1 fps, one run: about a minute")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--codecs", default=",".join(CLIPS))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rates", help="stills per second (default: 1/2,1,2; quick: 1)")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--no-lengths", action="store_true", help="leave out memory over the length of the video")
    parser.add_argument("--clips-only", action="store_true", help="only make the clips")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        peer, path, fps, cores = args.worker
        print(json.dumps(worker(peer, path, Fraction(fps), int(cores))))
        return 0
    if shutil.which("ffmpeg") is None:
        raise UsageError("this benchmark measures against the ffmpeg command, which is not installed")
    rates = [Fraction(r) for r in (args.rates or ("1" if args.quick else "1/2,1,2")).split(",")]
    runs = 1 if args.quick else args.runs
    cores_tried = [int(c) for c in args.cores.split(",") if int(c) <= len(os.sched_getaffinity(0))]
    folder = Path(tempfile.gettempdir()) / "secondsight-bench-decode"
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    print(
        "ratio of processor time (of wall time), other frames than the one shown then, largest time error, peak memory"
    )
    for name in args.codecs.split(","):
        clip, frames = make(name, folder, args.quick)
        if args.clips_only:
            continue
        raw = raw_decode_s(str(clip), runs + 1)
        print(f"\n{name}: {clip.name}, full decode {raw:.2f} s")
        for cores in cores_tried:
            for fps in rates:
                print(f"  {float(fps):g} fps, {cores} core{'s' if cores > 1 else ''}")
                for peer in args.peers.split(","):
                    results = [r for _ in range(runs) if (r := run_apart(peer, clip, fps, cores))]
                    if not results:
                        rows.append({"codec": name, "fps": float(fps), "cores": cores, "peer": peer, "failed": True})
                        continue
                    cpu, wall = min(r["cpu_s"] for r in results), min(r["wall_s"] for r in results)
                    wrong, error_ms = judge(results[0]["found"], fps, frames)
                    total = len(results[0]["found"])
                    peak = max(r["peak_mb"] for r in results)
                    rows.append(
                        {
                            "codec": name,
                            "fps": float(fps),
                            "cores": cores,
                            "peer": peer,
                            "cpu_ratio": cpu / raw,
                            "wall_ratio": wall / raw,
                            "wrong": wrong,
                            "frames": total,
                            "time_error_ms": error_ms,
                            "peak_mb": peak,
                        }
                    )
                    print(
                        f"    {peer:<12} {cpu / raw:5.2f} ({wall / raw:4.2f})  {wrong:>3} of {total:<3}"
                        f"  {error_ms:7.2f} ms  {peak:5.0f} MB",
                        flush=True,
                    )
    memory = [] if args.clips_only or args.no_lengths else lengths(folder, args.quick)
    if args.json:
        host = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        Path(args.json).write_text(json.dumps({"host": host, "rows": rows, "lengths": memory}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(f"jobs.bench.decode: {error}")
