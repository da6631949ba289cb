"""A run on a cluster of several nodes while everything around it fails, from a schedule drawn from a seed.

    python -m jobs.bench.faults --seeds 50
    python -m jobs.bench.faults --quick          # 3 seeds
    python -m jobs.bench.faults --first 17 --seeds 1   # one of them again

A Ray cluster of several raylets runs on this machine (ray.cluster_utils.Cluster); the archive lies on an S3-speaking
server on loopback (moto) behind a proxy; the log lies on a small file system of its own where this process may mount
one (root). While `secondsight run` works, the schedule kills decode workers, replicas, the driver and nodes (others
join), makes the store answer 503, cut connections in the middle or stall, and fills the log's disk. Every fifth run is
watched by a Qwen3-VL mixture of experts (the bundled checkpoint) in a gang of two ranks on CPUs, and one of those is
killed. A killed driver is started again with the same command. In the end the log must equal, row for row, that of a
run that nobody disturbed (jobs/bench/crash.py says which columns); or the videos that differ are named as failed, and
`run --retry-failed` makes it equal. Rows are read by delta-rs and pyarrow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs.bench.breakable import Proxy, s3, small_disk
from jobs.bench.crash import MODEL, VISION, differences, make_archive, read_all, rows
from model.bundled import FOLDER

Kind = Literal["decoder", "replica", "rank", "driver", "node", "503", "cut", "stall", "disk"]
KINDS: tuple[Kind, ...] = ("decoder", "replica", "driver", "node", "503", "cut", "stall", "disk")  # of every run
GANG_EVERY = 5  # of so many seeds, one has a replica of ranks
NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200 << 20}
NODE_TRIES = 4
PATIENCE_S = 1500.0  # for one run, whatever happens to it
APPEAR_S = 60.0  # in which a rank that is to be killed must have been started


@dataclass(frozen=True, slots=True)
class Fault:
    """`at_s`: after the run's row appeared. `for_s`: how long the store or the disk is bad, or the node is missing."""

    at_s: float
    kind: Kind
    for_s: float


@dataclass(slots=True)
class Outcome:
    seed: int
    faults: list[str] = field(default_factory=list)
    drivers: int = 0
    named: list[str] = field(default_factory=list)  # videos that failed, with their reasons
    wrong: list[str] = field(default_factory=list)


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


