"""A run on a cluster of several nodes while everything around it fails, from a schedule drawn from a seed.

    python -m jobs.bench.faults --seeds 50
    python -m jobs.bench.faults --quick          # 3 seeds
    python -m jobs.bench.faults --first 17 --seeds 1   # one of them again

A Ray cluster of several raylets runs on this machine (ray.cluster_utils.Cluster); the archive lies on an S3-speaking
server on loopback (moto) behind a proxy; the log lies on a small file system of its own where this process may mount
one (root). While `secondsight run` works, the schedule kills decode workers, replicas, the driver and nodes (others
join), makes the store answer 503, cut connections in the middle or stall, and fills the log's disk. A killed driver is
started again with the same command. In the end the log must equal, row for row, that of a run that nobody disturbed
(jobs/bench/crash.py says which columns); or the videos that differ are named as failed, and `run --retry-failed` makes
it equal. Rows are read by delta-rs and pyarrow.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import http.server
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs.bench.crash import MODEL, VISION, differences, make_archive, read_all, rows

Kind = Literal["decoder", "replica", "driver", "node", "503", "cut", "stall", "disk"]
KINDS: tuple[Kind, ...] = ("decoder", "replica", "driver", "node", "503", "cut", "stall", "disk")
DISK_BYTES = 48 << 20
NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200 << 20}
PATIENCE_S = 420.0  # for one run, whatever happens to it


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


def draw(seed: int, kinds: Sequence[Kind] = KINDS, work_s: float = 12.0) -> list[Fault]:
    """Two to five faults over the time that the work takes."""
    chance = random.Random(seed)
    faults = [
        Fault(chance.uniform(0.0, work_s), chance.choice(kinds), chance.uniform(0.5, 4.0))
        for _ in range(chance.randint(2, 5))
    ]
    return sorted(faults, key=lambda f: f.at_s)


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to `upstream` (host, port). `mode`: "" or the fault that every GET meets."""

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream, self.mode, self.met = upstream, "", 0
        super().__init__(("127.0.0.1", 0), _Passing)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error of ours."""


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        self._pass()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = self.server.mode if self.command == "GET" else ""
        self.server.met += bool(mode)
        if mode == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if mode == "stall":
            time.sleep(1.5)
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if mode == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def s3(archive: Path) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """The archive's files in bucket "archive" of a server behind a proxy, and the environment that reaches it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy((host, port))
    environment = {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        _request(host, port, "PUT", "/archive")
        for path in sorted(archive.iterdir()):
            _request(host, port, "PUT", f"/archive/{path.name}", path.read_bytes())
        yield proxy, environment
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()


def _request(host: str, port: int, method: str, path: str, body: bytes = b"") -> None:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"}
    connection.request(method, path, body, signed)
    answer = connection.getresponse()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {answer.read()[:200]!r}")
    connection.close()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system of `DISK_BYTES` at a new folder; False where this process may not."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


class World:
    """The cluster, and what can be done to it and to the runs on it."""

    def __init__(self, nodes: int = 2) -> None:
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_health_check_period_ms", "1000")  # a dead node is noticed within seconds
        os.environ.setdefault("RAY_health_check_failure_threshold", "3")
        head = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        self._nodes = [self._cluster.add_node(**NODE) for _ in range(nodes)]

    def close(self) -> None:
        self._cluster.shutdown()

    def add_node(self) -> None:
        self._nodes.append(self._cluster.add_node(wait=False, **NODE))

    def kill_node(self) -> bool:
        if not self._nodes:
            return False
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)
        return True

    def start(self, archive: str, log: Path, environment: Mapping[str, str], *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "jobs.run", archive, "--log", str(log), "--address", self.address]
        return subprocess.Popen(
            [*command, *MODEL, *VISION, *options],
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


def kill_workers(title: bytes, most: int, chance: random.Random) -> int:
    """Kill -9 up to `most` Ray workers that do what `title` says now (Ray sets their process title)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::" + title):
                found.append(int(folder.name))
    victims = chance.sample(found, min(most, len(found)))
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(victims)


class Trial:
    """One seed: a run, its faults, and what the log says in the end."""

    def __init__(self, world: World, proxy: Proxy, environment: Mapping[str, str], disk: Path | None) -> None:
        self._world, self._proxy, self._environment, self._disk = world, proxy, environment, disk
        self._process: subprocess.Popen[str] | None = None

    def play(self, seed: int, log: Path, truth: Mapping[str, Counter[str]], faults: Sequence[Fault]) -> Outcome:
        """Raises where a run cannot be carried out."""
        outcome, chance = Outcome(seed), random.Random(seed)
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
            outcome.faults.append(
                f"{fault.kind} at {time.monotonic() - began:.1f} s{self._do(fault, log, chance, outcome)}"
            )
        try:
            self._world.finish(self._process)
        except RuntimeError:
            if not any(fault.kind == "disk" for fault in faults):
                raise
            self._start(log, outcome)  # a log that cannot be written ends a run; there is room again now
            self._world.finish(self._process)
        self._judge(log, truth, outcome)
        return outcome

    def _start(self, log: Path, outcome: Outcome, *options: str) -> None:
        outcome.drivers += 1
        self._process = self._world.start("s3://archive/", log, self._environment, *options)

    def _do(self, fault: Fault, log: Path, chance: random.Random, outcome: Outcome) -> str:
        """Do it; returns what to add to its description."""
        assert self._process is not None
        match fault.kind:
            case "decoder":
                return f" ({kill_workers(b'_decode_segments', 2, chance)} killed)"
            case "replica":
                return f" ({kill_workers(b'_ModelActor', 1, chance)} killed)"
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


def play_seeds(seeds: Sequence[int], videos: int, seconds: float, say: Any = print) -> list[Outcome]:
    """The undisturbed run, then one trial for each seed."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secondsight-faults-")))
        archive = make_archive(folder / "archive", videos, seconds)
        proxy, environment = stack.enter_context(s3(archive))
        os.environ.update(environment)  # the nodes' processes read the archive too
        world = World()
        stack.callback(world.close)
        disk = folder / "disk"
        mounted = stack.enter_context(small_disk(disk))
        began = time.monotonic()
        world.finish(world.start("s3://archive/", folder / "truth", environment))
        truth = rows(folder / "truth")
        if not truth["events"]:
            raise RuntimeError("the undisturbed run saw nothing: there is nothing to compare with")
        (row,) = read_all(folder / "truth", "runs")
        work_s = float(json.loads(row["totals"])["elapsed_s"])
        counts = {record: found.total() for record, found in truth.items()}
        say(f"undisturbed: {time.monotonic() - began:.1f} s, {work_s:.1f} s of it work; rows: {counts}")
        outcomes = []
        for seed in seeds:
            log = disk / f"log{seed}"
            trial = Trial(world, proxy, environment, disk if mounted else None)
            outcome = trial.play(seed, log, truth, draw(seed, work_s=work_s))
            shutil.rmtree(log)
            outcomes.append(outcome)
            said = "as undisturbed" if not outcome.wrong else "WRONG: " + "; ".join(outcome.wrong)
            said += f" ({len(outcome.named)} failed at first, named: {outcome.named[0][:120]})" if outcome.named else ""
            say(f"seed {seed}: {', '.join(outcome.faults) or 'it was quicker'}; {outcome.drivers} drivers; {said}")
        return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=24, help="length of each video")
    parser.add_argument("--quick", action="store_true", help="3 seeds")
    parser.add_argument("--json", type=Path, help="also write the outcomes there")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seeds = range(args.first, args.first + (3 if args.quick else args.seeds))
    outcomes = play_seeds(seeds, args.videos, args.seconds, lambda line: print(line, flush=True))
    bad = [o.seed for o in outcomes if o.wrong]
    kinds = Counter(fault.split()[0] for o in outcomes for fault in o.faults)
    print(f"{len(outcomes)} seeds, faults {dict(kinds)}: {len(bad)} logs differ {bad or ''}")
    if args.json:
        args.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
