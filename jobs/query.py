"""secondsight query: what happened at, between, before or after a time."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from jobs.kinds import hint
from jobs.output import add_format, hms, print_table, printable, write
from jobs.query_whole import asked_of_whole, show_whole
from pipeline.clock import format_time, parse_time
from pipeline.decimals import as_written
from pipeline.errors import UsageError
from pipeline.log.lookup import Filter
from pipeline.plan import SECOND_US
from pipeline.query import Match, Query, as_rows, as_table
from pipeline.query.reading import EARLIEST, LATEST, reaching

if TYPE_CHECKING:
    from arro3.core import RecordBatch

DESCRIPTION = """\
What happened in a video: ask an event log.

  secondsight query LOG --video match.mp4 --at 45
  secondsight query LOG --video match.mp4 --between 1:02:00 1:05:00 --kind text
  secondsight query LOG --video match.mp4 --before 45 --count 3
  secondsight query LOG --video cam1.mp4 --video cam2.mp4 --after 1:02:45
  secondsight query LOG --video match.mp4 --after goal        # once the first goal has ended
  secondsight query LOG --video match.mp4 --while goal        # what else was on then
  secondsight query LOG --kind goal --first                   # the first of each video
  secondsight query LOG --video match.mp4 --gaps 5            # where nothing goes on for 5 s and more
  secondsight query LOG --kind goal --format csv --out goals.csv

Times are seconds (45, 45.5), m:ss or h:mm:ss (1:02:45.5) on the video's own timeline, as a player shows it.
--at T asks for all that goes on in the second that begins at T. Without a time it is the whole video, without
--video every video of the log; of several, those that end before the time are left out. Instead of a time, --before,
--after and --while take an event of one video: its id (--event-ids shows them), or a kind or text, which means its
first event of that kind or with that text.

