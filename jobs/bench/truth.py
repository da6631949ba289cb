"""How true the log is: `python -m jobs.bench.truth [--quick] [--json FILE] [--model PATH] [--precision P,P,...]`.

Videos of the generated world, from seeds that training never saw, are encoded; the whole job (`jobs.run`) watches them
with a checkpoint; its log is scored against what was drawn. Beside each figure stands the most that was to be had:
what the log would say if the model answered every window with the truth that the window's frames show.

With several precisions (`float32,bf16,fp8-stored,int8,int4`) the same videos are watched in each, and a table stands
them side by side. fp8-stored: the checkpoint is first rewritten in FP8 (`python -m model.checkpoint.store_fp8`).
`--verify BELOW` watches once more, with a second look at events of less confidence.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from jobs.demo.archive import Film, write_archive
from jobs.demo.truth import TruthEvent
from jobs.evaluate import find_videos, print_scores, score
from jobs.run import run
from jobs.train.samples import told_of
from model.checkpoint.store_fp8 import store_fp8
from model.prompts import Prompt, load_prompt
from pipeline.errors import ModelError
from pipeline.evaluate import Prediction, Scores, evaluate
from pipeline.event import WindowEvent, WindowEvents
from pipeline.groundtruth import Truth, read_truth
from pipeline.log import EventLog
from pipeline.plan import SECOND_US, Window
from pipeline.query import Match, Query
from pipeline.reduce import reduce_events

BUNDLED = Path(__file__).parents[2] / "model" / "bundled"
#: Training draws its worlds from [a small seed, a step]; these come from [SEED, a hash of the film's name].
SEED = 900_001
#: A cut is a moment: two within a third (a seventh) of this of each other have a tIoU of 0.5 (0.75).
MOMENTS = {"cut": SECOND_US}
#: What issue 4 asks for: figure -> (at least or at most, value).
GOALS = {
    "f1_50": (">=", 0.90), "f1_75": (">=", 0.75), "exact_text": (">=", 0.90),
    "start_p50_s": ("<=", 0.25), "start_p95_s": ("<=", 0.75),
}  # fmt: skip
FP8_STORED = "fp8-stored"
_TITLES = ("RIVER", "FIRST LIGHT", "MARKET", "NIGHT BUS")


def films(quick: bool) -> dict[str, list[Film]]:
    """By group: the films to watch."""
    seconds, count = (24, 3) if quick else (60, 8)
    sizes = ((640, 360), (640, 480), (768, 432), (360, 640), (480, 480), (854, 480))
    rates = (Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(30))

    def some(group: str, suffix: str, count: int, **more: Any) -> list[Film]:
        return [
            Film(f"{group} {i}{suffix}", _TITLES[i % len(_TITLES)], seconds, *sizes[i % len(sizes)],
                 rates[i % len(rates)], gop=48, **more)
            for i in range(count)
        ]  # fmt: skip

    long_s = 120 if quick else 1200
    return {
        "constant rate": some("constant", ".mp4", count),
        "variable rate": some("variable", ".mp4", count, variable=True),
        "from 3600 s on": some("late", ".mkv", count, start_us=3600 * SECOND_US),
        "long": [Film("long.mp4", _TITLES[0], long_s, 320, 180, Fraction(25), gop=100)],
    }


@dataclass(frozen=True, slots=True)
class Row:
    """One group's scores by the model, and by an oracle in its place."""

    group: str
    scores: Scores
    limit: Scores

    def figures(self, scores: Scores) -> dict[str, float | None]:
        return {
            "f1_50": scores.f1(0.5),
            "f1_75": scores.f1(0.75),
            "exact_text": scores.exact_text,
            "start_p50_s": scores.start_error_s.p50,
            "start_p95_s": scores.start_error_s.p95,
            "mean_ap": scores.mean_ap,
            "seam_truths": scores.seams.truths if scores.seams else None,
            "seam_lost": scores.seams.lost if scores.seams else None,
            "seam_doubled": scores.seams.doubled if scores.seams else None,
        }


def measure(
    folder: Path,
    model: str,
    quick: bool,
    prompt: str,
    precision: str = "auto",
    ranks: int = 1,
    say: bool = True,
    verify: float = 0.0,
) -> list[Row]:
    """Make the films (where `folder` has none yet), watch them, score them."""
    groups = films(quick)
    everything = [film for some in groups.values() for film in some]
    truth_file, log = folder / "archive" / "truth.json", str(folder / f"log-{precision}-{verify}")
    if not truth_file.is_file():
        began = time.perf_counter()
        truth_file = write_archive(folder / "archive", SEED, everything)
        if say:
            print(f"{len(everything)} videos made in {time.perf_counter() - began:.0f} s")
    if precision == FP8_STORED:
        stored = folder / precision
        model, precision = str(stored if stored.is_dir() else store_fp8(model, stored)), "auto"
    settings = {"verify": verify} if verify else {}
    summary = run(
        str(folder / "archive"), log, model=model, prompt=prompt, precision=precision, ranks=ranks, settings=settings
    )
    if say:
        print(
            f"{summary.videos} videos, {summary.video_s:.0f} s, {summary.windows} windows watched in "
            f"{summary.elapsed_s:.0f} s"
        )
        if looks := summary.totals.get("model", {}).get("second_looks"):
            print("second looks: " + ", ".join(f"{count} {verdict}" for verdict, count in looks.items()))
    truth = read_truth(truth_file)
    asked = load_prompt(prompt)
    rows = []
    for group, made in {**groups, "all": everything}.items():
        true = {film.file: truth[film.file] for film in made}
        rows.append(Row(group, score(log, true, moments=MOMENTS), oracle(log, true, asked)))
    if say:
        print_scores(rows[-1].scores)
    return rows


