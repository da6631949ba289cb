"""secondsight search --image, --like: moments by how they look."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from jobs.kinds import hint
from jobs.output import hms, print_table, printable, write
from jobs.picturing import embedded
from jobs.query import short
from pipeline.clock import parse_time
from pipeline.errors import UsageError
from pipeline.features.search import Moment, PictureSearch, read_picture
from pipeline.query import Query


def main(args: argparse.Namespace) -> int:
    """The part of `secondsight search` that goes by pictures."""
    if args.text or (args.image is not None and args.like is not None):
        raise UsageError("words, --image and --like: search by one of them")
    if args.mode != "auto" or args.min_confidence is not None or args.offset:
        raise UsageError("--image and --like: --mode, --min-confidence and --offset are for searching by words")
    if (args.like is None) != (args.at is None):
        raise UsageError("--like NAME and --at T go together: which moment of which video")
    if args.like is not None and args.model is not None:
        raise UsageError("--model goes with --image: a moment of the log needs no model")
    pixels = None if args.image is None else read_picture(args.image)
    search = PictureSearch(args.log)
    search.update(rebuild=args.rebuild)
    if pixels is not None:
        vector, made_by = embedded(search, pixels, args.model)
    else:
        vector, made_by = search.like(args.like, parse_time(args.at), args.run)
    moments = search.find(
        vector,
        made_by,
        limit=args.limit,
        video=args.video,
        kinds=args.kind,
        start_us=None if args.start is None else parse_time(args.start),
        end_us=None if args.end is None else parse_time(args.end),
        run=args.run,
    )
    if args.format == "table":
        _show(moments, args)
    else:
        write([_row(m) for m in moments], args, lambda: _table(moments))
    if args.run is None and (left_out := search.left_out(made_by)):
        print(printable(f"({left_out})"), file=sys.stderr)
    if not moments and args.kind:
        query = Query(args.log)
        hint(args.log, query, query.matches(args.video, args.run), args.kind)
    return 0


def _show(moments: list[Moment], args: argparse.Namespace) -> None:
    if not moments:
        print("no moment under these conditions")
        return
    cells = [
        [short(m.name), hms(m.at_us), f"{hms(m.start_us)} – {hms(m.end_us)}", f"{m.nearness:.2f}", _what(m)]
        for m in moments
    ]
    print_table(cells, ["video", "at", "looks so", ("alike", "right"), ("what is on", "fold")], args)


def _what(moment: Moment) -> str:
    return "; ".join(e["text"] or e["kind"] for e in moment.events)


def _row(moment: Moment) -> dict[str, Any]:
    return {
        "video": moment.name,
        "video_id": moment.video_id,
        "run_id": moment.run_id,
        "at_s": moment.at_us / 1e6,
        "start_s": moment.start_us / 1e6,
        "end_s": moment.end_us / 1e6,
        "nearness": moment.nearness,
        "events": [e["event_id"] for e in moment.events],
        "what": _what(moment),
    }


def _table(moments: list[Moment]) -> Any:
    import pyarrow as pa

    of_text = ("video", "video_id", "run_id", "what")
    schema = pa.schema(
        [(name, pa.string()) for name in of_text[:3]]
        + [(name, pa.float64()) for name in ("at_s", "start_s", "end_s", "nearness")]
        + [("events", pa.list_(pa.string())), ("what", pa.string())]
    )
    return pa.Table.from_pylist([_row(m) for m in moments], schema=schema)
