"""secondsight query: what happened at, between, before or after a time."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from jobs.output import add_format, hms, print_table, printable, write
from pipeline.clock import format_time, parse_time
from pipeline.errors import UsageError
from pipeline.log.lookup import Filter
from pipeline.plan import SECOND_US
from pipeline.query import Match, Query, as_rows, as_table

if TYPE_CHECKING:
    from arro3.core import RecordBatch

DESCRIPTION = """\
What happened in a video: ask an event log.

  secondsight query LOG --video match.mp4 --at 45
  secondsight query LOG --video match.mp4 --between 1:02:00 1:05:00 --kind text
  secondsight query LOG --video match.mp4 --before 45 --count 3
  secondsight query LOG --kind goal --format csv --out goals.csv

Times are seconds (45, 45.5), m:ss or h:mm:ss (1:02:45.5) on the video's own timeline, as a player shows it.
--at T asks for all that goes on in the second that begins at T. Without a time it is the whole video, without
--video every video of the log.

A video is named by its whole path or URI, the end of one (match.mp4, cam1/match.mp4), or the beginning of its id.
Of several runs over a video the newest that is done answers; --run takes another."""

#: Rows of a table that a person is shown.
LIMIT = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("--video", metavar="NAME", action="append", help="the video; several: give it again")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--at", metavar="T", help="what goes on in the second that begins at T")
    when.add_argument("--between", metavar=("T1", "T2"), nargs=2, help="what goes on at any moment from T1 to T2")
    when.add_argument("--before", metavar="T", help="the last events that begin before T")
    when.add_argument("--after", metavar="T", help="the first events that begin at or after T")
    parser.add_argument("--count", metavar="N", type=int, help="how many, with --before and --after (default: 5)")
    parser.add_argument("--kind", metavar="KIND", action="append", help="only events of this kind; may be repeated")
    parser.add_argument("--text", metavar="TEXT", help="only events with TEXT in their text (case does not matter)")
    parser.add_argument("--run", metavar="ID", help="answer from this run (its id, or the beginning of one)")
    parser.add_argument("--version", metavar="N", type=int, help="ask an earlier version of the log (default: newest)")
    parser.add_argument("--limit", metavar="N", type=int, default=LIMIT, help=f"rows of a table (default: {LIMIT})")
    add_format(parser)


def main(args: argparse.Namespace) -> int:
    if args.count is not None and args.before is None and args.after is None:
        raise UsageError("--count goes with --before or --after")
    query = Query(args.log, args.version)
    wanted = Filter(args.kind, args.text)
    if args.video is None and (args.before is not None or args.after is not None):
        raise UsageError("--before and --after ask about one video: add --video NAME")
    matches = [query.find(name, args.run) for name in dict.fromkeys(args.video or ())]
    if args.video is None:
        entries = sorted(query.entries(args.run), key=lambda e: (e.uris, e.video_id))
        matches = [Match(e.uris[0] if e.uris else e.video_id, e) for e in entries]
    answers = [(match, _answer(query, match, wanted, args)) for match in matches]
    if args.format == "table":
        _show(query, answers, wanted, args)
    else:
        rows = [as_said(match.name, row) for match, batches in answers for row in as_rows(batches)]
        write(rows, args, lambda: as_table([b for _, batches in answers for b in batches]))
    return 0


def _answer(query: Query, match: Match, wanted: Filter, args: argparse.Namespace) -> list[RecordBatch]:
    duration = match.entry.duration_us
    if args.before is not None:
        return query.preceding(match, parse_time(args.before), args.count or 5, wanted)
    if args.after is not None:
        return query.following(match, parse_time(args.after), args.count or 5, wanted)
    span = _span(args)
    if args.video is None and duration is not None and span[0] >= duration:
        return []  # asked of every video: those that end before are no mistake
    if span == WHOLE and duration == 0:
        return []
    return query.overlapping(match, *span, wanted)


WHOLE = (0, 2**62)


def _span(args: argparse.Namespace) -> tuple[int, int]:
    if args.at is not None:
        start = parse_time(args.at)
        return start, start + SECOND_US
    if args.between is not None:
        return parse_time(args.between[0]), parse_time(args.between[1])
    return WHOLE


def as_said(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row for programs: the video's name first, attributes as an object."""
    attributes = row.get("attributes")
    return {"video": name, **row, "attributes": json.loads(attributes) if attributes else {}}


def _show(
    query: Query, answers: list[tuple[Match, list[RecordBatch]]], wanted: Filter, args: argparse.Namespace
) -> None:
    many = args.video is None or len(answers) > 1
    out = sys.stdout if args.out is None else sys.stderr
    rows: list[tuple[Match, dict[str, Any]]] = []
    total = sum(batch.num_rows for _, batches in answers for batch in batches)
    for match, batches in answers:
        for batch in batches:
            left = args.limit - len(rows)
            if left > 0:
                rows += [(match, row) for row in as_rows([batch.slice(0, min(left, batch.num_rows))])]
    if not many:
        match = answers[0][0]
        print(f"{printable(match.name)}  {_when(args)}  (run {match.entry.run_id})", file=out)
    if rows:
        columns: list[str | tuple[str, str]] = ["from", "to", "kind", ("text", "fold"), ("conf.", "right")]
        cells = [
            [hms(r["start_us"]), hms(r["end_us"]), r["kind"], r["text"], _confidence(r["confidence"])] for _, r in rows
        ]
        if many:
            columns.insert(0, "video")
            cells = [[short(m.name), *c] for (m, _), c in zip(rows, cells, strict=True)]
        print_table(cells, columns, args)
    if total > len(rows):
        print(f"{total - len(rows)} more: raise --limit, or use --format", file=out)
    if not total:
        print(_nothing(query, answers, wanted, args), file=out)


def _when(args: argparse.Namespace) -> str:
    if args.at is not None:
        return f"at {hms(parse_time(args.at))}"
    if args.between is not None:
        return f"from {hms(parse_time(args.between[0]))} to {hms(parse_time(args.between[1]))}"
    if args.before is not None:
        return f"before {hms(parse_time(args.before))}"
    return f"after {hms(parse_time(args.after))}" if args.after is not None else "whole"


def _nothing(
    query: Query, answers: list[tuple[Match, list[RecordBatch]]], wanted: Filter, args: argparse.Namespace
) -> str:
    """Why there is no row, and what lies nearest."""
    narrowed = " of that kind or text" if args.kind or args.text else ""
    if args.at is None or len(answers) != 1:
        return f"nothing{narrowed}"
    match, us = answers[0][0], parse_time(args.at)
    near = []
    if before := as_rows(query.preceding(match, us, 1, wanted)):
        near.append(f"nearest before is {_line(before[0])}")
    if after := as_rows(query.following(match, us, 1, wanted)):
        near.append(f"nearest after is {_line(after[0])}")
    return f"nothing{narrowed} at that second; {'; '.join(near) if near else 'the whole video has none'}"


def _line(row: dict[str, Any]) -> str:
    return printable(f"{row['kind']} at {format_time(row['start_us'])}: {row['text']}")


def _confidence(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def short(name: str) -> str:
    """The last part of a video's name."""
    return name.rsplit("/", 1)[-1]