class World:
    """The cluster, and what can be done to it and to the runs on it."""

    def __init__(self, nodes: int = 2) -> None:
        from ray.cluster_utils import Cluster

        from workers.cluster import be_patient

        be_patient()
        os.environ.setdefault("RAY_health_check_period_ms", "1000")  # a dead node is noticed within seconds
        os.environ.setdefault("RAY_health_check_failure_threshold", "5")
        head = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        assert self._cluster.head_node is not None
        self._session: bytes = os.path.basename(self._cluster.head_node.get_session_dir_path()).encode()
        self._nodes: list[Any] = []
        for _ in range(nodes):
            self.add_node()

    def close(self) -> None:
        self._cluster.shutdown()

    def add_node(self) -> None:
        """Raises RuntimeError where none comes up: on a machine that does not give Ray's agents a second of CPU within
        half a minute."""
        for _ in range(NODE_TRIES):
            with contextlib.suppress(Exception):  # of no common type: Ray raises a bare Exception
                self._nodes.append(self._cluster.add_node(wait=False, **NODE))
                return
        raise RuntimeError(f"no node came up in {NODE_TRIES} tries: this machine is too busy for this benchmark")

    def kill_node(self) -> bool:
        if not self._nodes:
            return False
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)
        return True

    def kill_workers(self, title: bytes, most: int, chance: random.Random) -> int:
        """Kill -9 up to `most` of this cluster's workers that do what `title` says now (Ray sets their process titles);
        how many there were."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(b"ray::" + title):
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    if self._session in Path(f"/proc/{parent}/cmdline").read_bytes():  # its raylet
                        found.append(int(folder.name))
        victims = chance.sample(sorted(found), min(most, len(found)))
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)

    def start(
        self, archive: str, log: Path, environment: Mapping[str, str], options: Sequence[str]
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "jobs.run", archive, "--log", str(log), "--address", self.address]
        return subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> str:
        out, _ = process.communicate(timeout=PATIENCE_S)
        if process.returncode not in (0, 3):
            raise RuntimeError(f"run ended with status {process.returncode}: {out[-2000:]}")
        return out


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
            outcome.faults.append(f"{fault.kind} at {at_s:.1f} s{self._do(fault, log, chance, outcome)}")
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

    def _do(self, fault: Fault, log: Path, chance: random.Random, outcome: Outcome) -> str:
        """Do it; returns what to add to its description."""
        assert self._process is not None
        match fault.kind:
            case "decoder":
                return f" ({self._world.kill_workers(b'_decode_segments', 2, chance)} killed)"
            case "replica":
                title = b"_Coordinator" if "--ranks" in self._options else b"_ModelActor"
                return f" ({self._world.kill_workers(title, 1, chance)} killed)"
            case "rank":
                return f" ({self._kill_rank(chance)} killed)"
            case "driver":
                self._process.kill()
                self._process.communicate()
                self._start(log, outcome)
            case "node":
                killed = self._world.kill_node()
                time.sleep(fault.for_s)
                self._world.add_node()
                return "" if killed else " (none was left)"
            case "503" | "cut" | "stall":
                before, self._proxy.mode = self._proxy.met, fault.kind
                time.sleep(fault.for_s)
                self._proxy.mode = ""
                return f" for {fault.for_s:.1f} s ({self._proxy.met - before} requests met it)"
            case "disk":
                if self._disk is None:
                    return " (not possible here: no file system of its own)"
                ballast = self._disk / "ballast"
                with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while file.write(bytes(1 << 20)):
                        pass
                time.sleep(fault.for_s)
                ballast.unlink(missing_ok=True)
                return f" full for {fault.for_s:.1f} s"
        return ""

    def _kill_rank(self, chance: random.Random) -> int:
        """Kill one, as soon as there is one; how many that were."""
        until = time.monotonic() + APPEAR_S
        while self._process is not None and self._process.poll() is None and time.monotonic() < until:
            if self._world.kill_workers(b"_Rank", 1, chance):
                return 1
            time.sleep(0.1)
        return 0

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


def play_seeds(seeds: Sequence[int], videos: int, seconds: float, say: Any = print) -> list[Outcome]:
    """The undisturbed runs, then one trial for each seed."""
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
        options = {False: [*MODEL, *VISION], True: gang(folder)}
        truths: dict[bool, Undisturbed] = {}
        outcomes = []
        for seed in seeds:
            ranks, log, began = has_ranks(seed), disk / f"log{seed}", time.monotonic()
            if ranks not in truths:
                truths[ranks] = undisturbed(world, environment, options[ranks], folder / f"truth-{ranks}")
                counts = {record: found.total() for record, found in truths[ranks].rows.items()}
                say(f"undisturbed{' on two ranks' * ranks}: {truths[ranks].work_s:.1f} s of work; rows: {counts}")
                began = time.monotonic()
            trial = Trial(world, proxy, environment, options[ranks], disk if mounted else None)
            outcome = trial.play(seed, log, truths[ranks].rows, draw(seed, truths[ranks].work_s))
            shutil.rmtree(log, ignore_errors=True)
            outcomes.append(outcome)
            said = "as undisturbed" if not outcome.wrong else "WRONG: " + "; ".join(outcome.wrong)
            said += f" ({len(outcome.named)} failed at first, named: {outcome.named[0][:120]})" if outcome.named else ""
            faults = ", ".join(outcome.faults) or "it was quicker"
            say(f"seed {seed}: {faults}; {outcome.drivers} drivers, {time.monotonic() - began:.0f} s; {said}")
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
    kinds = Counter(fault.split()[0] for o in outcomes for fault in o.faults)
    print(f"{len(outcomes)} seeds, faults {dict(kinds)}: {len(bad)} logs differ {bad or ''}")
    if args.json:
        args.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
