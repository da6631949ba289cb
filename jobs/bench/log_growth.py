"""The side index at millions of videos: what adding to it costs, and what a lookup in it costs.

    python -m jobs.bench.log_growth            2.5 million videos (10^9 events at 400 each), 5 GB of disk, minutes
    python -m jobs.bench.log_growth --quick    160 000

Videos are added by the committers' own code, commit by commit, with entries as real commits have them; only the data
files are left out, so the last request of a lookup, for a row group, is added to what is counted: its size is known.
Lookups of random videos, half of them among the newest, are made at many moments while the index grows; "at most" is
the worst of all so far.
"""

from __future__ import annotations

import argparse
import binascii
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench.log import print_rows
from jobs.bench.log_write import PER_VIDEO, begun, some_result
from pipeline.log import publisher as publishing
from pipeline.log.entry import Entry, Templates, name_key, pack_entry, pack_names
from pipeline.log.finder import IndexFinder
from pipeline.log.head import HEAD, load
from pipeline.log.index import build
from pipeline.log.keys import Committed
from pipeline.log.localstore import LocalStore
from pipeline.log.protocol import commit_path
from pipeline.log.publisher import Publisher
from pipeline.log.store import fresh_name, open_store

GROUP = 256  # videos of a commit
MOMENTS = 64  # at which lookups are made


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.log_growth", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="160 000 videos")
    parser.add_argument("--videos", type=int, default=2_500_000)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    publishing.RETIRED_S = -1  # no other reader is here: what is merged can go at once
    with tempfile.TemporaryDirectory() as name:
        figures = growth(Path(name), 160_000 if args.quick else args.videos)
    print_rows("the side index as it grows", figures)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    return 0


class Counting(LocalStore):
    """Counts the bytes of new catalogs."""

    written = 0

    def sync(self, paths: Any) -> None:
        self.written += sum(self.size(path) for path in paths if "catalog-" in path)


def growth(folder: Path, videos: int) -> list[dict[str, Any]]:
    """A row at 1/64, 1/16, 1/4 and all of `videos`, and one when all catalogs are merged into one."""
    blob, templates, entry = a_blob(folder / "sample")
    store = Counting(str(folder / "log"))
    publisher = Publisher(store)
    generator, committed = random.Random(1), Committed()
    ids: list[str] = []
    rows: list[dict[str, Any]] = []
    laps: list[float] = []
    worst = Worst()
    cpu, commits = 0.0, -(-videos // GROUP)
    for version in range(1, commits + 1):
        group = [f"{generator.getrandbits(128):032x}" for _ in range(GROUP)]
        now_us = entry.finished_at_us + 1_000_000 * version
        changed = blob.replace(str(entry.finished_at_us).encode(), str(now_us).encode())
        pairs = []
        for video_id in group:
            uri = f"/archive/{video_id[:8]}.mp4"
            pairs.append((binascii.unhexlify(video_id), changed.replace(entry.video_id.encode(), video_id.encode())))
            pairs.append((name_key(uri), pack_names([(video_id, uri)])))
            committed.put(video_id, "done", "")
        ids += generator.sample(group, 2)
        stem = fresh_name()
        publisher.own[stem] = build(pairs, templates, now_us)[1]
        add = {"path": f"record=events/{stem}.parquet", "partitionValues": {"record": "events"}, "size": 1}
        store.put(f"_index/{stem}.idx", publisher.own[stem])
        store.create(commit_path(version - 1), json.dumps({"add": add | {"dataChange": True}}).encode())
        start, used = time.perf_counter(), time.process_time()
        publisher.publish(version - 1)
        laps.append(time.perf_counter() - start)
        cpu += time.process_time() - used
        if version % (commits // MOMENTS) == 0:
            measured(store, ids, worst)
        if version * GROUP >= videos >> 2 * (3 - len(rows)):
            rows.append({"videos": version * GROUP} | measured(store, ids, worst))
            rows[-1] |= {
                "CPU ms a video": 1e3 * cpu / (version * GROUP),
                "commit p50 ms": 1e3 * statistics.median(laps),
            }
            rows[-1] |= {"worst s": max(laps)}
            rows[-1]["KB written a video"] = store.written / (version * GROUP) / 1e3
            rows[-1]["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    start = time.process_time()
    publisher.merge(everything=True)
    rows.append({"videos": len(committed)} | measured(store, ids, Worst()))
    rows[-1]["CPU s of the merger"] = time.process_time() - start
    return rows


@dataclass
class Worst:
    """The worst of all lookups so far."""

    requests: int = 0
    kilobytes: float = 0.0
    more_than_three: int = 0
    lookups: int = 0


def a_blob(path: Path) -> tuple[bytes, Templates, Entry]:
    """The entry of a video of 400 events in a real commit, as bytes; its template; and what it says."""
    log = begun(str(path))
    results = [some_result(f"{i:08x}.mp4", PER_VIDEO, random.Random(i)) for i in range(16)]
    log.commit(results)
    store = open_store(str(path))
    published = load(store)
    assert published is not None
    templates = Templates()
    entries = list(IndexFinder(store, published[0]).all())
    for entry in entries:
        pack_entry(entry, templates)
    entry = max(entries, key=lambda e: len(e.spans))
    return pack_entry(entry, templates), templates, entry


def measured(store: LocalStore, ids: list[str], worst: Worst) -> dict[str, Any]:
    """Cold and warm lookups of random videos, half of them among the newest 2 %, each with one row group."""
    generator = random.Random(len(ids))
    asked = [generator.choice(ids[-(len(ids) // 50) :] if i % 2 else ids) for i in range(200)]
    requests, kilobytes, cold = [], [], []
    for video_id in asked[:60]:
        fresh = open_store(store.uri)
        start = time.process_time()
        published = load(fresh)
        assert published is not None
        (entry,) = IndexFinder(fresh, published[0]).newest(video_id)
        cold.append(1e3 * (time.process_time() - start))
        requests.append(fresh.requests + 1)
        kilobytes.append((fresh.bytes_read + max(span.length for span in entry.spans)) / 1e3)
    worst.requests, worst.kilobytes = max(worst.requests, *requests), max(worst.kilobytes, *kilobytes)
    worst.more_than_three += sum(count > 3 for count in requests)
    worst.lookups += len(requests)
    published = load(store)
    assert published is not None
    finder, warm = IndexFinder(store, published[0]), []
    for video_id in asked:
        start = time.perf_counter()
        finder.newest(video_id)
        warm.append(1e3 * (time.perf_counter() - start))
    return {
        "keys in catalogs": " ".join(f"{c.keys:,}" for c in published[0].catalogs),
        "head KB": store.size(HEAD) / 1e3,
        "requests": statistics.mean(requests),
        "at most": worst.requests,
        "more than 3": f"{worst.more_than_three} of {worst.lookups}",
        "KB": statistics.median(kilobytes),
        "KB at most": worst.kilobytes,
        "cold CPU ms": statistics.median(cold),
        "warm p50 ms": statistics.median(warm),
    }


if __name__ == "__main__":
    sys.exit(main())
