"""The questions of `secondsight query` that are answered by sums over whole videos, or by one event in full."""

from __future__ import annotations

import argparse
import json
from typing import Any

from jobs.output import hms, print_table, printable, text, write
from pipeline.clock import parse_time
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
    rows: list[dict[str, Any]]
    if args.kinds:
        rows = [
            {"video": m.name, "kind": kind, "events": count}
            for m in matches
            for kind, count in query.kinds(m.entry.video_id, m.entry.run_id).items()
        ]
    elif args.gaps is not None:
        rows = [
            {"video": m.name, "start_us": start, "end_us": end, "length_us": end - start}
            for m in matches
            for start, end in query.gaps(
                m.entry.video_id, max(1, parse_time(args.gaps)), m.entry.run_id, kinds=args.kind, text=args.text
            )
        ]
    else:
        step = parse_time(args.density)
        counts = {
            m.name: query.density(m.entry.video_id, step, m.entry.run_id, kinds=args.kind, text=args.text)
            for m in matches
        }
        if args.format == "table":
            _show_bars(counts, step, args)
            return
        rows = [
            {"video": name, "start_us": k * step, "end_us": (k + 1) * step, "events": count}
            for name, of_video in counts.items()
            for k, count in enumerate(of_video)
        ]
    if args.format != "table":
        write(rows, args, lambda: _arrow(rows))
        return
    cells = [[hms(v) if k.endswith("_us") else v for k, v in row.items()] for row in rows[: args.limit]]
    for cell in cells:
        cell[0] = str(cell[0]).rsplit("/", 1)[-1]
    headings: dict[str, str | tuple[str, str]] = {
        "start_us": "from",
        "end_us": "to",
        "length_us": "length",
        "events": ("events", "right"),
    }
    if rows:
        print_table(cells, [headings.get(name, name) for name in rows[0]], args)
    else:
        print("none")
    if len(rows) > args.limit:
        print(f"{len(rows) - args.limit} more: raise --limit, or use --format")


def _arrow(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


def _show_bars(counts: dict[str, list[int]], step: int, args: argparse.Namespace) -> None:
    """A bar for each step, one line for each LINE steps."""
    with text(args.out) as out:
        for name, of_video in counts.items():
            most = max(of_video, default=0)
            out.write(f"{printable(name)}  (a bar: {hms(step)}; the highest: {most} events)\n")
            for at in range(0, len(of_video), LINE):
                bars = "".join(BARS[-(-8 * c // most) if c else 0] for c in of_video[at : at + LINE])
                out.write(f"{hms(at * step):>14}  {bars}\n")


def _show_event(query: Query, match: Match, args: argparse.Namespace) -> None:
    row = query.event(match.entry.video_id, args.event, args.run)
    behind = query.provenance(row)
    if args.format != "table":
        if args.format not in ("json", "jsonl"):
            raise UsageError("--event is one nested answer: use --format json")
        write([{"video": match.name, **row, **behind}], args, lambda: _arrow([row]))
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
