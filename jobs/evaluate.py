"""secondsight evaluate: how well the events of a log agree with ground truth."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from pipeline.clock import parse_time
from pipeline.errors import UsageError
from pipeline.evaluate import LEVELS, Prediction, Scores, Spread, evaluate
from pipeline.groundtruth import Truth, read_truth
from pipeline.log import EventLog
from pipeline.query import Match, Query

DESCRIPTION = """\
Score the events of a log against ground truth in the layout of ActivityNet's JSON.

An event is found where an event of the log with the same kind overlaps it enough: temporal IoU 0.5 and 0.75. Videos
of the ground truth are sought in the log by name, with or without their suffix; one that is not there counts as
watched without seeing anything.

  secondsight evaluate LOG truth.json
  secondsight evaluate LOG truth.json --moment cut=1 --json scores.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("truth", metavar="TRUTH", help="ground truth: a JSON file")
    parser.add_argument("--run", metavar="ID", help="score this run (default: the newest done run of each video)")
    parser.add_argument("--subset", metavar="NAME", help="only videos of this subset of the ground truth")
    parser.add_argument(
        "--moment",
        metavar="KIND=LENGTH",
        action="append",
        default=[],
        help="events of this kind have a time but no length: compare them as spans of LENGTH around their start",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there")


def main(args: argparse.Namespace) -> int:
    moments = parse_moments(args.moment)
    scores = score(args.log, read_truth(args.truth, args.subset), args.run, moments)
    print_scores(scores)
    if args.json:
        try:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(scores.as_json(), file, indent=1)
                file.write("\n")
        except OSError as error:
            raise UsageError(f"{args.json}: cannot be written: {error.strerror}") from None
    return 0


def score(
    log: str,
    truth: Mapping[str, Sequence[Truth]],
    run: str | None = None,
    moments: Mapping[str, int] | None = None,
) -> Scores:
    """Score a log, see `pipeline.evaluate.evaluate`; videos are found by `find_videos`. Raises UsageError, LogError."""
    query = Query(log)
    matches = find_videos(query, truth, run)
    if not matches:
        raise UsageError(f"{log} holds none of the {len(truth)} videos of the ground truth")
    for name in sorted(set(truth) - set(matches)):
        print(f"secondsight: {name}: not in {log}, so nothing of it counts as found", file=sys.stderr)
    predicted = {name: _predictions(query, match) for name, match in matches.items()}
    return evaluate(truth, predicted, _windows(log, matches), moments)


def find_videos(query: Query, names: Iterable[str], run: str | None = None) -> dict[str, Match]:
    """The videos of a log that are meant by names of a ground truth: the last part of their path, with or without
    suffix, with or without the "v_" that ActivityNet's files have before the name, or with the beginning of the id
    behind it (`pipeline.export.short_names`)."""
    by_stem: dict[str, list[str]] = {}
    for entry in query.entries(run):
        for uri in entry.uris:
            stem = uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]
            for key in {stem, stem.removeprefix("v_"), f"{stem}_{entry.video_id[:8]}"}:
                by_stem.setdefault(key, []).append(entry.video_id)
    found = {}
    for name in names:
        try:
            found[name] = query.find(name, run)
        except UsageError:
            if len(meant := set(by_stem.get(name, ()))) == 1:
                found[name] = query.find(meant.pop(), run)
    return found


def _predictions(query: Query, match: Match) -> list[Prediction]:
    rows = query.search([match.entry.video_id], run=match.entry.run_id).to_pylist()
    return [Prediction(r["start_us"], r["end_us"], r["kind"], r["text"], r["confidence"]) for r in rows]


def _windows(log: str, matches: Mapping[str, Match]) -> dict[str, list[tuple[int, int]]]:
    names = {(m.entry.video_id, m.entry.run_id): name for name, m in matches.items()}
    table = EventLog.open(log).snapshot().table("windows", ["video_id", "run_id", "start_us", "end_us"])
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in matches}
    for row in table.to_pylist():
        name = names.get((row["video_id"], row["run_id"]))
        if name is not None:
            found[name].append((row["start_us"], row["end_us"]))
    return found


def parse_moments(given: Iterable[str]) -> dict[str, int]:
    """`KIND=LENGTH` to microseconds by kind. Raises UsageError."""
    found = {}
    for one in given:
        kind, _, length = one.partition("=")
        us = parse_time(length) if kind and length else 0
        if us <= 0:
            raise UsageError(f"--moment {one}: say KIND=LENGTH with a length above 0, e.g. cut=1")
        found[kind] = us
    return found


def print_scores(scores: Scores) -> None:
    """A table for a person."""
    everything, strict = (scores.detection[level] for level in LEVELS)
    print(f"{'kind':<14}{'true':>7}{'said':>7}{'prec.':>8}{'recall':>8}{'F1@0.5':>8}{'F1@0.75':>9}{'AP':>7}")
    for kind in sorted(everything):
        d = everything[kind]
        if kind:
            at_levels = [kinds[kind] for kinds in scores.average_precision.values() if kind in kinds]
            ap = f"{sum(at_levels) / len(at_levels):.3f}" if at_levels else "-"
        else:
            ap = "-" if scores.mean_ap is None else f"{scores.mean_ap:.3f}"
        figures = f"{d.precision:>8.3f}{d.recall:>8.3f}{d.f1:>8.3f}{strict[kind].f1:>9.3f}{ap:>7}"
        print(f"{kind or 'all':<14}{d.truths:>7}{d.predictions:>7}{figures}")
    print(f"\nof the events found at IoU {LEVELS[0]}, in {scores.videos} videos:")
    print(f"  text exactly right   {_share(scores.exact_text)}")
    print(f"  start error          {_errors(scores.start_error_s)}")
    print(f"  end error            {_errors(scores.end_error_s)}")
    if (seams := scores.seams) is not None:
        share = seams.lost / seams.truths if seams.truths else None
        print(
            f"at the seams of windows: {seams.truths} events, {seams.lost} lost ({_share(share)}; elsewhere "
            f"{_share(seams.lost_elsewhere)}), {seams.doubled} said twice"
        )
    if scores.calibration_error is not None:
        print(f"confidence: expected calibration error {scores.calibration_error:.3f}")
        for b in scores.bins:
            print(
                f"  {b.low:.1f}-{b.high:.1f}: {b.predictions:>6} events, {b.confidence:.2f} sure, {b.right:.2f} right"
            )


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _errors(spread: Spread) -> str:
    if spread.p50 is None or spread.p95 is None:
        return "-"
    return f"p50 {spread.p50:.2f} s, p95 {spread.p95:.2f} s"
