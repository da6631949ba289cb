"""secondsight frame: the still that a player shows at a time of a video."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.output import printable
from jobs.pictured import film, save, stem
from pipeline.clock import format_time, parse_time
from pipeline.plan import SECOND_US
from pipeline.query import Query
from pipeline.redacted import editor
from pipeline.stills import still

DESCRIPTION = """\
Write the picture that is on screen at a time of a video of the log, as a JPEG: exact, upright, with square pixels.

  secondsight frame LOG match.mp4 45
  secondsight frame LOG match.mp4 1:02:45.5 --height 720 --out moment.jpg

(`secondsight frames FILE` writes many, of any file, as a model sees them.)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("video", metavar="VIDEO", help="a video of the log")
    parser.add_argument("time", metavar="TIME", help="seconds (45, 45.5), m:ss or h:mm:ss")
    parser.add_argument("--height", metavar="PX", type=int, help="height of the picture (default: its own)")
    parser.add_argument("--run", metavar="ID", help="with what this run was to hide hidden")
    parser.add_argument("--out", metavar="FILE", help="default: named by video and time")
    parser.add_argument("--force", action="store_true", help="replace FILE where it exists")


def main(args: argparse.Namespace) -> int:
    match = Query(args.log).find(args.video, args.run)
    time_us = parse_time(args.time)
    uri = film(match)
    found = still(uri, time_us, height=args.height, edit=editor(args.log, match.entry.run_id, uri))
    out = Path(args.out or f"{stem(match)}_{found.time_us / SECOND_US:.3f}.jpg")
    save(out, found.jpeg, args.force)
    print(printable(f"{out}  {found.width}x{found.height}, on screen from {format_time(found.time_us)}"))
    return 0
