"""`secondsight top`: runs as they go, in the terminal."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.progress import duration
from pipeline.errors import LogError, SecondsightError, UsageError
from pipeline.live import LiveStatus, read_live

if TYPE_CHECKING:
    from jobs.jobserver import JobServer

DESCRIPTION = """\
Runs as they go: what is done and left, hours of video an hour, who is the bottleneck, what is stuck, what failed.

LOG is an event log: the runs that write to it tell beside it where they stand, every few seconds. Or the address of
a Ray cluster's job server: the runs that `secondsight submit` sent there. Ctrl-C ends the watching, not the run.

exit status: 0; with --once 3 where nothing is running

examples:
  secondsight top s3://bucket/log
  secondsight top http://HEAD:8265
  secondsight top LOG --once --json
"""

NOTHING_RUNS = 3
WIDTH = 44  # of the bars
STATES = {"starting": "yellow", "running": "green", "done": "cyan", "failed": "red", "stopped": "yellow"}
SHOWN = 5  # lines of what is stuck, and of failures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("where", metavar="LOG_OR_ADDRESS", help="an event log, or a job server: http://HEAD:8265")
    parser.add_argument("--run", metavar="ID", help="only this run (the beginning of its id)")
    parser.add_argument("--all", action="store_true", help="also runs that have ended")
    parser.add_argument("--once", action="store_true", help="say where they stand now, and end")
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="S", help="seconds between two looks (default: 2)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: an array, once; one line a look otherwise")
    parser.add_argument("--token-file", metavar="FILE", help="ADDRESS: holds the cluster's authentication token")


def main(args: argparse.Namespace) -> int:
    if not 0.1 <= args.interval <= 3600:
        raise UsageError(f"--interval {args.interval:g}: write 0.1 to 3600 seconds")
    look = _look_at_cluster(args) if args.where.startswith(("http://", "https://")) else _look_at_log(args)
    if args.once:
        shown = look()
        if args.json:
            print(json.dumps([_plain(s) for s in shown], indent=2))
        else:
            Console().print(render(shown, args.where))
        return 0 if any(map(_goes, shown)) else NOTHING_RUNS
    try:
        if args.json:
            while True:
                print(json.dumps([_plain(s) for s in look()]), flush=True)
                time.sleep(args.interval)
        console = Console()
        if not console.is_terminal:
            raise UsageError("top needs a terminal; --once or --json works without")
        with Live(console=console, auto_refresh=False, screen=True) as screen:
            while True:
                screen.update(_guarded(look, args.where), refresh=True)
                time.sleep(args.interval)
    except KeyboardInterrupt:
        return 0


def _goes(shown: LiveStatus | dict[str, Any]) -> bool:
    """Whether a run goes on; of a job whose log cannot be reached from here, by the job server's word."""
    return shown.is_live() if isinstance(shown, LiveStatus) else shown["status"] in ("pending", "running")


def _guarded(look: Callable[[], Sequence[Any]], where: str) -> RenderableType:
    """One look; a store or server that fails for a moment does not end the watching."""
    try:
        return render(look(), where)
    except SecondsightError as error:
        return Text(f"{error}\n(tried again in a moment)", style="red")


# --- Where to look.


def _look_at_log(args: argparse.Namespace) -> Callable[[], Sequence[LiveStatus]]:
    from pipeline.log import EventLog

    if not read_live(args.where):
        EventLog.open(args.where)  # says what is wrong where there is no log

    def look() -> Sequence[LiveStatus]:
        found = [s for s in read_live(args.where) if s.run_id.startswith(args.run or "")]
        if args.run and not found:
            raise UsageError(f"--run {args.run}: no such run says where it stands in {args.where}")
        going = [s for s in found if not s.ended]
        return found if args.all else going or found[:1]

    return look


def _look_at_cluster(args: argparse.Namespace) -> Callable[[], Sequence[Any]]:
    from jobs.jobserver import JobServer, find_token
    from jobs.submit import MARK

    server: JobServer = JobServer(args.where, find_token(args.token_file))

    def look() -> Sequence[Any]:
        shown: list[Any] = []
        for job in server.jobs():
            log = (job.metadata or {}).get("log", "")
            going = job.status.value in ("PENDING", "RUNNING")
            if MARK not in (job.metadata or {}) or not (going or args.all):
                continue
            run = run_of(job.submission_id, log)
            if args.run and not (run is not None and run.run_id.startswith(args.run)):
                continue
            # A log that only the cluster can reach: what its driver printed last.
            shown.append(run or {"job": job.submission_id, "status": job.status.value.lower(),
                         "log": log, "said": server.logs(job.submission_id)[-500:].splitlines()[-1:]})  # fmt: skip
        return shown

    return look


def run_of(job: str, log: str) -> LiveStatus | None:
    """The run that a submitted job is; None while there is none, and where its log cannot be reached from here."""
    try:
        return next((status for status in read_live(log) if status.job == job), None) if log else None
    except LogError:
        return None


def _plain(shown: LiveStatus | dict[str, Any]) -> dict[str, Any]:
    return {**shown.as_json(), "live": shown.is_live()} if isinstance(shown, LiveStatus) else shown


# --- How it looks.


def render(shown: Sequence[Any], where: str) -> RenderableType:
    if not shown:
        return Text(f"no run says where it stands in {where}", style="dim")
    parts: list[RenderableType] = []
    for one in shown:
        if parts:
            parts.append(Text(""))
        parts.append(render_run(one) if isinstance(one, LiveStatus) else _render_job(one))
    return Group(*parts)


