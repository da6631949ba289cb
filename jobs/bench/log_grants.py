"""What a log has from a store that grants one conditional put to two writers; and how often moto does.

    python -m jobs.bench.log_grants            eight writers at a time create 1000 objects
    python -m jobs.bench.log_grants --quick    100

Plain moto looks whether an object is there and writes it in two steps; the benchmarks' and tests' server (s3.py) takes
conditional puts one after the other. The second table has our own committers on a disk that grants one commit twice: a
video of theirs is then in the log twice, another one not at all, whatever they do. So a store must keep what it
promises; S3, Google's and Azure's do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from jobs.bench.log import print_rows
from jobs.bench.s3 import s3_server
from pipeline.log import EventLog, RunRecord, VideoResult
from pipeline.log.localstore import LocalStore
from pipeline.log.store import open_store

WRITERS = 8


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.log_grants", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 objects")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    figures = {"grants": [granted(plain, 100 if args.quick else 1000) for plain in (True, False)]}
    print_rows(f"{WRITERS} writers create an object at the same time", figures["grants"])
    with tempfile.TemporaryDirectory() as folder:
        figures["log"] = twice(Path(folder) / "log")
    print_rows("two committers, one commit granted to both", figures["log"])
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    return 0


def granted(plain: bool, objects: int) -> dict[str, Any]:
    """How many objects an S3 server told no, one or several of its writers to have created."""
    told = Counter[str]()
    with s3_server(plain) as bucket:
        stores = [open_store(f"{bucket}/grants") for _ in range(WRITERS)]
        together = threading.Barrier(WRITERS)

        def write(number: int) -> None:
            for name in (f"object-{i}" for i in range(objects)):
                together.wait()
                if stores[number].create(name, bytes(2000)):
                    told[name] += 1

        threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    count = Counter(told[f"object-{i}"] for i in range(objects))
    server = "moto" if plain else "moto, conditional puts one after the other"
    return {"server": server, "objects": objects, "granted once": count[1], "never": count[0]} | {
        "to several": sum(of for times, of in count.items() if times > 1)
    }


class Twice(LocalStore):
    """A disk that grants a commit that is already there."""

    def create(self, path: str, data: bytes) -> bool:
        if path.startswith("_delta_log/"):
            self.put(path, data)
            return True
        return super().create(path, data)


def twice(path: Path) -> list[dict[str, Any]]:
    """Committer a puts video x; b, which has not seen that, puts y as the same version; then a is offered y too."""
    a, b = EventLog.open(str(path), create=True), EventLog.open(str(path))
    for log, run in ((a, "a"), (b, "b")):
        log.begin_run(RunRecord(run, "config", {}, "bench", "", "", {}, 0))
    a.done("config")
    b.done("config")
    a.commit([_video("x", "a")])
    assert b._writing is not None
    b._writing.store = Twice(str(path))
    b.commit([_video("y", "b")])
    a.commit([_video("y", "a")])
    there = Counter(a.snapshot().table("videos", ["video_id"])["video_id"].to_pylist())
    return [{"video": name, "acknowledged": times, "rows": there[name]} for name, times in (("x", 1), ("y", 2))]


def _video(name: str, run: str) -> VideoResult:
    return VideoResult(name, run, "config", (f"/{name}.mp4",), 1, "done", duration_us=1)


if __name__ == "__main__":
    sys.exit(main())
