"""Kill -9 of the driver at random moments of a run, then run again: every video once, nothing lost, nothing twice.

    python -m jobs.bench.crash --rounds 20            # drivers on one Ray cluster that outlives them
    python -m jobs.bench.crash --rounds 20 --alone    # each driver with a Ray of its own, which dies with it

Each round starts `secondsight run` in a process of its own on an empty log, kills it at a random moment of its work
(the clock starts with the run's row in the log), once or twice, and then lets it finish. The log must then equal, row
for row, that of a run that nobody disturbed; only times and the names of runs and replicas may differ. Rows are read
by delta-rs and pyarrow, not by our own code. With `--alone`, no process of a killed run may
be left, but for two agents of Ray, which knock at their dead head for a minute before they end too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.bench.clips import write_clip

MODEL = ["--model", "python:jobs.bench.models:colours"]
VISION = ["--window", "4", "--overlap", "1", "--fps", "4", "--short-side", "64"]

#: Columns that two runs over the same archive must agree in.
SAME: dict[str, tuple[str, ...]] = {
    "videos": (
        "video_id", "config_hash", "duration_us", "offset_us", "width", "height", "rotation", "codec",
        "frame_rate", "size_bytes", "status", "reason", "windows", "frames", "events", "lost_us",
    ),
    "windows": ("video_id", "window", "start_us", "end_us", "frame_us", "model", "truncated", "answer"),
    "events": (
        "video_id", "start_us", "end_us", "kind", "text", "confidence", "model", "window_first", "window_last",
        "evidence_us", "attributes",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Round:
    """`kills_s`: after the run's row appeared. `kept`: videos in the log after each kill. `wrong`: what differed."""

    kills_s: list[float]
    kept: list[int]
    left_processes: int
    wrong: list[str]


def make_archive(folder: Path, videos: int, seconds: float = 12) -> Path:
    """Clips of different content, one of them twice, and one that is no video."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(videos):
        write_clip(
            folder / f"clip{number:03}.mp4",
            "libx264",
            round(10 * seconds),
            rate=10,
            size=(160, 96),
            first=1000 * number,
            options={"preset": "ultrafast", "g": "20"},
        )
    (folder / "twice.mp4").write_bytes((folder / "clip000.mp4").read_bytes())
    (folder / "no_video.mp4").write_text("not a video")
    return folder


def rows(log: Path) -> dict[str, Counter[str]]:
    """The rows of a log as text, restricted to `SAME`, with how often each is there; and every name of every video,
    wherever it is kept (with its video, or beside it when it was found later)."""
    found = {
        record: Counter(json.dumps({c: row[c] for c in columns}, sort_keys=True) for row in read_all(log, record))
        for record, columns in SAME.items()
    }
    names = {(row["video_id"], uri) for row in read_all(log, "videos") for uri in row["uris"]}
    names |= {(row["video_id"], row["uri"]) for row in read_all(log, "names")}
    return {**found, "names": Counter(map(" ".join, names))}


def read_all(log: Path, record: str) -> Iterator[dict[str, Any]]:
    """The rows of one kind of record in the newest version of a log."""
    import deltalake
    import pyarrow.parquet as pq

    for file in deltalake.DeltaTable(str(log)).file_uris(file_pruning_predicate=f"record = '{record}'"):
        yield from pq.ParquetFile(file).read().to_pylist()


def committed(log: Path) -> int:
    """How many videos a reader sees now; -1 where there is no log yet."""
    import deltalake

    return sum(1 for _ in read_all(log, "videos")) if deltalake.DeltaTable.is_deltatable(str(log)) else -1


def differences(log: dict[str, Counter[str]], truth: dict[str, Counter[str]]) -> list[str]:
    """What a log has too much or too little of, one line per table."""
    wrong = []
    for record, expected in truth.items():
        missing, surplus = expected - log[record], log[record] - expected
        if missing or surplus:
            sample = next(iter(surplus or missing))
            wrong.append(f"{record}: {missing.total()} missing, {surplus.total()} too many, such as {sample[:300]}")
    return wrong


def start(archive: Path, log: Path, address: str) -> subprocess.Popen[str]:
    """`secondsight run` in a process of its own; `address` "local": with a Ray of its own."""
    command = [sys.executable, "-m", "jobs.run", str(archive), "--log", str(log), "--replicas", "1"]
    command += ["--address", address, *MODEL, *VISION]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(archive: Path, log: Path, address: str) -> str:
    """Run to the end; returns what was printed. Raises where the exit status says that the run itself failed."""
    process = start(archive, log, address)
    out, err = process.communicate(timeout=300)
    if process.returncode not in (0, 3):  # 3: finished, one file is no video; 0: everything was there already
        raise RuntimeError(f"run ended with status {process.returncode}: {out}{err}")
    return out


def killed_after(process: subprocess.Popen[str], log: Path, seconds: float) -> set[int] | None:
    """Kill -9 `seconds` after the run's row appears; the processes that it had, or None when it was quicker."""
    runs = _begun(log) + 1
    while process.poll() is None and _begun(log) < runs:
        time.sleep(0.005)
    below = descendants(process.pid)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return below if process.returncode == -signal.SIGKILL else None


