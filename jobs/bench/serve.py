"""Load on the service, on loopback: requests a second and how long the slowest hundredth takes.

    python -m jobs.bench.serve [--quick] [--json FILE]

One server process (uvicorn, one event loop), one client process with 1, 16 and 64 connections that each ask again as
soon as they have their answer. Three logs of growing size, so that growth shows. Asked are the second of a video, and
words. Beside them, in the same run and by the same client:

  nothing      a FastAPI handler that answers a constant: what the framework and the machine leave room for
  duckdb       the same question by second as SQL, over the same Parquet files, in the same application
  no HTTP      the same lookup called in the server's process, without HTTP

Client and server share the machine: the figures are to be compared with each other, not with those of other machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONNECTIONS = (1, 16, 64)
EVENTS = 1000  # of a video
WORDS = ("circle", "red", "leaves", "door", "opens", "person", "walks", "car", "stops", "light", "rain", "falls")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller logs, shorter runs: about a minute")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    sizes = (10_000, 100_000) if args.quick else (10_000, 100_000, 1_000_000)
    lasts_s = 1.5 if args.quick else 6.0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        for size in sizes:
            log = Path(folder, f"log-{size}")
            ids = make_log(log, size)
            rows += measured(str(log), ids, size, lasts_s)
    show(rows)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def make_log(path: Path, events: int) -> list[str]:
    """A log of videos of `EVENTS` events each, of an hour; their ids."""
    import hashlib

    from pipeline.event import Event
    from pipeline.log import EventLog, RunRecord, VideoResult
    from pipeline.plan import SECOND_US

    log = EventLog.open(str(path), create=True)
    log.begin_run(RunRecord("run", "c", {}, "none", "w", "0", {}, 1))
    draw = random.Random(events)
    ids = []
    for number in range(events // EVENTS):
        identity = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
        ids.append(identity)
        starts = sorted(draw.randrange(3600 * SECOND_US) for _ in range(EVENTS))
        said = tuple(
            Event(s, s + length, draw.choice(WORDS[:4]), " ".join(draw.choices(WORDS, k=6)), 0.9, 0, 0, (s,), {})
            for s in starts
            for length in [draw.randrange(1, 20 * SECOND_US)]
        )
        result = VideoResult(
            identity, "run", "c", (f"/archive/{number}.mp4",), 1, "done", duration_us=3600 * SECOND_US, events=said
        )
        log.commit([result])
    log.finish_run("run", {}, "done")
    log.compact()
    return ids


def measured(log: str, ids: list[str], size: int, lasts_s: float) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    ready: Any = context.Queue()
    server = context.Process(target=serve, args=(log, ready), daemon=True)
    server.start()
    try:
        port = ready.get(timeout=300)
        draw = random.Random(1)

        def second() -> str:
            return f"video={draw.choice(ids)}&t={draw.randrange(3600)}"

        asked: dict[str, Callable[[], str]] = {
            "nothing": lambda: "/bench/nothing",
            "by second": lambda: f"/api/at?{second()}",
            "by second, duckdb": lambda: f"/bench/duckdb?{second()}",
            "by words": lambda: f"/api/search?q={'+'.join(draw.sample(WORDS, 2))}&limit=10",
        }
        rows = []
        for name, path in asked.items():
            for connections in CONNECTIONS:
                took, failed, within_s = asyncio.run(load(port, path, connections, lasts_s))
                rows.append(row(size, name, connections, took, failed, within_s))
        lookups = 400 if lasts_s < 2 else 2000
        took = json.loads(asyncio.run(fetched(port, f"/bench/inside?n={lookups}")))["took_s"]
        rows.append(row(size, "by second, no HTTP", 1, took, 0, sum(took)))
        return rows
    finally:
        server.terminate()
        server.join(20)


def row(size: int, name: str, connections: int, took: list[float], failed: int, within_s: float) -> dict[str, Any]:
    ordered = sorted(took)
    return {
        "events": size,
        "asked": name,
        "connections": connections,
        "per_s": len(took) / within_s,
        "p50_ms": statistics.median(ordered) * 1e3,
        "p99_ms": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1e3,
        "requests": len(took),
        "failed": failed,
    }


def serve(log: str, ready: Any) -> None:
    """The service with the handlers beside it that it is compared with, in a process of its own."""
    import uvicorn

    from jobs.serve.app import create_app
    from jobs.serve.settings import Settings

    guard: Any = create_app(Settings(log))
    beside(guard.app)
    listening = socket.socket()
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as jobs/serve/command.py does
    listening.bind(("127.0.0.1", 0))
    listening.listen(256)
    ready.put(listening.getsockname()[1])
    uvicorn.Server(uvicorn.Config(guard, log_level="error", http="h11", ws="none")).run([listening])


def beside(app: Any) -> None:
    from fastapi import Response

    site = app.state.site
    facts: list[Any] = []

    async def nothing() -> Response:
        return Response(b'{"events":[]}', media_type="application/json")

    async def by_duckdb(video: str, t: int) -> Response:
        def ask() -> bytes:
            if not facts:
                facts.append(site.archive.facts())
            rows = facts[0].rows(
                "select * from events where video_id = $v and start_us < $e and end_us > $s order by start_us",
                {"v": video, "s": t * 1_000_000, "e": (t + 1) * 1_000_000},
            )
            return json.dumps(rows).encode()

        return Response(await site.ask(ask), media_type="application/json")

    async def inside(n: int) -> Response:
        def ask() -> list[float]:
            entries = [e.video_id for e in site.archive.query.entries()]
            draw, took = random.Random(2), []
            for _ in range(n):
                video, second = draw.choice(entries), draw.randrange(3600) * 1_000_000
                began = time.perf_counter()
                site.archive.query.at(video, second).to_pylist()
                took.append(time.perf_counter() - began)
            return took

        return Response(json.dumps({"took_s": await site.work(ask)}), media_type="application/json")

    for path, handler in (("nothing", nothing), ("duckdb", by_duckdb), ("inside", inside)):
        app.add_api_route(f"/bench/{path}", handler)
        app.router.routes.insert(0, app.router.routes.pop())  # before the page, which takes every path


async def load(port: int, path: Callable[[], str], connections: int, lasts_s: float) -> tuple[list[float], int, float]:
    """(seconds of each request, how many failed, seconds in all)."""
    took: list[float] = []
    failed = 0
    loop = asyncio.get_running_loop()

    async def opened() -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: float, count: bool) -> None:
        nonlocal failed
        while True:
            began = loop.time()
            status, _ = await exchange(reader, writer, path())
            if count:
                took.append(loop.time() - began)
                failed += status != 200
            if loop.time() >= until:
                return

    lines = await opened()
    await asyncio.gather(*(one(*line, loop.time() + lasts_s / 5, False) for line in lines))  # caches fill
    for _, writer in lines:  # the server may have ended one that waited for the others
        writer.close()
    lines = await opened()
    began = loop.time()
    await asyncio.gather(*(one(*line, began + lasts_s, True) for line in lines))
    within_s = loop.time() - began
    for _, writer in lines:
        writer.close()
    return took, failed, within_s


async def fetched(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status, body = await exchange(reader, writer, path)
    writer.close()
    if status != 200:
        raise RuntimeError(f"{path}: {status} {body[:200]!r}")
    return body


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[int, bytes]:
    """One request on a connection that stays open. A client of a dozen lines, so that little of the time is its own."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(next(line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")))
    return int(head[9:12]), await reader.readexactly(length)


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'events':>9}  {'asked':<20} {'conn.':>5} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8}  {'of nothing':>10}"
    )
    limit = {(r["events"], r["connections"]): r["per_s"] for r in rows if r["asked"] == "nothing"}
    for r in rows:
        share = r["per_s"] / limit[(r["events"], r["connections"])]
        failed = f"  {r['failed']} FAILED" if r["failed"] else ""
        print(
            f"{r['events']:>9,}  {r['asked']:<20} {r['connections']:>5} {r['per_s']:>10,.0f} {r['p50_ms']:>8.2f}"
            f" {r['p99_ms']:>8.2f}  {share:>10.2f}{failed}"
        )


if __name__ == "__main__":
    sys.exit(main())
