"""A run on a cluster of several nodes while everything around it fails, from a schedule drawn from a seed.

    python -m jobs.bench.faults --seeds 50
    python -m jobs.bench.faults --quick          # 3 seeds
    python -m jobs.bench.faults --first 17 --seeds 1   # one of them again

A Ray cluster of several raylets runs on this machine (ray.cluster_utils.Cluster); the archive lies on an S3-speaking
server on loopback (moto) behind a proxy; the log lies on a small file system of its own where this process may mount
one (root). While `secondsight run` works, the schedule kills decode workers, replicas, the driver and nodes (others
join), makes the store answer 503, cut connections in the middle or stall, and fills the log's disk. Every fifth run is
watched by a Qwen3-VL mixture of experts (the bundled checkpoint) in a gang of two ranks on CPUs, and one of those is
killed. A killed driver is started again with the same command. A fault waits until there is something for it to meet,
and what it met is told. In the end the log must equal, row for row, that of a run that nobody disturbed
(jobs/bench/crash.py says which columns); or the videos that differ are named as failed, and `run --retry-failed` makes
it equal. Rows are read by delta-rs and pyarrow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs.bench.breakable import Proxy, s3, small_disk
from jobs.bench.crash import MODEL, VISION, differences, make_archive, read_all, rows
from jobs.bench.raylets import World
from model.bundled import FOLDER

Kind = Literal["decoder", "replica", "rank", "driver", "node", "503", "cut", "stall", "disk"]
KINDS: tuple[Kind, ...] = ("decoder", "replica", "driver", "node", "503", "cut", "stall", "disk")  # of every run
GANG_EVERY = 5  # of so many seeds, one has a replica of ranks
APPEAR_S = 60.0  # in which there must be something to break: a worker to kill, a request to refuse


@dataclass(frozen=True, slots=True)
class Fault:
    """`at_s`: after the run's row appeared. `for_s`: how long the store or the disk is bad, or the node is missing."""

    at_s: float
    kind: Kind
    for_s: float


@dataclass(frozen=True, slots=True)
class Happened:
    """What became of a fault. `met`: how many processes, requests, nodes or disks it hit; 0: it came to nothing."""

    kind: Kind
    at_s: float
    met: int
    said: str


@dataclass(slots=True)
class Outcome:
    seed: int
    faults: list[Happened] = field(default_factory=list)
    drivers: int = 0
    named: list[str] = field(default_factory=list)  # videos that failed, with their reasons
    wrong: list[str] = field(default_factory=list)

    @property
    def landed(self) -> list[Kind]:
        """The faults that met something."""
        return [fault.kind for fault in self.faults if fault.met]


def has_ranks(seed: int) -> bool:
    """Whether the replicas of this seed's run are gangs of ranks."""
    return seed % GANG_EVERY == GANG_EVERY - 1


def draw(seed: int, work_s: float = 12.0) -> list[Fault]:
    """Two to five faults over the time that the work takes; where there are ranks, one of them dies at least."""
    chance = random.Random(seed)
    kinds: list[Kind] = [chance.choice(KINDS) for _ in range(chance.randint(2, 5))]
    if has_ranks(seed):
        kinds[0] = "rank"
    faults = [Fault(chance.uniform(0.0, work_s), kind, chance.uniform(0.5, 4.0)) for kind in kinds]
    return sorted(faults, key=lambda f: f.at_s)


