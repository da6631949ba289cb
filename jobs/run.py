"""`secondsight run`: watch an archive and write what happens into an event log."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.configure import configure as configure
from jobs.watch import RunSummary as RunSummary
from jobs.watch import run as run
from pipeline.clock import parse_time
from pipeline.errors import UsageError

DESCRIPTION = """\
Watch an archive and write what happens into an event log.

ARCHIVE is a file, a directory (searched for videos), a glob, a list of names (@FILE, one a line; @- reads standard
input), or a URI such as s3://bucket/prefix or https://host/clip.mp4; give as many as you like.

Running it again continues: videos that the log already holds under the same configuration (sampling, windows, model
and its settings) are not watched again, under whatever name they are found. Ctrl-C stops cleanly; what is finished
is in the log. A video that cannot be read never stops the run: it gets a row with its reason, see
`secondsight log LOG --failures`.

exit status:
  0    every video is in the log
  1    the run could not be carried out, or not all of the archive be listed; what was finished is in the log
  2    wrong usage
  3    finished, but some videos failed or were quarantined
  130  stopped by Ctrl-C

examples:
  secondsight run holiday/ --log LOG
  secondsight run 's3://bucket/2026/*.mp4' --log s3://bucket/log --exclude '*_preview.mp4'
  secondsight run clips/ --log LOG --fps 1 --window 30 --set text=false
