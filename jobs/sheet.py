"""secondsight sheet: a whole video in one picture, with its events as captions."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.output import printable
from jobs.pictured import events_of, film, save, stem
from pipeline.query import Query
from pipeline.redacted import editor
from pipeline.sheet import sheet

DESCRIPTION = """\
Draw a contact sheet: stills at even steps, under each what begins between it and the next.

  secondsight sheet LOG match.mp4
  secondsight sheet LOG match.mp4 --columns 6 --rows 10 --width 240 --out match.jpg"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("video", metavar="VIDEO", help="a video of the log")
    parser.add_argument("--columns", metavar="N", type=int, default=5, help="stills beside each other (default: 5)")
    parser.add_argument("--rows", metavar="N", type=int, default=6, help="rows of stills at most (default: 6)")
    parser.add_argument("--width", metavar="PX", type=int, default=300, help="of a still (default: 300)")
    parser.add_argument("--kind", metavar="KIND", action="append", help="only events of this kind; may be repeated")
    parser.add_argument("--run", metavar="ID", help="as this run saw it (its id, or the beginning of one)")
    parser.add_argument("--out", metavar="FILE", help="a JPEG (default: named by the video)")
    parser.add_argument("--force", action="store_true", help="replace FILE where it exists")


def main(args: argparse.Namespace) -> int:
    query = Query(args.log)
    match = query.find(args.video, args.run)
    events = [e for e in events_of(query, match) if not args.kind or e["kind"] in args.kind]
    uri = film(match)
    picture = sheet(
        uri,
        events,
        title=match.name.rsplit("/", 1)[-1],
        columns=args.columns,
        rows=args.rows,
        width=args.width,
        edit=editor(args.log, match.entry.run_id, uri),
    )
    out = Path(args.out or f"{stem(match)}_sheet.jpg")
    save(out, picture, args.force)
    print(printable(f"{out}  {len(events)} events of {match.name} (run {match.entry.run_id})"))
    return 0
