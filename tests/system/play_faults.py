"""The runs of tests/system/test_faults.py, in a process of their own: a cluster of several nodes must not meet the Ray
of the other tests. Writes what became of them as JSON to the file that is named.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.bench.crash import VISION, read_all
from jobs.bench.faults import Fault, draw, play_seeds
from jobs.bench.raylets import World

#: A seed whose faults are those that the bench draws, over the time that the work takes here.
DRAWN = 3
#: Faults by seed that all meet something: the store fails before anything is read, and a worker is killed as soon as
#: there is one.
SCHEDULES: Mapping[int, Sequence[Fault]] = {
    0: (Fault(0.0, "503", 0.3), Fault(0.0, "decoder", 0.0), Fault(0.0, "node", 0.5)),
    1: (Fault(0.0, "cut", 0.3), Fault(0.0, "driver", 0.0)),
    2: (Fault(0.0, "stall", 0.3), Fault(0.0, "replica", 0.0), Fault(0.0, "disk", 1.0)),
    4: (Fault(0.0, "rank", 0.0),),
}
SLOW = ["--model", "python:jobs.bench.models:sleeping", "--set", "seconds=1.0", "--replicas", "2", *VISION]


def drained(world: World) -> dict[str, Any]:
    """A run during which a node with a replica is drained, as before the end of a pod; what it told, and its rows."""
    with tempfile.TemporaryDirectory() as name:
        log, told = Path(name) / "log", []
        process = world.start("s3://archive/", log, {}, [*SLOW, "--log-format", "json"])
        assert process.stdout is not None
        node = ""
        for line in process.stdout:
            told.append(line)
            if line.startswith("{") and (event := json.loads(line))["event"] == "replica_up":
                node = event["where"]
                if world.holds(node):
                    break
        time.sleep(0.5)  # it has work by now
        began = time.monotonic()
        status = world.drain_node(node, within_s=60.0)
        took_s = time.monotonic() - began
        told += process.stdout.readlines()
        (row,) = read_all(log, "runs")
        return {
            "node": node,
            "status": status,
            "took_s": took_s,
            "ended": process.wait(),
            "events": [json.loads(line) for line in told if line.startswith("{")],
            "windows": [(w["video_id"], w["window"], w["attempt"]) for w in read_all(log, "windows")],
            "videos": [(v["video_id"], v["status"], v["windows"]) for v in read_all(log, "videos")],
            "totals": json.loads(row["totals"]),
        }


def main(out: str) -> None:
    after: list[dict[str, Any]] = []
    outcomes = play_seeds(
        sorted({*SCHEDULES, DRAWN}),
        videos=4,
        seconds=12,
        drawn=lambda seed, work_s: draw(seed, work_s) if seed == DRAWN else SCHEDULES[seed],
        for_ranks=["--include", "clip000*"],
        last=lambda world: after.append(drained(world)),
    )
    Path(out).write_text(json.dumps({"outcomes": {o.seed: asdict(o) for o in outcomes}, "drained": after[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