def _begun(log: Path) -> int:
    """How many runs have begun: their rows are the log's first files."""
    return len(list(log.glob("record=runs/*.parquet")))


def descendants(pid: int) -> set[int]:
    """Every process below `pid` now."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def left_over(pids: set[int], within_s: float = 20.0) -> int:
    """How many of these processes still run after some time to notice that their driver is gone."""
    deadline = time.monotonic() + within_s
    while (left := {p for p in pids if _runs(p)}) and time.monotonic() < deadline:
        time.sleep(0.1)
    return len(left)


def _runs(pid: int) -> bool:
    process = Path(f"/proc/{pid}")
    try:
        if (process / "cmdline").read_bytes().startswith((b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")):
            return False
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def play(
    archive: Path, log: Path, truth: dict[str, Counter[str]], kills_s: Sequence[float], address: str = "local"
) -> Round:
    """One round: kill as often as `kills_s` says, each time after so many seconds of work, then finish and compare."""
    kept, left, done = [], 0, []
    for delay in kills_s:
        below = killed_after(start(archive, log, address), log, delay)
        if below is None:
            break
        done.append(round(delay, 3))
        left += left_over(below)
        kept.append(committed(log))
    finish(archive, log, address)
    return Round(done, kept, left, differences(rows(log), truth))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--alone", action="store_true", help="each driver starts a Ray of its own")
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--json", type=Path, help="also write the rounds there")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chance = random.Random(args.seed)
    address = "local" if args.alone else _cluster()
    with tempfile.TemporaryDirectory(prefix="secondsight-crash-") as folder:
        archive = make_archive(Path(folder) / "archive", args.videos)
        began = time.monotonic()
        finish(archive, Path(folder) / "truth", address)
        whole_s = time.monotonic() - began
        truth = rows(Path(folder) / "truth")
        work_s = _work_s(Path(folder) / "truth")
        counts = {record: found.total() for record, found in truth.items()}
        print(f"undisturbed: {whole_s:.1f} s, {work_s:.1f} s of it work; rows: {counts}")
        results = []
        for number in range(3 if args.quick else args.rounds):
            kills = [chance.uniform(0, work_s) for _ in range(chance.choice((1, 1, 2)))]
            result = play(archive, Path(folder) / f"log{number}", truth, kills, address)
            results.append(result)
            said = "as undisturbed" if not result.wrong else "; ".join(result.wrong)
            at = ", ".join(
                f"{k:.2f} s ({n} videos in the log)" for k, n in zip(result.kills_s, result.kept, strict=True)
            )
            print(f"round {number + 1}: killed at {at or 'no time: it was quicker'}; then {said}", flush=True)
        bad = sum(bool(r.wrong) for r in results)
        kills_done = sum(len(r.kills_s) for r in results)
        left = sum(r.left_processes for r in results)
        print(f"{len(results)} rounds, {kills_done} kills: {bad} logs differ, {left} processes left behind")
        if args.json:
            args.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    return 1 if bad or left else 0


def _cluster() -> str:
    """Start a Ray cluster in this process; returns its address."""
    from workers.cluster import start_local

    start_local()
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _work_s(log: Path) -> float:
    """How long the run of this log worked, from its own row."""
    (row,) = read_all(log, "runs")
    return float(json.loads(row["totals"])["elapsed_s"])


if __name__ == "__main__":
    sys.exit(main())
