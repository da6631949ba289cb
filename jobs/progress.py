"""What a person sees while a run is under way, and when it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workers.live import expected_us

if TYPE_CHECKING:
    from jobs.run import RunSummary
    from workers.report import Progress

SHOWN_FAILURES = 10
LINES_S = 30.0  # between two lines where nobody looks on


class ProgressDisplay:
    """A few live lines on the terminal (on standard error); where there is none (a job's log), a line now and then."""

    def __init__(self, console: Console | None = None, silent: bool = False) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._on = self._console.is_terminal and not silent
        self._lines = not self._console.is_terminal and not silent
        self._said: float = time.monotonic()
        self._began: float | None = None

    def __enter__(self) -> ProgressDisplay:
        if self._on:
            self._live.start()
            self._live.update(Text("looking at the archive …", style="dim"), refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on:
            self._live.stop()

    def say(self, line: str) -> None:
        if self._on or self._lines:
            self._console.print(line, style="dim", highlight=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._lines and now - self._said >= LINES_S:
            self._said = now
            self._console.print(line(progress), markup=False, highlight=False, soft_wrap=True)
        if not self._on:
            return
        if self._began is None and progress.windows:
            self._began = now
        self._live.update(render(progress, now - self._began if self._began is not None else 0.0), refresh=True)


def line(progress: Progress) -> str:
    """Where a run stands, in one line."""
    finished = progress.done + progress.failed + progress.quarantined + progress.already + progress.duplicates
    parts = [
        f"{finished:,}/{progress.found:,}{'' if progress.listed else '+'} videos",
        f"{progress.windows:,}/{progress.windows_known:,} windows",
        f"{progress.events:,} events",
        f"{progress.video_us / 1e6 / 3600:,.2f} h watched",
        f"{progress.failed + progress.quarantined:,} failed",
        f"{progress.replicas} replicas",
    ]
    parts += [held] if (held := held_up(progress)) else []
    return ", ".join(parts)


def held_up(progress: Progress) -> str:
    """What the run waits for, or what is stuck, the longest first; "" where nothing is."""
    if progress.waits_for:
        return f"waiting: {progress.waits_for}"
    if not progress.stuck:
        return ""
    first, more = progress.stuck[0], len(progress.stuck) - 1
    since = duration(time.time() - first.since_us / 1e6)
    where = f" ({first.where})" if first.where else ""
    return f"stuck for {since}: {first.stage}, {first.what}{where}" + (f" and {more} more" if more else "")


def render(progress: Progress, elapsed_s: float) -> Group:
    """The live lines; `elapsed_s` since the first window was answered."""
    total_us = expected_us(progress)
    rate = progress.video_us / 1e6 / elapsed_s if elapsed_s > 1 else 0.0
    left = duration((total_us - progress.video_us) / 1e6 / rate) if rate else "…"
    found = f"{progress.found:,}" + ("" if progress.listed else "+")
    finished = progress.done + progress.failed + progress.quarantined + progress.already + progress.duplicates
    facts = Table.grid(padding=(0, 3))
    cells = [
        f"[bold]{finished:,}[/]/{found} videos",
        f"[bold]{progress.windows:,}[/]/{progress.windows_known:,} windows",
        f"[bold]{progress.events:,}[/] events",
        f"[bold]{rate:,.1f}[/] h/h" if rate else "… h/h",
        f"[bold red]{progress.failed + progress.quarantined:,}[/] failed"
        if progress.failed + progress.quarantined
        else "0 failed",
        f"{left} left",
    ]
    facts.add_row(*cells)
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(1, total_us), completed=min(progress.video_us, total_us), width=60))
    notes = [f"{progress.already:,} already done"] if progress.already else []
    notes += [f"{progress.replicas} replicas"] if progress.replicas else ["loading the model …"]
    notes += [f"{progress.replica_deaths} replaced"] if progress.replica_deaths else []
    notes += [f"{progress.bytes_in_flight / 2**20:,.0f} MiB of frames in flight"]
    held = held_up(progress)
    return Group(bar, facts, Text(" · ".join(notes), style="dim"), *([Text(held, style="red")] if held else []))


def summary_lines(summary: RunSummary, elapsed_s: float) -> Iterator[str]:
    """What is left on the screen. `elapsed_s`: of the whole command, start-up included."""
    if not summary.run_id:
        if summary.already:
            yield f"nothing to do: all {summary.already:,} videos are in {summary.log} already"
        else:
            yield "nothing to do: no videos found"
        return
    parts = [
        f"{summary.videos:,} videos",
        f"{summary.windows:,} windows",
        f"{summary.events:,} events",
        f"{duration(summary.video_s)} of video in {duration(elapsed_s)} ({summary.hours_per_hour:,.1f} h/h)",
    ]
    parts += [f"{summary.already:,} done before"] if summary.already else []
    parts += [f"{summary.duplicates:,} further names of the same content"] if summary.duplicates else []
    yield f"run {summary.run_id}: " + ", ".join(parts)
    if summary.failed or summary.quarantined:
        counts = [f"{summary.failed:,} failed"] if summary.failed else []
        counts += [f"{summary.quarantined:,} quarantined"] if summary.quarantined else []
        yield f"{' and '.join(counts)} (secondsight log {summary.log} --failures):"
        for uri, reason in summary.failures[:SHOWN_FAILURES]:
            yield f"  {uri}: {reason}"
        if len(summary.failures) > SHOWN_FAILURES:
            yield "  …"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 12.3s, 4:05, 3:04:05, 2d 03h."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f}s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02}h"
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