"""

EXIT_FAILURES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", nargs="+", metavar="ARCHIVE", help="what to watch (see above)")
    parser.add_argument("--log", required=True, help="the event log: a directory or an s3:// prefix; made where absent")
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="watch only names that match")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave out names that match")
    parser.add_argument("--retry-failed", action="store_true", help="take up videos again that failed before")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default="signals",
        help="who watches: signals (the default, needs no weights), bundled, a Qwen3-VL (directory, URI, hub id, GGUF"
        " file), openai:URL#NAME of a served one, vllm:ID, or python:PACKAGE.MODULE:OBJECT of your own",
    )
    model.add_argument("--prompt", metavar="NAME", help="what a Qwen3-VL is asked: events, ocr, ..., or a .toml file")
    model.add_argument("--ranks", type=int, metavar="N", help="processes (GPUs) that share the experts of one replica")
    model.add_argument(
        "--expert-placement",
        choices=("contiguous", "measured"),
        help="which rank holds which experts; measured: by the routing of the last run in LOG (default: contiguous)",
    )
    model.add_argument(
        "--precision",
        choices=("float32", "bf16", "fp8", "int8", "int4"),
        help="of the weights; int8, int4: of the experts alone; fp8: multiply in it on Hopper GPUs"
        " (compute capability 9.0: H100, H200), as stored on all others"
        " (default: as stored)",
    )
    model.add_argument(
        "--verify",
        type=float,
        nargs="?",
        const=0.5,
        metavar="BELOW",
        help="look again, at denser frames, at events of less confidence than this (0.5): confirm, correct or strike"
        " them; at most 8 of a window, the least sure; twice as dense around spans of up to half a window",
    )
    model.add_argument(
        "--verify-kinds", metavar="KIND,...", help="look again at events of these kinds, too, however sure"
    )
    model.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="a setting of the model, such as text=false; may be given again",
    )
    sampling = parser.add_argument_group("what the model sees (default: what suits it)")
    sampling.add_argument("--fps", metavar="RATE", help="frames per second: 2, 0.5, 30000/1001")
    sampling.add_argument("--window", metavar="TIME", help="what it sees at once: 16, 1:30")
    sampling.add_argument("--overlap", metavar="TIME", help="how much of it the next window sees again")
    sampling.add_argument("--short-side", type=int, metavar="PX", help="shorter side of the pictures, never enlarged")
    sampling.add_argument(
        "--tolerance", metavar="TIME", help="take the cheapest frame within this time of the wanted one (default: 0)"
    )
    sampling.add_argument("--decoder", choices=("pyav", "decord"), help="what decodes the videos (default: pyav)")
    sampling.add_argument(
        "--redact",
        metavar="WHAT,...",
        help="hide it before any model gets a picture: text, codes, faces (faces=PATH: YuNet's weights)",
    )
    machines = parser.add_argument_group("machines")
    machines.add_argument("--replicas", default="auto", metavar="N", help="copies of the model (default: auto)")
    machines.add_argument(
        "--max-replicas", type=int, metavar="N", help="ask the cluster's autoscaler for room for so many copies"
    )
    machines.add_argument(
        "--startup",
        metavar="TIME",
        help="how long the first copy may take to come up: nodes started, weights fetched (default: 15:00; 1:00:00 on a"
        " cluster)",
    )
    machines.add_argument("--address", help="a Ray cluster: auto, HOST:PORT (default: $RAY_ADDRESS, else this machine)")
    watching = parser.add_argument_group("to see it run (and `secondsight top LOG`, Prometheus through Ray)")
    watching.add_argument(
        "--trace",
        nargs="?",
        const="otlp",
        metavar="TARGET",
        help="OpenTelemetry traces of each window: a collector's URL, a file (JSON lines), or otlp (by OTEL_... of the"
        " environment; the default)",
    )
    watching.add_argument(
        "--forecast", metavar="FILE", help="keep this forecast (`secondsight forecast --out FILE`) beside the fact"
    )
    watching.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: what happens as JSON lines on standard error, for whatever collects logs (default: text)",
    )


def main(args: argparse.Namespace) -> int:
    try:
        return _main(args)
    except KeyboardInterrupt:
        print(f"\nstopped; what is finished is in {args.log}, the same command does the rest", file=sys.stderr)
        return 130


def _main(args: argparse.Namespace) -> int:
    from jobs.progress import ProgressDisplay, summary_lines

    began = time.monotonic()
    with ProgressDisplay(silent=args.log_format == "json") as display:
        summary = run(
            args.archive,
            args.log,
            args.model,
            settings={**_verify_settings(args), **parse_settings(args.settings)},
            ranks=args.ranks,
            prompt=args.prompt,
            precision=args.precision,
            expert_placement=args.expert_placement,
            fps=args.fps,
            window_s=_seconds(args.window),
            overlap_s=_seconds(args.overlap),
            short_side=args.short_side,
            tolerance_s=_seconds(args.tolerance),
            decoder=args.decoder,
            redact=args.redact,
            replicas=_replicas(args.replicas),
            max_replicas=args.max_replicas,
            startup_s=_seconds(args.startup),
            include=args.include,
            exclude=args.exclude,
            retry_failed=args.retry_failed,
            address=args.address,
            trace=args.trace,
            journal=args.log_format == "json",
            forecast=_forecast(args.forecast),
            on_progress=display.show,
            on_start=display.say,
        )
    for line in summary_lines(summary, time.monotonic() - began):
        print(line)
    return EXIT_FAILURES if summary.failed or summary.quarantined else 0


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value is JSON where it can be read as such (true, 3, "x"), else text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair}: write KEY=VALUE")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def _verify_settings(args: argparse.Namespace) -> dict[str, Any]:
    kinds = {} if args.verify_kinds is None else {"verify_kinds": [k for k in args.verify_kinds.split(",") if k]}
    return kinds if args.verify is None else {**kinds, "verify": args.verify}


def _seconds(text: str | None) -> float | None:
    return None if text is None else parse_time(text) / 1e6


def _replicas(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--replicas {text}: write a number or auto")
    return int(text)


def _forecast(file: str | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        told = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--forecast {file}: cannot be read: {error}") from error
    if not isinstance(told, dict) or "archive" not in told:
        raise UsageError(f"--forecast {file}: not a forecast of a run; `secondsight forecast ARCHIVE --out` writes one")
    return told


if __name__ == "__main__":
    from jobs.cli import main as cli

    sys.exit(cli(["run", *sys.argv[1:]]))
