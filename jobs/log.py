"""secondsight log: what is in an event log, what failed and why, and its upkeep."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

from jobs.output import add_format, hms, print_table, printable, write
from pipeline.errors import UsageError
from pipeline.log.replaced import REPLACED

if TYPE_CHECKING:
    from pipeline.log import EventLog

DESCRIPTION = """\
What an event log holds: its runs, its videos, what failed and why; and its upkeep.

  secondsight log LOG                 runs, counts, and the failures by reason
  secondsight log LOG --failures      every video that could not be watched, and why
  secondsight log LOG --videos        every video
  secondsight log LOG --check         look for damage; says which videos to run again (exit status 1 if there is any);
                                      --forget takes those out of the log, so that the next run watches them
  secondsight log LOG --compact       merge small files into large sorted ones; runs and readers may go on meanwhile
  secondsight log LOG --vacuum        delete files that no version of the last week needs (--older-than HOURS)

A log is a Delta Lake table. Its rows are told apart by the column `record`: events, videos, windows, runs, names. Any
reader of Delta tables reads it, for instance polars.scan_delta(LOG).filter(polars.col("record") == "events")."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--failures", action="store_true", help="list the videos that failed or were quarantined")
    what.add_argument("--videos", action="store_true", help="list all videos")
    what.add_argument("--check", action="store_true", help="look for missing and damaged files (reads everything)")
    what.add_argument("--compact", action="store_true", help="merge small files, and make the index anew")
    what.add_argument("--vacuum", action="store_true", help="delete files that are no longer needed")
    parser.add_argument(
        "--forget", action="store_true", help="with --check: take damaged videos out, so that the next run does them"
    )
    parser.add_argument("--run", metavar="ID", help="only this run's videos, with --failures and --videos")
    parser.add_argument("--version", metavar="N", type=int, help="show an earlier version (default: newest)")
    parser.add_argument(
        "--older-than", metavar="HOURS", type=int, default=168, help="with --vacuum: age to keep (default: 168, a week)"
    )
    parser.add_argument("--dry-run", action="store_true", help="with --vacuum: only say what would be deleted")
    add_format(parser)


def main(args: argparse.Namespace) -> int:
    from pipeline.log import EventLog

    if args.check:
        return _check(args)
    log = EventLog.open(args.log)
    if args.compact:
        return _compact(log)
    if args.vacuum:
        removed = log.vacuum(args.older_than, args.dry_run)
        print(f"{'would delete' if args.dry_run else 'deleted'} {len(removed)} files")
        return 0
    if args.failures or args.videos:
        return _videos(log, args)
    return _summary(log, args)


def _summary(log: EventLog, args: argparse.Namespace) -> int:
    from pipeline.log.sql import select

    snapshot = log.snapshot(args.version)
    runs = select(snapshot, _RUNS)
    rows = runs.to_pylist()
    if args.format != "table":
        write([{**r, "totals": json.loads(r["totals"] or "{}")} for r in rows], args, lambda: runs)
        return 0
    out = sys.stdout if args.out is None else sys.stderr
    print(f"{printable(log.uri)}  version {snapshot.version}", file=out)
    if not rows:
        print("no runs yet: secondsight run ARCHIVE --log LOG", file=out)
        return 0
    cells = [
        [
            r["run_id"],
            r["status"],
            _date(r["started_at_us"]),
            _took(r["started_at_us"], r["finished_at_us"]),
            r["model"],
            *(f"{r[c]:,}" for c in ("done", "failed", "quarantined", "events")),
            hms(r["watched_us"])[:-4],
        ]
        for r in rows
    ]
    heads = ["done", "failed", "quarantined", "events", "watched"]
    columns: list[str | tuple[str, str]] = ["run", "status", "started (UTC)", "took", "model"]
    columns += [(head, "right") for head in heads]
    print_table(cells, columns, args)
    reasons = select(snapshot, _REASONS).to_pylist()
    if reasons:
        print("\nnot watched:", file=out)
        cells = [[r["code"], f"{r['videos']:,}", r["example"]] for r in reasons]
        print_table(cells, ["reason", ("videos", "right"), ("for example", "fold")], args)
        print("secondsight log LOG --failures lists them all", file=out)
    return 0