A video is named by its whole path or URI, the end of one (match.mp4, cam1/match.mp4), or the beginning of its id.
Of several runs over a video the newest that is done answers; --run takes another."""

#: Rows of a table that a person is shown, and names of videos that are left out.
LIMIT, LISTED = 1000, 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("--video", metavar="NAME", action="append", help="the video; several: give it again")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--at", metavar="T", help="what goes on in the second that begins at T")
    when.add_argument("--between", metavar=("T1", "T2"), nargs=2, help="what goes on at any moment from T1 to T2")
    when.add_argument("--before", metavar="T|EVENT", help="the last events that begin before")
    when.add_argument("--after", metavar="T|EVENT", help="the first events that begin at or after T, or after EVENT")
    when.add_argument("--while", metavar="EVENT", dest="during", help="what else was on while EVENT was")
    when.add_argument("--first", action="store_true", help="the first event of each video")
    when.add_argument("--last", action="store_true", help="the event of each video that begins last")
    when.add_argument("--gaps", metavar="S", help="the spans of S seconds and more in which nothing goes on")
    when.add_argument("--density", metavar="S", help="how many events go on in each step of S seconds")
    when.add_argument("--kinds", action="store_true", help="how many events of each kind")
    when.add_argument("--event", metavar="ID", help="one event in full, with the windows and frames behind it")
    parser.add_argument("--count", metavar="N", type=int, help="how many, with --before and --after (default: 5)")
    parser.add_argument("--kind", metavar="KIND", action="append", help="only events of this kind; may be repeated")
    parser.add_argument("--text", metavar="TEXT", help="only events with TEXT in their text (case does not matter)")
    parser.add_argument("--run", metavar="ID", help="answer from this run (its id, or the beginning of one)")
    parser.add_argument("--event-ids", action="store_true", help="show the ids of events in a table")
    parser.add_argument("--version", metavar="N", type=int, help="ask an earlier version of the log (default: newest)")
    parser.add_argument("--limit", metavar="N", type=int, default=LIMIT, help=f"rows of a table (default: {LIMIT})")
    add_format(parser)


def main(args: argparse.Namespace) -> int:
    if args.count is not None and args.before is None and args.after is None:
        raise UsageError("--count goes with --before or --after")
    if args.limit < 1:
        raise UsageError(f"--limit {args.limit}: ask for one row at least")
    if (option := _of_an_event(args)) is not None and len(args.video or ()) != 1:
        raise UsageError(f"--{option} EVENT asks about one video: give --video NAME once")
    query = Query(args.log, args.version)
    wanted = Filter(args.kind, args.text)
    matches = query.matches(args.video, args.run)
    if asked_of_whole(args):
        show_whole(query, matches, args)
        return 0
    many = args.video is None or len(matches) > 1
    reached = _reached(matches, args) if many else matches
    answers = list(query.each(reached, lambda match: _answer(query, match, wanted, args)))
    if args.format == "table":
        _show(query, answers, wanted, args, many)
    else:
        rows = [as_said(match.name, row) for match, batches in answers for row in as_rows(batches)]
        write(rows, args, lambda: as_table([b for _, batches in answers for b in batches]))
    if not any(batch.num_rows for _, batches in answers for batch in batches):
        hint(args.log, query, matches, args.kind)
    return 0


def _of_an_event(args: argparse.Namespace) -> str | None:
    """The option that asks about an event, if there is one."""
    for option in ("before", "after"):
        if (said := getattr(args, option)) is not None and _time(said) is None:
            return option
    return "while" if args.during is not None else "event" if args.event is not None else None


def _reached(matches: list[Match], args: argparse.Namespace) -> list[Match]:
    """Those of several videos that have not ended at the time asked about; the others are told on stderr."""
    if args.at is None and args.between is None and args.after is None:
        return matches
    start = _span(args)[0] if args.after is None else _time(args.after)
    assert start is not None  # an event is of one video
    reached = reaching(matches, start)
    if left_out := len(matches) - len(reached):
        there = {m.entry.video_id for m in reached}
        names = [short(m.name) for m in matches if m.entry.video_id not in there][:LISTED]
        listed = ", ".join(names) + (" ..." if left_out > LISTED else "")
        said = f"({left_out} of {len(matches)} videos are no longer than {format_time(start)}: {listed})"
        print(printable(said), file=sys.stderr)
    return reached


def _answer(query: Query, match: Match, wanted: Filter, args: argparse.Namespace) -> list[RecordBatch]:
    count = 5 if args.count is None else args.count
    if args.before is not None:
        us = _time(args.before)
        us = query.anchor(args.video[0], args.before, args.run).start_us if us is None else us
        return query.preceding(match, us, count, wanted)
    if args.after is not None:
        us = _time(args.after)
        if us is None:
            return query.from_on(match, query.anchor(args.video[0], args.after, args.run).end_us, count, wanted)
        return query.following(match, us, count, wanted)
    if args.during is not None:
        return query.beside(match, query.anchor(args.video[0], args.during, args.run), wanted)
    if args.first:
        return query.from_on(match, EARLIEST, 1, wanted)
    if args.last:
        return query.preceding(match, LATEST, 1, wanted)
    span = _span(args)
    if span == WHOLE and match.entry.duration_us == 0:
        return []
    return query.overlapping(match, *span, wanted)


def _time(said: str) -> int | None:
    """Microseconds; None where an event is meant. Raises UsageError for a time gone wrong."""
    if re.fullmatch(r"[0-9a-f]{16}", said):  # an event's id may begin like a time
        return None
    try:
        return parse_time(said)
    except UsageError:
        if re.match(r"[\s+-]*\d*[:.\d]|\s*$", said):  # a time gone wrong, not a word
            raise
        return None


WHOLE = (0, 2**62)


def _span(args: argparse.Namespace) -> tuple[int, int]:
    if args.at is not None:
        start = parse_time(args.at)
        return start, start + SECOND_US
    if args.between is not None:
        return parse_time(args.between[0]), parse_time(args.between[1])
    return WHOLE


def as_said(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row for programs: the video's name first, attributes as an object, the confidence as it was written."""
    attributes, confidence = row.get("attributes"), as_written(row.get("confidence"))
    return {"video": name, **row, "confidence": confidence, "attributes": json.loads(attributes) if attributes else {}}


def _show(
    query: Query, answers: list[tuple[Match, list[RecordBatch]]], wanted: Filter, args: argparse.Namespace, many: bool
) -> None:
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
        if args.event_ids:
            columns.append("event")
            cells = [[*c, r["event_id"]] for c, (_, r) in zip(cells, rows, strict=True)]
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
    for word in ("before", "after", "during"):
        if (said := getattr(args, word)) is not None:
            return printable(f"{'while' if word == 'during' else word} {said}")
    return "first" if args.first else "last" if args.last else "whole"


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
