"""secondsight clip: cut an event, or any span, out of its video."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.output import hms, printable
from jobs.pictured import film, find_event, stem
from pipeline.clips import clip
from pipeline.clock import parse_time
from pipeline.errors import UsageError
from pipeline.plan import SECOND_US
from pipeline.query import Query
from pipeline.redacted import editor

DESCRIPTION = """\
Cut the exact span of an event out of its video, with its sound.

  secondsight clip LOG 3f2a9c01d4e5b677                        the event of that id (query LOG --event-ids shows them)
  secondsight clip LOG goal --video match.mp4 --pad 3          the first goal, with 3 seconds before and after
  secondsight clip LOG --video match.mp4 --between 1:02 1:10 --out moment.mp4

Whole groups of pictures are copied as they are; only the frames at the edges are encoded anew, and all of them only
where the codec leaves no choice. An event without length is cut with a second around it. What a run with --redact hid
from its model is hidden in its clips too."""

_AROUND_US = SECOND_US


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("event", metavar="EVENT", nargs="?", help="id of an event; with --video also its kind or text")
    parser.add_argument("--video", metavar="NAME", help="the video")
    parser.add_argument("--between", metavar=("T1", "T2"), nargs=2, help="this span of --video instead of an event")
    parser.add_argument("--pad", metavar="S", help="so much before and after as well (seconds; default: 0)")
    parser.add_argument("--run", metavar="ID", help="the event as this run saw it")
    parser.add_argument("--out", metavar="FILE", help=".mp4, .mov, .mkv or .webm (default: named by video and time)")
    parser.add_argument("--force", action="store_true", help="replace FILE where it exists")


def main(args: argparse.Namespace) -> int:
    if (args.event is None) == (args.between is None):
        raise UsageError("say what to cut: an EVENT, or --video NAME --between T1 T2")
    if args.between is not None and args.video is None:
        raise UsageError("--between needs --video NAME")
    pad_us = parse_time(args.pad) if args.pad is not None else 0
    query = Query(args.log)
    if args.event is not None:
        match, event = find_event(args.log, query, args.event, args.video, args.run)
        start_us, end_us = event["start_us"], event["end_us"]
        what = f"{event['kind']} {event['text']}"
        if end_us <= start_us and not pad_us:
            pad_us = _AROUND_US
    else:
        match = query.find(args.video, args.run)
        start_us, end_us = (parse_time(t) for t in args.between)
        what = "span"
    start_us, end_us = max(0, start_us - pad_us), end_us + pad_us
    out = Path(args.out or f"{stem(match)}_{start_us / SECOND_US:.3f}-{end_us / SECOND_US:.3f}.mp4")
    uri = film(match)
    hiding = editor(args.log, match.entry.run_id, uri)
    hide = None if hiding is None else hiding.following(start_us, end_us)
    made = clip(uri, start_us, end_us, out, overwrite=args.force, edit=hide)
    print(printable(f"{what}: {uri} from {hms(made.start_us)} to {hms(made.end_us)}"))
    print(f"{made.path}  {made.frames} frames, {made.copied} of them copied, {made.size_bytes / 1e6:.2f} MB")
    return 0