def render_run(status: LiveStatus, now_us: int | None = None) -> Group:
    """One run; `now_us`: Unix time, for what has happened since."""
    now_us = time.time_ns() // 1000 if now_us is None else now_us
    silent = not status.ended and not status.is_live(now_us)
    state = "silent" if silent else status.state
    until_us = status.updated_at_us if status.ended or silent else now_us
    head = Text.assemble(
        (f" {state} ", f"reverse {'red' if silent else STATES[status.state]}"),
        ("  " + status.run_id, "bold"),
        f"  {status.model}",
        (f"  {duration((until_us - status.started_at_us) / 1e6)}", "bold"),
        (f"  since {datetime.fromtimestamp(status.started_at_us / 1e6, UTC):%Y-%m-%d %H:%M:%S}Z", "dim"),
    )
    parts: list[RenderableType] = [head, Text(f"{status.archive}   driver {status.driver}", style="dim")]
    if silent:
        said = f"its driver has said nothing for {duration(status.silent_s(now_us))}: it is dead, or its node is"
        parts.append(Text(f"{said}; the same `secondsight run` again does the rest", style="red"))
    if status.note:
        parts.append(Text(status.note, style="red" if status.state == "failed" else "yellow"))
    parts += [Text(""), _bars(status), Text(""), _stages(status)]
    if status.stuck:
        parts.append(Text("\nstuck", style="bold red"))
        for piece in status.stuck[:SHOWN]:
            since = duration((now_us - piece.since_us) / 1e6)
            parts.append(Text(f"  {piece.stage} for {since}: {piece.what}  {piece.where}", style="red"))
    if status.failures:
        parts.append(Text(f"\nfailures ({status.videos_failed + status.videos_quarantined:,})", style="bold"))
        for uri, reason in status.failures[-SHOWN:]:
            parts.append(Text(f"  {uri}: {reason}", overflow="ellipsis", no_wrap=True))
    return Group(*parts)


def _bars(status: LiveStatus) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    for _ in range(3):
        grid.add_column()
    more = "" if status.listed else "+"
    finished = status.videos_finished
    notes = [f"{status.videos_already:,} done before"] if status.videos_already else []
    notes += [f"{status.duplicates:,} copies"] if status.duplicates else []
    bad = status.videos_failed + status.videos_quarantined
    notes += [f"[red]{status.videos_failed:,} failed[/]"] if status.videos_failed else []
    notes += [f"[red]{status.videos_quarantined:,} quarantined[/]"] if status.videos_quarantined else []
    notes += ["none failed"] if not bad else []
    grid.add_row(
        "videos", _bar(finished, status.videos_found), f"{finished:,}/{status.videos_found:,}{more}", ", ".join(notes)
    )
    known = f"{status.windows_done + status.windows_kept:,}/{status.windows_known:,}"
    kept = f"{status.windows_kept:,} kept from before" if status.windows_kept else ""
    grid.add_row("windows", _bar(status.windows_done + status.windows_kept, status.windows_known), known, kept)
    hours = f"{status.video_us / 3.6e9:,.2f}/{status.expected_us / 3.6e9:,.2f}{more} h"
    pace = f"[bold]{status.hours_per_hour:,.1f} h/h[/]" if status.hours_per_hour is not None else "… h/h"
    left = f", {duration(status.left_s)} left" if status.left_s is not None and not status.ended else ""
    grid.add_row("video", _bar(status.video_us, status.expected_us), hours, pace + left)
    return grid


def _stages(status: LiveStatus) -> Table:
    """One row a stage: how fast, how many at work of how many there are, and what it took so far."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, side in (("stage", "left"), ("lately", "right"), ("at work", "right"), ("took", "right"), ("", "left")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    rates = status.rates
    queue = f"{_size(status.bytes_in_flight)} of {_size(status.budget_bytes)} of frames wait"
    table.add_row(
        "decode", _rate(rates.get("decode_frames"), "frames/s"), _busy(rates.get("decode_busy"), status.decoders),
        duration(status.decode_s), queue,
    )  # fmt: skip
    tokens = f"{status.input_tokens:,} tokens in, {status.output_tokens:,} out" if status.input_tokens else ""
    tokens += f", experts {status.expert_imbalance:.2f}x uneven" if status.expert_imbalance else ""
    table.add_row(
        "watch", _rate(rates.get("watch_windows"), "windows/s"), _busy(rates.get("watch_busy"), status.replicas),
        duration(status.model_s), tokens,
    )  # fmt: skip
    events = f"{status.events:,} events"
    table.add_row("commit", _rate(rates.get("finish_videos"), "videos/s"), "", duration(status.commit_s), events)
    up = f"{status.replicas}/{status.replicas_wanted} replicas"
    up += f" ({status.replica_deaths} replaced)" if status.replica_deaths else ""
    up += f", {status.nodes} nodes" if status.nodes else ""
    up += f" ({status.nodes_lost} lost)" if status.nodes_lost else ""
    up += f", {status.retries:,} retries" if status.retries else ""
    table.add_row("", "", "", "", Text(up, style="dim"))
    return table


def _render_job(job: dict[str, Any]) -> Group:
    lines = [Text.assemble((f" {job['status']} ", "reverse yellow"), ("  " + job["job"], "bold"), f"  {job['log']}")]
    lines += [Text(f"  {line}", style="dim") for line in job["said"]]
    return Group(*lines)


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=max(1, total), completed=min(done, total), width=WIDTH)


def _rate(rate: float | None, unit: str) -> str:
    return "…" if rate is None else f"{rate:,.1f} {unit}" if rate < 100 else f"{rate:,.0f} {unit}"


def _busy(busy: float | None, of: int) -> str:
    return "…" if busy is None else f"{busy:.1f} of {of}"


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
