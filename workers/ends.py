"""Replicas that end or do not come up: how long to wait before the next, and when there is no sense in it."""

from __future__ import annotations

import time

from pipeline.errors import ModelError
from workers.failures import Failure

PAUSE_S, MOST_PAUSE_S = 1.0, 60.0  # before a replica is started again where one could not be: doubled each time
MAX_START_FAILURES = 3  # in a row, while none is up and no other loads its model; of ModelErrors, before one ever was
MAX_DEATHS = 12  # in a row, without one window answered in between,
MAX_DEADLY_VIDEOS = 4  # over so many videos: a bad video alone is given up after it took nine (schedule.py)
AWAY_PAUSE_S = 5.0  # before a model that cannot be reached is asked again
MANY_ENDS = 3  # likewise, blamed or not, are told of as what is stuck


class Ends:
    """Counts them. Where it raises ModelError, another replica would fare no better."""

    def __init__(self) -> None:
        self.deaths = 0
        self.start_at = 0.0  # monotonic seconds: none is started before
        self.why_not_up = ""  # how the last that did not come up failed
        self._ever_up = False
        self._failures = 0  # to start in a row, when none was left
        self._refusals = 0  # to start, by ModelError, before one ever was up
        self._pauses = 0  # in a row; several that fail together are one
        self._since_answer: list[tuple[float, str]] = []  # when, and how
        self._blamed = 0  # of these, those that a window may have done
        self._over: set[str] = set()  # videos that those worked on

    def came_up(self) -> None:
        self._ever_up, self._failures, self._pauses, self.why_not_up = True, 0, 0, ""

    def answered(self) -> None:
        self._since_answer.clear()
        self._over.clear()
        self._blamed = 0

    def not_started(self, failure: Failure, since: float, loading: bool, waiting: bool) -> None:
        """One that was started at `since` (monotonic seconds) failed to come up. `loading`: others are up, or load the
        model; `waiting`: others are to come up, if only when they get a node."""
        self.why_not_up = failure.detail
        if failure.what == "model" and not self._ever_up:
            self._refusals += 1
            if self._refusals >= MAX_START_FAILURES or not (loading or waiting):
                raise ModelError(failure.detail)
        if not loading:
            self._failures += 1
            if self._failures >= MAX_START_FAILURES:
                raise ModelError(f"no replica can be started: {failure.detail}")
        if since >= self.start_at:
            self._pauses += 1
            self.start_at = time.monotonic() + min(MOST_PAUSE_S, PAUSE_S * 2 ** (self._pauses - 1))

    def died(self, detail: str, over: str, blame: bool, count: int) -> None:
        """One of `count` that was up has ended. `over`: the video it worked on; `blame`: its work may have done it."""
        self.deaths += 1
        self._since_answer.append((time.monotonic(), detail))
        if not blame:
            return
        self._blamed += 1
        self._over.add(over)
        if self._blamed >= max(MAX_DEATHS, 2 * count) and len(self._over) >= MAX_DEADLY_VIDEOS:
            raise ModelError(f"{self._blamed} replicas died in a row without answering a window; the last: {detail}")

    def unanswered(self) -> tuple[float, str] | None:
        """Since when (monotonic seconds) replicas end without any answer in between, and how; None where few did."""
        if len(self._since_answer) < MANY_ENDS:
            return None
        since, (_, last) = self._since_answer[0][0], self._since_answer[-1]
        return since, f"{len(self._since_answer)} ended without an answer, the last: {last}"


class Away:
    """Who serves the model cannot be reached: the run waits, with replicas and windows as they are."""

    def __init__(self) -> None:
        self.why = ""  # "": it is there
        self._since = self._until = 0.0

    def seen(self, failure: Failure) -> bool:
        """A replica did not reach it. True the first time; raises ModelError where it was away for too long."""
        now, first = time.monotonic(), not self.why
        if first:
            self._since = now
        self.why = failure.detail
        if now - self._since + failure.after_s > failure.patience_s:
            raise ModelError(f"{failure.detail}; it stayed so for more than {failure.patience_s:g} s")
        self._until = now + max(AWAY_PAUSE_S, failure.after_s)
        return first

    def over(self) -> None:
        self.why = ""

    @property
    def holds(self) -> bool:
        """Whether it should not be asked again yet."""
        return bool(self.why) and time.monotonic() < self._until
