"""Sums over the spans of a video's events: how many go on when, and where none does."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.clock import format_time
from pipeline.errors import UsageError

#: Steps of a density at most: a list of this many numbers is a browser's limit, and a day has 86 400 seconds.
MAX_STEPS = 1_000_000


def density(times: Sequence[tuple[int, int]], step_us: int, duration_us: int) -> list[int]:
    """How many of the (start, end) go on in each step from 0 to the video's end, or to theirs if that is later."""
    if step_us < 1:
        raise UsageError(f"a step of {step_us} us: it must be longer than nothing")
    until = max(duration_us, max((max(end, start + 1) for start, end in times), default=0))
    steps = -(-until // step_us)
    if steps > MAX_STEPS:
        raise UsageError(
            f"{format_time(until)} in steps of {format_time(step_us)} is {steps} numbers, more than {MAX_STEPS}:"
            " take longer steps"
        )
    change = [0] * (steps + 1)
    for start, end in times:
        first, past = start // step_us, (max(end, start + 1) - 1) // step_us + 1
        if past > 0:  # what ended before 0 is in no step
            change[max(0, first)] += 1
            change[past] -= 1
    counts, running = [], 0
    for delta in change[:steps]:
        running += delta
        counts.append(running)
    return counts


def gaps(times: Sequence[tuple[int, int]], duration_us: int | None, min_us: int) -> list[tuple[int, int]]:
    """The spans of at least `min_us` from 0 to `duration_us` (None: to the last end) in which none of the (start, end),
    given in order of start, goes on."""
    until = duration_us if duration_us is not None else max((max(e, s + 1) for s, e in times), default=0)
    found, covered = [], 0
    for start, end in [*times, (until, until)]:
        if min(start, until) - covered >= max(1, min_us):
            found.append((covered, min(start, until)))
        covered = max(covered, end, start + 1)
    return found
