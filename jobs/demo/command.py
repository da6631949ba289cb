"""`secondsight demo`: make a small archive, watch it, and ask what happened, with the answers beside the truth."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.demo.archive import FILMS, SEED, TRUTH_FILE, VERSION, write_archive
from jobs.demo.truth import TruthEvent
from pipeline.clock import format_time
from pipeline.plan import SECOND_US

DESCRIPTION = """\
Make a small archive of generated videos, watch it, and ask what happened at some seconds of it.

The videos are real files (H.264 in MP4, Matroska and MPEG-TS; one with a variable frame rate, one that starts at an
hour, one upright, one under two names) in which shapes appear, move, meet, change and leave, words are shown, and
scenes cut, fade, stand still or go black. A small Qwen3-VL mixture of experts, trained on such videos and part of the
installation, watches them, its experts split between two processes. What was drawn is known to the frame, so each
answer stands beside the truth. Needs no network and no GPU; takes about a minute.

Running it again asks the log that is there already.
"""

#: What can be known without understanding pictures; the rest is for a model that sees things.
SIGNAL_KINDS = ("text", "cut", "fade_out", "fade_in", "dissolve", "black", "frozen")
#: One question about each.
ASKED_OF_SIGNALS = ("text", "black", "frozen", "cut")
ASKED_OF_A_MODEL = ("meet", "change", "leave", "text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo", metavar="DIR", help="where archive and log go (default: demo)")
    parser.add_argument("--archive-only", metavar="DIR", help="only make the archive, in DIR")
    parser.add_argument("--model", help="who watches (default: bundled; signals where the qwen extra is not installed)")
    parser.add_argument("--ranks", type=int, default=2, help="processes that share a model's experts (default: 2)")
    parser.add_argument("--seed", type=int, default=SEED, help="another seed makes other videos")


def main(args: argparse.Namespace) -> int:
    console = Console(highlight=False)
    if args.archive_only is not None:
        _make(console, Path(args.archive_only), args.seed)
        return 0
    archive, log = Path(args.out, "archive"), Path(args.out, "log")
    truth = _make(console, archive, args.seed)
    model = args.model or _model_at_hand(console)
    _watch(console, archive, log, model, args.ranks)

    from pipeline.query import Query

    query = Query(str(log))
    known, kinds = (SIGNAL_KINDS, ASKED_OF_SIGNALS) if model == "signals" else (None, ASKED_OF_A_MODEL)
    asked = questions(truth, kinds)
    for name, second in asked:
        rows = query.at(_path(archive, name), second * SECOND_US).to_pylist()
        _answer(console, name, second, truth[name], rows, known)
    found = {
        name: query.between(_path(archive, name), 0, max(e.end_us for e in events)).to_pylist()
        for name, events in truth.items()
    }
    _sum_up(console, truth, found, known)
    _suggest(console, archive, log, *asked[0])
    return 0


def _path(archive: Path, name: str) -> str:
    return str((archive / name).absolute())


def _make(console: Console, folder: Path, seed: int) -> dict[str, list[TruthEvent]]:
    """Make the archive where it is not there yet; what is true in it, by file."""
    began = time.monotonic()
    made = _read_truth(folder)
    wanted = f"{VERSION}, seed {seed}"
    if made is not None and made.get("version") == wanted and all((folder / film.file).exists() for film in FILMS):
        said = "there already"
    else:
        with console.status("drawing the videos …"):
            write_archive(folder, seed)
        made, said = _read_truth(folder), f"made in {time.monotonic() - began:.1f} s"
    assert made is not None
    database = made["database"]
    length_us = round(sum(facts["duration"] for facts in database.values())) * SECOND_US
    console.print(f"{len(database)} videos, {format_time(length_us)} in all, in {folder} ({said})", soft_wrap=True)
    return {
        name: [TruthEvent(a["start_us"], a["end_us"], a["label"], a["text"]) for a in facts["annotations"]]
        for name, facts in database.items()
    }


def _read_truth(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / TRUTH_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _model_at_hand(console: Console) -> str:
    if all(find_spec(package) for package in ("torch", "transformers", "llguidance")):
        return "bundled"
    console.print("Watched by signal analysers only: pip install 'secondsight[qwen]' for the model that sees things.")
    return "signals"


def _watch(console: Console, archive: Path, log: Path, model: str, ranks: int) -> None:
    from jobs.progress import ProgressDisplay, summary_lines
    from jobs.run import run

    began = time.monotonic()
    with ProgressDisplay() as display:
        summary = run(
            [str(archive)],
            str(log),
            model,
            ranks=None if model == "signals" else ranks,
            on_progress=display.show,
            on_start=display.say,
        )
    for line in summary_lines(summary, time.monotonic() - began):
        console.print(line, soft_wrap=True)


def questions(truth: Mapping[str, Sequence[TruthEvent]], kinds: Sequence[str]) -> list[tuple[str, int]]:
    """(video, second) to ask about: the middle of one event of each of these kinds, each in another video."""
    asked: dict[str, int] = {}
    for kind in kinds:
        # Where most goes on at the same time the answer is most worth reading.
        candidates = [
            (sum(e.start_us < s + SECOND_US and s < e.end_us for e in events), name, s)
            for name, events in truth.items()
            if name not in asked
            for event in events
            if event.kind == kind and event.start_us > 4 * SECOND_US
            for s in [(event.start_us + event.end_us) // 2 // SECOND_US * SECOND_US]
        ]
        if candidates:
            _, name, start_us = max(candidates)
            asked[name] = start_us // SECOND_US
    return list(asked.items())


def _answer(
    console: Console,
    name: str,
    second: int,
    events: Sequence[TruthEvent],
    rows: Sequence[Mapping[str, Any]],
    known: Iterable[str] | None,
) -> None:
    console.print()
    console.print(Text(f"What happened at second {second} of {name}?", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in ("kind", "what", "truth", "found"):
        table.add_column(column, no_wrap=column != "what")
    left = list(rows)
    for event in events:
        if event.start_us >= (second + 1) * SECOND_US or event.end_us <= second * SECOND_US:
            continue
        match = next((row for row in left if _same(event, row)), None)
        if match is not None:
            left.remove(match)
        blind = known is not None and event.kind not in known
        missing = Text("needs a model" if blind else "missed", style="dim" if blind else "yellow")
        found = missing if match is None else Text(_span(match["start_us"], match["end_us"]), style="green")
        table.add_row(event.kind, event.text, _span(event.start_us, event.end_us), found, style="dim" if blind else "")
    for row in left:
        table.add_row(row["kind"], row["text"], "", _span(row["start_us"], row["end_us"]))
    console.print(table)


def _same(event: TruthEvent, row: Mapping[str, Any]) -> bool:
    """Whether a row of the log is about this event: of its kind (words: the same ones), and mostly at its time."""
    if row["kind"] != event.kind or (event.kind == "text" and row["text"].casefold() != event.text.casefold()):
        return False
    if event.kind == "cut":
        return bool(abs(row["start_us"] - event.start_us) <= SECOND_US // 2)
    both = min(row["end_us"], event.end_us) - max(row["start_us"], event.start_us)
    either = max(row["end_us"], event.end_us) - min(row["start_us"], event.start_us)
    return bool(2 * both >= either)


def _sum_up(
    console: Console,
    truth: Mapping[str, Sequence[TruthEvent]],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    known: Sequence[str] | None,
) -> None:
    kinds = known or sorted({event.kind for events in truth.values() for event in events})
    counts = []
    for kind in kinds:
        there = [(name, event) for name, events in truth.items() for event in events if event.kind == kind]
        hits = sum(any(_same(event, row) for row in found[name]) for name, event in there)
        counts.append(f"{kind} {hits} of {len(there)}")
    console.print()
    console.print(f"Found in the whole archive: {', '.join(counts)}.", soft_wrap=True)
    if known is not None:
        blind = sum(event.kind not in known for events in truth.values() for event in events)
        console.print(
            f"{blind} more events are about what the shapes do: for a model that sees things.",
            style="dim",
            soft_wrap=True,
        )


def _suggest(console: Console, archive: Path, log: Path, name: str, second: int) -> None:
    console.print()
    console.print("Ask yourself:", style="dim")
    place = shlex.quote(str(log))
    for line in (
        f"secondsight query {place} --video {shlex.quote(name)} --at {second}",
        f"secondsight serve {place}    # a web page: look, play, search",
        f"secondsight log {place}",
        f"secondsight evaluate {place} {shlex.quote(str(archive / TRUTH_FILE))} --moment cut=1",
        f'secondsight sql {place} "select kind, count(*) from events group by kind"',
    ):
        console.print(f"  {line}", soft_wrap=True)


def _span(start_us: int, end_us: int) -> str:
    """In seconds: the films are short, and the question was about a second."""
    return f"{start_us / SECOND_US:5.2f} – {end_us / SECOND_US:5.2f}"