#: A video is not watched if no run has done it under any configuration, and it is still there as far as one knows.
_OPEN = f"""
    with {REPLACED}, open as (
        select video_id, run_id, uris, status, reason, finished_at_us from videos
        where status <> 'done' and video_id not in (select video_id from videos where status = 'done')
            and video_id not in (from replaced)
        qualify row_number() over (partition by video_id order by finished_at_us desc, run_id) = 1
    )"""

_RUNS = """
    select r.run_id, r.status, r.started_at_us, r.finished_at_us, r.model, r.config_hash, r.code_version, r.totals,
        count(*) filter (v.status = 'done') as done, count(*) filter (v.status = 'failed') as failed,
        count(*) filter (v.status = 'quarantined') as quarantined,
        coalesce(sum(v.events), 0)::bigint as events,
        coalesce(sum(v.duration_us) filter (v.status = 'done'), 0)::bigint as watched_us
    from runs r left join videos v using (run_id)
    group by all order by r.started_at_us, r.run_id"""

_REASONS = f"""{_OPEN}
    select coalesce(nullif(split_part(reason, ':', 1), ''), status) as code, count(*) as videos,
        arg_min(coalesce(uris[1], video_id) || ': ' || reason, coalesce(uris[1], video_id)) as example
    from open group by code order by videos desc, code"""

_FAILURES = f"""{_OPEN}
    select coalesce(uris[1], video_id) as video, status, reason, run_id, video_id, uris, finished_at_us
    from open where $1 is null or run_id = $1 order by video"""

_VIDEOS = """
    select coalesce(uris[1], video_id) as video, status, duration_us, width, height, codec, frame_rate, windows, events,
        reason, run_id, video_id, uris, size_bytes, decode_s, model_s, finished_at_us
    from videos where $1 is null or run_id = $1 order by video, finished_at_us"""


def _videos(log: EventLog, args: argparse.Namespace) -> int:
    from pipeline.log.sql import select

    table = select(log.snapshot(args.version), _FAILURES if args.failures else _VIDEOS, [args.run])
    if args.format != "table":
        write(table.to_pylist(), args, lambda: table)
    elif args.failures:
        cells = [[r["video"], r["status"], r["reason"], r["run_id"]] for r in table.to_pylist()]
        print_table(cells, [("video", "fold"), "status", ("reason", "fold"), "run"], args)
    else:
        cells = [
            [r["video"], r["status"], hms(r["duration_us"]), _picture(r), r["codec"], f"{r['events']:,}", r["run_id"]]
            for r in table.to_pylist()
        ]
        right = ("duration", "right"), ("events", "right")
        print_table(cells, [("video", "fold"), "status", right[0], "picture", "codec", right[1], "run"], args)
    return 0


def _check(args: argparse.Namespace) -> int:
    from pipeline.log.check import check, forget
    from pipeline.log.store import open_store

    store = open_store(args.log)
    problems = check(store)
    rows = [{"path": p.path, "problem": p.what, "videos": list(p.videos)} for p in problems]
    if args.format == "parquet":
        raise UsageError("--check answers as table, json, jsonl or csv")
    if args.format != "table":
        write(rows, args, _no_arrow)
    elif not problems:
        print("no damage found")
    else:
        cells = [[p.path, p.what, "\n".join(p.videos)] for p in problems]
        print_table(cells, [("file", "fold"), ("what is wrong", "fold"), ("videos to run again", "fold")], args)
    if problems and args.forget:
        names = forget(store, problems)
        out = sys.stdout if args.format == "table" and args.out is None else sys.stderr
        print(f"{len(names)} videos are out of the log: the next run over them watches them again", file=out)
    return 1 if problems else 0


def _no_arrow() -> Any:
    import pyarrow as pa

    return pa.table({"path": [], "problem": [], "videos": []})


def _compact(log: EventLog) -> int:
    done = log.compact(lambda line: print(line, file=sys.stderr) if sys.stderr.isatty() else None)
    print(
        f"{done.files_before:,} files of {done.bytes_before / 1e6:,.1f} MB are now {done.files_after:,} of"
        f" {done.bytes_after / 1e6:,.1f} MB (version {done.version}); --vacuum deletes what is no longer needed"
    )
    return 0


def _date(us: int) -> str:
    return datetime.datetime.fromtimestamp(us / 1e6, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _took(start_us: int, end_us: int | None) -> str:
    return hms(end_us - start_us)[:-4] if end_us is not None else ""


def _picture(row: dict[str, Any]) -> str:
    return f"{row['width']}x{row['height']}" if row["width"] else ""