def gang(folder: Path) -> list[str]:
    """Options of a run that two ranks watch, each window alone. The checkpoint is copied: what comes along with this
    code may be replaced while seeds run."""
    checkpoint = folder / "checkpoint"
    shutil.copytree(FOLDER, checkpoint, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    model = ["--model", str(checkpoint), "--prompt", str(checkpoint / "world.toml"), "--ranks", "2"]
    settings = ["--set", "batch_windows=1", "--set", "max_new_tokens=32"]
    return [*model, *settings, "--window", "8", "--overlap", "0", "--fps", "2", "--short-side", "64"]


class Trial:
    """One seed: a run with `options`, its faults, and what the log says in the end. `disk`: the log's, if it can be
    filled."""

    def __init__(
        self, world: World, proxy: Proxy, environment: Mapping[str, str], options: Sequence[str], disk: Path | None
    ) -> None:
        self._world, self._proxy, self._environment, self._disk = world, proxy, environment, disk
        self._options = list(options)
        self._process: subprocess.Popen[str] | None = None

    def play(self, seed: int, log: Path, truth: Mapping[str, Counter[str]], faults: Sequence[Fault]) -> Outcome:
        outcome, chance = Outcome(seed), random.Random(seed)
        try:
            self._disturb(log, faults, chance, outcome)
            self._judge(log, truth, outcome)
        except (RuntimeError, subprocess.TimeoutExpired) as error:  # a run that could not be carried out
            outcome.wrong = [str(error)]
            if self._process is not None:
                self._process.kill()
        finally:
            self._proxy.mode = ""
        return outcome

    def _disturb(self, log: Path, faults: Sequence[Fault], chance: random.Random, outcome: Outcome) -> None:
        """A run from its beginning to its end, with `faults` on the way."""
        self._start(log, outcome)
        assert self._process is not None
        while self._process.poll() is None and not list(log.glob("record=runs/*.parquet")):
            time.sleep(0.01)
        began = time.monotonic()
        for fault in faults:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=max(0.0, fault.at_s - (time.monotonic() - began)))
            if self._process.returncode is not None:
                break
            at_s = time.monotonic() - began
            met, said = self._do(fault, log, chance, outcome)
            outcome.faults.append(Happened(fault.kind, at_s, met, said))
        try:
            self._world.finish(self._process)
        except RuntimeError:
            if not any(fault.kind == "disk" for fault in faults):
                raise
            self._start(log, outcome)  # a log that cannot be written ends a run; there is room again now
            self._world.finish(self._process)

    def _start(self, log: Path, outcome: Outcome, *options: str) -> None:
        outcome.drivers += 1
        self._process = self._world.start("s3://archive/", log, self._environment, [*self._options, *options])

    def _do(self, fault: Fault, log: Path, chance: random.Random, outcome: Outcome) -> tuple[int, str]:
        """Do it; returns what it met, and that in words."""
        assert self._process is not None
        match fault.kind:
            case "decoder" | "replica" | "rank":
                title = {"decoder": b"_decode_segments", "replica": b"_ModelActor", "rank": b"_Rank"}[fault.kind]
                if fault.kind == "replica" and "--ranks" in self._options:
                    title = b"_Coordinator"
                most = 2 if fault.kind == "decoder" else 1
                killed = self._once_there(lambda: self._world.kill_workers(title, most, chance))
                return killed, f"{killed} killed"
            case "driver":
                self._process.kill()
                self._process.communicate()
                self._start(log, outcome)
                return 1, "killed"
            case "node":
                met = int(self._world.kill_node())
                time.sleep(fault.for_s)
                self._world.add_node()
                return met, "killed, another came" if met else "none was left"
            case "503" | "cut" | "stall":
                before, self._proxy.mode = self._proxy.met, fault.kind
                time.sleep(fault.for_s)
                met = self._once_there(lambda: self._proxy.met - before)
                self._proxy.mode = ""
                return met, f"for {fault.for_s:.1f} s, {met} requests met it"
            case "disk":
                if self._disk is None:
                    return 0, "not possible here: no file system of its own"
                ballast = self._disk / "ballast"
                with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while file.write(bytes(1 << 20)):
                        pass
                time.sleep(fault.for_s)
                ballast.unlink(missing_ok=True)
                return 1, f"full for {fault.for_s:.1f} s"

    def _once_there(self, met: Callable[[], int]) -> int:
        """Look until something is met, the run has ended, or `APPEAR_S` are over."""
        until = time.monotonic() + APPEAR_S
        while not (found := met()) and self._process is not None and self._process.poll() is None:
            if time.monotonic() > until:
                break
            time.sleep(0.1)
        return found

    def _judge(self, log: Path, truth: Mapping[str, Counter[str]], outcome: Outcome) -> None:
        wrong = differences(rows(log), dict(truth))
        named = [
            r for r in read_all(log, "videos") if r["status"] != "done" and not r["uris"][0].endswith("no_video.mp4")
        ]
        outcome.named = [f"{r['uris'][0]}: {r['reason']}" for r in named]
        if wrong and named:  # what is missing is said; taken up again it must be whole
            self._start(log, outcome, "--retry-failed")
            assert self._process is not None
            self._world.finish(self._process)
            wrong = differences(rows(log), dict(truth))
        outcome.wrong = wrong


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a run says that nobody disturbs, and how long it worked."""

    rows: Mapping[str, Counter[str]]
    work_s: float


def undisturbed(world: World, environment: Mapping[str, str], options: Sequence[str], log: Path) -> Undisturbed:
    world.finish(world.start("s3://archive/", log, environment, options))
    truth = rows(log)
    if not truth["events"]:
        raise RuntimeError("the undisturbed run saw nothing: there is nothing to compare with")
    (row,) = read_all(log, "runs")
    return Undisturbed(truth, float(json.loads(row["totals"])["elapsed_s"]))


def play_seeds(
    seeds: Sequence[int],
    videos: int,
    seconds: float,
    say: Any = print,
    drawn: Callable[[int, float], Sequence[Fault]] = draw,
    for_ranks: Sequence[str] = (),
    last: Callable[[World], None] = lambda world: None,
) -> list[Outcome]:
    """The undisturbed runs, then one trial for each seed, with the faults that `drawn(seed, seconds of work)` says.
    `for_ranks`: more options of runs that ranks watch; `last` is called with the cluster in the end."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secondsight-faults-")))
        archive = make_archive(folder / "archive", videos, seconds)
        proxy, environment = stack.enter_context(s3(archive))
        os.environ.update(environment)  # the nodes' processes read the archive too
        world = World()
        stack.callback(world.close)
        disk = folder / "disk"
        mounted = stack.enter_context(small_disk(disk))
        options = {False: [*MODEL, *VISION], True: [*gang(folder), *for_ranks]}
        truths: dict[bool, Undisturbed] = {}
        outcomes = []
        for seed in seeds:
            ranks, log, began = has_ranks(seed), disk / f"log{seed}", time.monotonic()
            if ranks not in truths:
                truths[ranks] = undisturbed(world, environment, options[ranks], folder / f"truth-{ranks}")
                counts = {record: found.total() for record, found in truths[ranks].rows.items()}
                say(f"undisturbed{' on two ranks' * ranks}: {truths[ranks].work_s:.1f} s of work; rows: {counts}")
                began = time.monotonic()
            faults = drawn(seed, truths[ranks].work_s)
            trial = Trial(world, proxy, environment, options[ranks], disk if mounted else None)
            outcome = trial.play(seed, log, truths[ranks].rows, faults)
            shutil.rmtree(log, ignore_errors=True)
            outcomes.append(outcome)
            said = "as undisturbed" if not outcome.wrong else "WRONG: " + "; ".join(outcome.wrong)
            said += f" ({len(outcome.named)} failed at first, named: {outcome.named[0][:120]})" if outcome.named else ""
            happened = ", ".join(f"{f.kind} at {f.at_s:.1f} s ({f.said})" for f in outcome.faults) or "it was quicker"
            say(f"seed {seed}: {happened}; {outcome.drivers} drivers, {time.monotonic() - began:.0f} s; {said}")
        last(world)
        return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=24, help="length of each video")
    parser.add_argument("--quick", action="store_true", help="seeds 2, 3 and 4")
    parser.add_argument("--json", type=Path, help="also write the outcomes there")
    args = parser.parse_args()
    seeds = range(2, 5) if args.quick else range(args.first, args.first + args.seeds)
    outcomes = play_seeds(seeds, args.videos, args.seconds, lambda line: print(line, flush=True))
    bad = [o.seed for o in outcomes if o.wrong]
    kinds = Counter(kind for o in outcomes for kind in o.landed)
    print(f"{len(outcomes)} seeds, faults that met something {dict(kinds)}: {len(bad)} logs differ {bad or ''}")
    if args.json:
        args.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
