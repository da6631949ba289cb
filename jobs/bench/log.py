"""The event log against its peers: writing it, its size, and "what goes on in video v at second t" as it grows.

    python -m jobs.bench.log --quick           10^5 and 10^6 events, about a minute
    python -m jobs.bench.log                   10^6 and 10^7
    python -m jobs.bench.log --large           10^8 too (6 GB of disk, and 25 GB more for SQLite; an hour)
    python -m jobs.bench.log --large --folder DIR      the same, with the logs made there, kept, and used again

Every engine answers the same random questions over the same rows, one process and one thread each where it can be
told; answers are compared. Peers read the log's own Parquet files (sorted by video and start, 10^6 rows each) or, for
SQLite, its own table with an index on (video_id, start_us, end_us). A cold time is a whole process: interpreter,
imports, opening, one answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs.bench.log_large import at_a_billion, large_log
from jobs.bench.log_seconds import by_second, cold_on_s3, picture
from jobs.bench.log_upkeep import beside_a_compaction
from jobs.bench.log_write import committing, writing


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.log", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10^5 and 10^6 events")
    parser.add_argument("--large", action="store_true", help="10^8 events too")
    parser.add_argument("--folder", metavar="DIR", help="make the large logs there, keep them, and use them again")
    parser.add_argument("--make", action="store_true", help="only make the large logs in --folder")
    parser.add_argument("--only", choices=["write", "upkeep", "seconds"], help="only this part")
    parser.add_argument("--questions", type=int, default=200, help="asked of each engine (default: 200)")
    parser.add_argument(
        "--sqlite-up-to", type=float, default=1e8, metavar="EVENTS", help="make SQLite's table up to this size"
    )
    parser.add_argument("--no-s3", action="store_true", help="leave out the S3 server")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--picture", metavar="FILE", help="draw the growth curve there (SVG)")
    args = parser.parse_args(argv)
    sizes = [10**5, 10**6] if args.quick else [10**6, 10**7, *([10**8] if args.large else [])]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, kept = Path(name), Path(args.folder or name)
        if args.make:
            for size in sizes:
                large_log(kept / f"log-{size}", size)
            return 0
        if args.only in (None, "write"):
            figures["write"] = writing(folder / "written", 100 if args.quick else 1000)
            print_rows("writing through EventLog.commit", figures["write"])
            figures["commit"] = committing(folder, quick=args.quick, s3=not args.no_s3)
            print_rows("commits of small videos (10 events each), one committer", figures["commit"])
        if args.only in (None, "upkeep"):
            figures["upkeep"] = beside_a_compaction(folder / "upkeep", 40 if args.quick else 400)
            print_rows("readers and a writer beside a compaction", figures["upkeep"])
        if args.only in (None, "seconds"):
            figures["by second"] = []
            for size in sizes:
                leave = ("SQLite, index",) if size > args.sqlite_up_to else ()
                rows = by_second(kept / f"log-{size}", size, args.questions, args.folder is not None, leave)
                figures["by second"] += rows
                print_rows(f"by second, {size:.0e} events", rows)
            if not args.no_s3:
                figures["cold on S3"] = cold_on_s3(10**5 if args.quick else 10**6)
                print_rows("one lookup by id on an S3 server, nothing cached", figures["cold on S3"])
            figures["model"] = [at_a_billion(figures["by second"][-1]["keys"], kept / f"log-{sizes[-1]}")]
            print_rows("bytes of a cold lookup at 10^9 events, computed from this log's index", figures["model"])
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    if args.picture and "by second" in figures:
        Path(args.picture).write_text(picture(figures["by second"]))
    return 0


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A table for people."""
    print(f"\n{title}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))))
    sys.stdout.flush()


def _cell(value: object) -> str:
    if isinstance(value, float) and value < 100:
        return f"{value:,.2f}"
    return f"{value:,.0f}" if isinstance(value, int | float) else "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
