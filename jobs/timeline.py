"""secondsight timeline: a video's events drawn over its time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs.output import printable
from jobs.pictured import events_of, film, save, stem
from pipeline.errors import VideoError
from pipeline.query import Query
from pipeline.redacted import editor
from pipeline.timeline import even_stills, timeline

DESCRIPTION = """\
Draw a video's events over its time as an SVG, which every browser shows: a lane for each kind, stills along the top;
what an event says appears when the mouse rests on it.

  secondsight timeline LOG match.mp4
  secondsight timeline LOG match.mp4 --kind goal --kind foul --no-stills --out goals.svg

Without the video's file the events are drawn all the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("video", metavar="VIDEO", help="a video of the log")
    parser.add_argument("--kind", metavar="KIND", action="append", help="only events of this kind; may be repeated")
    parser.add_argument("--run", metavar="ID", help="as this run saw it (its id, or the beginning of one)")
    parser.add_argument("--no-stills", action="store_true", help="do not open the video's file")
    parser.add_argument("--out", metavar="FILE", help="an SVG (default: named by the video)")
    parser.add_argument("--force", action="store_true", help="replace FILE where it exists")


def main(args: argparse.Namespace) -> int:
    query = Query(args.log)
    match = query.find(args.video, args.run)
    events = [e for e in events_of(query, match) if not args.kind or e["kind"] in args.kind]
    pictures = []
    try:
        if not args.no_stills:
            uri = film(match)
            pictures = even_stills(uri, edit=editor(args.log, match.entry.run_id, uri))
    except VideoError as error:
        print(f"secondsight: without stills: {error}", file=sys.stderr)
    drawn = timeline(match.entry.duration_us or 0, events, title=match.name.rsplit("/", 1)[-1], pictures=pictures)
    out = Path(args.out or f"{stem(match)}_timeline.svg")
    save(out, drawn.encode(), args.force)
    print(printable(f"{out}  {len(events)} events of {match.name} (run {match.entry.run_id})"))
    return 0