def oracle(log: str, truth: Mapping[str, Sequence[Truth]], prompt: Prompt) -> Scores:
    """Scores of right answers, given to the very windows and frames of a log and reduced by the same rules."""
    matches = find_videos(Query(log), truth)
    predicted, spans = {}, {}
    for name, windows in _windows(log, matches).items():
        meant = [TruthEvent(e.start_us, e.end_us, e.kind, e.text) for e in truth[name]]
        answers = [_right(window, frame_us, meant, prompt) for window, frame_us in windows]
        duration_us = max(window.end_us for window, _ in windows)
        reduced = reduce_events(answers, prompt.rules, duration_us).events
        predicted[name] = [Prediction(e.start_us, e.end_us, e.kind, e.text, e.confidence) for e in reduced]
        spans[name] = [(window.start_us, window.end_us) for window, _ in windows]
    return evaluate(truth, predicted, spans, MOMENTS)


def _right(window: Window, frame_us: Sequence[int], meant: Sequence[TruthEvent], prompt: Prompt) -> WindowEvents:
    shown = [max(0, t - window.start_us) for t in frame_us]
    if not shown:
        return WindowEvents(window, ())
    told = told_of(meant, window.start_us, window.end_us - window.start_us, shown, prompt.answer.max_events)
    return WindowEvents(window, tuple(WindowEvent(e.start_us, e.end_us, e.kind, e.text, 1.0) for e in told))


def _windows(log: str, matches: Mapping[str, Match]) -> dict[str, list[tuple[Window, list[int]]]]:
    """By name of the video: its windows and the times of their frames, as the run saw them."""
    table = EventLog.open(log).snapshot().table("windows")
    names = {(m.entry.video_id, m.entry.run_id): name for name, m in matches.items()}
    found: dict[str, list[tuple[Window, list[int]]]] = {}
    for r in table.to_pylist():
        if (name := names.get((r["video_id"], r["run_id"]))) is not None:
            window = Window(r["video_id"], r["window"], r["start_us"], r["end_us"])
            found.setdefault(name, []).append((window, r["frame_us"]))
    return found


def print_rows(rows: Iterable[Row]) -> None:
    """Figures of each group; in brackets what right answers would reach."""
    print(
        f"\n{'':<16}{'events':>7}  " + "".join(f"{name:>16}" for name in (*GOALS, "mean_ap")) + "  seams lost, doubled"
    )
    print(f"{'goal':<25}" + "".join(f"{sign + ' ' + str(value):>16}" for sign, value in GOALS.values()))
    for row in rows:
        ours, most = row.figures(row.scores), row.figures(row.limit)
        cells = "".join(f"{_short(ours[k]) + ' (' + _short(most[k]) + ')':>16}" for k in (*GOALS, "mean_ap"))
        seams = ", ".join(f"{ours[k]} ({most[k]})" for k in ("seam_lost", "seam_doubled"))
        truths = row.scores.detection[0.5][""].truths
        print(f"{row.group:<16}{truths:>7}  {cells}  of {ours['seam_truths']}: {seams}")


def print_precisions(measured: Mapping[str, Sequence[Row]]) -> None:
    """All videos together, one line for each precision; precision and recall of events at an IoU of 0.5."""
    print(f"\n{'all videos':<24}" + "".join(f"{n:>13}" for n in ("precision_50", "recall_50", *GOALS, "mean_ap")))
    for precision, rows in measured.items():
        scores = rows[-1].scores
        figures, found = rows[-1].figures(scores), scores.detection[0.5][""]
        cells = [found.precision, found.recall, *(figures[name] for name in (*GOALS, "mean_ap"))]
        print(f"{precision:<24}" + "".join(f"{_short(cell):>13}" for cell in cells))


def _short(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.truth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few short films, about a minute on a quiet machine")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--model", default=str(BUNDLED), help="checkpoint folder (default: the bundled one)")
    parser.add_argument("--precision", default="auto", help="of the weights, one or several (see above)")
    parser.add_argument("--verify", type=float, default=0.0, metavar="BELOW", help="and with a second look")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share the experts")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep archive and log there")
    args = parser.parse_args()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not (Path(args.model) / "model.safetensors").is_file():
        raise SystemExit(str(ModelError(f"{args.model} holds no weights: train some with `python -m jobs.train`")))
    with tempfile.TemporaryDirectory() as folder:
        where, prompt = args.keep or Path(folder), str(Path(args.model) / "world.toml")
        measured = {}
        for precision in args.precision.split(","):
            for verify in (0.0, args.verify) if args.verify else (0.0,):
                name = f"{precision}, verify {verify:g}" if verify else precision
                print(f"\n{name}")
                measured[name] = measure(where, args.model, args.quick, prompt, precision, args.ranks, verify=verify)
                print_rows(measured[name])
    if len(measured) > 1:
        print_precisions(measured)
    if args.json:
        told = [_as_json(precision, rows) for precision, rows in measured.items()]
        args.json.write_text(json.dumps(told if len(told) > 1 else told[0], indent=1) + "\n")
    return 0


def _as_json(precision: str, rows: Iterable[Row]) -> dict[str, Any]:
    groups = {
        row.group: {"model": row.scores.as_json(), "limit": row.limit.as_json(), "figures": row.figures(row.scores)}
        for row in rows
    }
    return {"goals": GOALS, "precision": precision, "groups": groups}


if __name__ == "__main__":
    raise SystemExit(main())
