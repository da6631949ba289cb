"""secondsight search: events by what they say, moments by how they look."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobs.kinds import hint
from jobs.output import add_format, hms, print_table, printable, write
from jobs.query import as_said, short
from pipeline.clock import parse_time
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.search import Hit, Search

DESCRIPTION = """\
Search an event log by words and, where the installation has an embedder, by meaning.

  secondsight search LOG "red circle leaves"
  secondsight search LOG '"no entry" -sign' --kind text --video cam3.mp4 --from 1:00 --to 5:00
  secondsight search LOG 红色的圆形 --mode words --format jsonl

Words are optional, the rarer the weightier; "in quotes" they stand together, +word must be there, -word must not, and
word* is the beginning of a word. A word that no event has is looked for with one letter changed. English words are
found by their stem; Chinese, Japanese, Korean and Thai by their characters.

  secondsight search LOG --image still.jpg --limit 5
  secondsight search LOG --like match.mp4 --at 1:02:45

find the moments whose frames look most like a picture, or like another moment, by the vision features that a Qwen3-VL
(`run --model bundled`, or a checkpoint: name it with --model) leaves beside the log; a log without them says so.

The index lies in LOG/_search (of a log in an object store, or one that is only read: in the user's cache folder, or
under $SECONDSIGHT_CACHE). It is brought up to date with the log before each search and can be deleted at any time."""

#: The argument that takes words such as -square.
WORDS = "text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("text", metavar="WORDS", nargs="*", help="what to search for")
    parser.add_argument("--video", metavar="NAME", action="append", help="only this video; several: give it again")
    parser.add_argument("--kind", metavar="KIND", action="append", help="only events of this kind; may be repeated")
    parser.add_argument("--from", metavar="T", dest="start", help="only what goes on at T of its video, or later")
    parser.add_argument("--to", metavar="T", dest="end", help="only what goes on before T of its video")
    parser.add_argument("--run", metavar="ID", help="as this run saw it (default: each video's newest done run)")
    parser.add_argument("--min-confidence", metavar="C", type=float, help="only events at least this sure (0 to 1)")
    parser.add_argument(
        "--mode", choices=("auto", "words", "meaning", "both"), default="auto", help="how to search (default: auto)"
    )
    parser.add_argument("--limit", metavar="N", type=int, default=20, help="hits to show (default: 20)")
    parser.add_argument("--offset", metavar="N", type=int, default=0, help="hits to pass over (default: 0)")
    parser.add_argument("--rebuild", action="store_true", help="make the index anew first")
    parser.add_argument("--image", metavar="FILE", help="moments that look like this picture (JPEG, PNG, WebP)")
    parser.add_argument("--model", metavar="PATH", help="the checkpoint that watched, for --image (default: bundled)")
    parser.add_argument("--like", metavar="NAME", help="moments that look like the one --at this time of this video")
    parser.add_argument("--at", metavar="T", help="the time, for --like")
    add_format(parser)


def main(args: argparse.Namespace) -> int:
    if args.image is not None or args.like is not None:
        from jobs.lookalike import main as by_look

        return by_look(args)
    for option, value, other in (("--at", args.at, "--like NAME"), ("--model", args.model, "--image FILE")):
        if value is not None:
            raise UsageError(f"{option} goes with {other}, not with words")
    from pipeline.search import Search

    text = " ".join(args.text)
    if not text and not args.rebuild:
        raise UsageError("nothing to search for: write at least one word")
    search = Search(args.log)
    brought_up(search, args.rebuild)
    if not text:
        return 0
    hits = search.find(
        text,
        limit=args.limit,
        offset=args.offset,
        video=args.video,
        kinds=args.kind,
        start_us=None if args.start is None else parse_time(args.start),
        end_us=None if args.end is None else parse_time(args.end),
        run=args.run,
        min_confidence=args.min_confidence,
        mode=args.mode,
    )
    if args.format == "table":
        _show(search, hits, args)
    else:
        write([_row(h) for h in hits], args, lambda: _table(hits))
    if not hits and args.kind:
        from pipeline.query import Query

        query = Query(args.log)
        hint(args.log, query, query.matches(args.video, args.run), args.kind)
    if args.mode == "auto" and search.notice:
        print(f"({search.notice})", file=sys.stderr)
    return 0


def brought_up(search: Search, rebuild: bool = False) -> None:
    """Bring the index up to the log, and say so where it takes a while."""
    with _patience("making the search index") as say:
        count = search.rebuild(say) if rebuild else search.update(say)
    if rebuild:
        print(f"the search index of {count} events lies in {search.folder}", file=sys.stderr)


class _patience:
    """Lines of progress on stderr, from two seconds on and twice a second, where a person looks on."""

    def __init__(self, what: str) -> None:
        self._what, self._next = what, time.monotonic() + 2
        self._shown = False

    def __enter__(self) -> Callable[[str], None]:
        return self._say

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print(file=sys.stderr)

    def _say(self, line: str) -> None:
        if sys.stderr.isatty() and time.monotonic() >= self._next:
            print(f"\r{self._what}: {line}\x1b[K", end="", file=sys.stderr, flush=True)
            self._next, self._shown = time.monotonic() + 0.5, True


def _show(search: Search, hits: list[Hit], args: argparse.Namespace) -> None:
    if not hits:
        narrowed = any((args.video, args.kind, args.start, args.end, args.run, args.min_confidence is not None))
        print("no event says that" + (" under these conditions" if narrowed else ""))
        return
    cells = [
        [short(h.name), hms(h.event["start_us"]), hms(h.event["end_us"]), h.event["kind"], h.event["text"], _how(h)]
        for h in hits
    ]
    print_table(cells, ["video", "from", "to", "kind", ("text", "fold"), "found by"], args)
    spelled = next((h for h in hits if "spelling" in h.found_by), None)
    if spelled is not None:
        print(printable("a word of this search is in no event: these have one letter changed"))


def _how(hit: Hit) -> str:
    return ", ".join(hit.found_by)


def _row(hit: Hit) -> dict[str, Any]:
    said = as_said(hit.name, hit.event)
    return {"video": said.pop("video"), "score": hit.score, "found_by": list(hit.found_by), **said}


def _table(hits: list[Hit]) -> Any:
    import pyarrow as pa

    from pipeline.log.schema import EVENTS

    table = pa.Table.from_pylist([h.event for h in hits], schema=EVENTS)
    return table.append_column("score", pa.array([h.score for h in hits], pa.float64()))
