"""The questions of `secondsight query` that are answered by sums over whole videos, or by one event in full."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from jobs.kinds import hint
from jobs.output import hms, print_table, printable, text, write
from pipeline.clock import parse_time
from pipeline.decimals import as_written
from pipeline.errors import UsageError
from pipeline.query import Match, Query

#: Heights of the bars of a density.
BARS = " ▁▂▃▄▅▆▇█"

#: Steps in one line of bars.
LINE = 60


def asked_of_whole(args: argparse.Namespace) -> bool:
    return args.gaps is not None or args.density is not None or args.kinds or args.event is not None


def show_whole(query: Query, matches: list[Match], args: argparse.Namespace) -> None:
    """Answer --gaps, --density, --kinds or --event."""
    if args.event is not None:
        _show_event(query, matches[0], args)
        return
    if args.kinds and (args.kind or args.text):
        raise UsageError("--kinds counts all kinds: leave out --kind and --text")
    step = None if args.density is None else parse_time(args.density)
    one = matches[0] if args.video is not None and len(matches) == 1 else None
    hint(args.log, query, matches, args.kind)
    if step is not None and args.format == "table":
        _show_bars(query, matches, step, args)
        return
    rows = [row for match in matches for row in _rows(query, match, step, args)]
    if args.format != "table":
        write(rows, args, lambda: _arrow(rows))
        return
    if one is not None:  # its name and run stand above the table
        out = sys.stdout if args.out is None else sys.stderr
        print(f"{printable(one.name)}  (run {one.entry.run_id})", file=out)
    shown = [name for name in rows[0] if name != "video_id" and (one is None or name != "run_id")] if rows else []
    cells = [[hms(row[k]) if k.endswith("_us") else row[k] for k in shown] for row in rows[: args.limit]]
    for cell in cells:
        cell[0] = str(cell[0]).rsplit("/", 1)[-1]
    headings: dict[str, str | tuple[str, str]] = {
        "run_id": "run",
        "start_us": "from",
        "end_us": "to",
        "length_us": "length",
        "events": ("events", "right"),
    }
    if rows:
        print_table(cells, [headings.get(name, name) for name in shown], args)
    else:
        print("none")
    if len(rows) > args.limit:
        print(f"{len(rows) - args.limit} more: raise --limit, or use --format")


def _rows(query: Query, match: Match, step: int | None, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is asked of one video: its gaps, kinds, or the events in each `step`."""
    video_id, run_id = match.entry.video_id, match.entry.run_id
    of = {"video": match.name, "video_id": video_id, "run_id": run_id}
    if args.kinds:
        for kind, count in query.kinds(video_id, run_id).items():
            yield {**of, "kind": kind, "events": count}
    elif step is None:
        least = max(1, parse_time(args.gaps))
        for start, end in query.gaps(video_id, least, run_id, kinds=args.kind, text=args.text):
            yield {**of, "start_us": start, "end_us": end, "length_us": end - start}
    else:
        for k, count in enumerate(query.density(video_id, step, run_id, kinds=args.kind, text=args.text)):
            yield {**of, "start_us": k * step, "end_us": (k + 1) * step, "events": count}


def _arrow(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


def _show_bars(query: Query, matches: list[Match], step: int, args: argparse.Namespace) -> None:
    """A bar for each step, one line for each LINE steps."""
    with text(args.out) as out:
        for match in matches:
            run_id = match.entry.run_id
            of_video = query.density(match.entry.video_id, step, run_id, kinds=args.kind, text=args.text)
            most = max(of_video, default=0)
            out.write(f"{printable(match.name)}  (run {run_id}; a bar: {hms(step)}; the highest: {most} events)\n")
            for at in range(0, len(of_video), LINE):
                bars = "".join(BARS[-(-8 * c // most) if c else 0] for c in of_video[at : at + LINE])
                out.write(f"{hms(at * step):>14}  {bars}\n")


def _show_event(query: Query, match: Match, args: argparse.Namespace) -> None:
    row = query.event(match.entry.video_id, args.event, args.run)
    behind = query.provenance(row)
    if args.format != "table":
        if args.format not in ("json", "jsonl"):
            raise UsageError("--event is one nested answer: use --format json")
        said = {"video": match.name, **row, "confidence": as_written(row["confidence"]), **behind}
        write([said], args, lambda: _arrow([row]))
        return
    run = behind["run"] or {"run_id": row["run_id"], "model": row["model"], "code_version": "?"}
    lines = [
        f"{row['kind']}: {row['text']}",
        f"  video     {match.name}",
        f"  from, to  {hms(row['start_us'])} - {hms(row['end_us'])}",
        f"  sure      {'' if row['confidence'] is None else format(row['confidence'], '.2f')}",
        f"  shown by  frames at {', '.join(map(hms, row['evidence_us'] or ())) or 'no particular time'}",
        f"  also      {row['attributes']}",
        f"  run       {run['run_id']} ({run['model']}, Secondsight {run['code_version']})",
    ]
    for w in behind["windows"]:
        times = w["frame_us"] or []
        frames = f"{len(times)} frames from {hms(times[0])} to {hms(times[-1])}" if times else "no frames"
        lines.append(f"  window    {w['window']}: {hms(w['start_us'])} - {hms(w['end_us'])}, {frames}")
        if w["answer"] is not None:
            lines.append(f"            answered {json.dumps(w['answer'], ensure_ascii=False)}")
    with text(args.out) as out:
        out.writelines(f"{printable(line)}\n" for line in lines)
