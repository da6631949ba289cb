"""What the flow tells those who watch it: a progress object often, counters, events and traces to observers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.event import WindowEvents
from pipeline.log.records import VideoResult
from workers.pool import Outcome
from workers.report import FlowEvent, FlowObserver, Progress, VideoTrace, WindowTrace
from workers.watchdog import Suspect
from workers.work import Waiting

logger = logging.getLogger(__name__)


class Teller:
    PROGRESS_S = 0.1  # between two calls of `on_progress`
    SNAPSHOT_S = 1.0  # between two looks of an observer

    def __init__(
        self, progress: Progress, on_progress: Callable[[Progress], None], observers: Sequence[FlowObserver]
    ) -> None:
        self._progress, self._on_progress, self._observers = progress, on_progress, list(observers)
        self._tracing = any(observer.wants_traces for observer in observers)
        self._reported = self._shown = 0.0
        self._reduced_us: dict[str, tuple[int, int]] = {}  # of videos that are on their way into the log

    def due(self, last: bool) -> bool:
        """Whether it is time for `report`."""
        return last or time.monotonic() - self._reported >= self.PROGRESS_S

    def report(self, last: bool) -> None:
        now = self._reported = time.monotonic()
        self._on_progress(self._progress)
        if now - self._shown >= self.SNAPSHOT_S or last:
            self._shown = now
            self._tell(lambda observer: observer.snapshot(self._progress))

    def event(self, kind: Any, stage: Any, what: str, where: str, detail: str) -> None:
        """See `FlowEvent`."""
        event = FlowEvent(kind, stage, what, where, detail, time.time_ns() // 1000)
        self._tell(lambda observer: observer.event(event))

    def stuck(self, kind: str, suspect: Suspect, seconds: float) -> None:
        if kind == "unstuck":
            detail = f"ended after {seconds:.0f} s without moving, to be tried again"
        else:
            detail = f"has not moved for {seconds:.0f} s"
        self.event(kind, suspect.stage, suspect.what, suspect.where, detail)

    def trace(self, waiting: Waiting, said: WindowEvents, outcome: Outcome) -> None:
        """An answered window, where anybody wants to know."""
        if not self._tracing:
            return
        now, wall_us = time.monotonic(), time.time_ns() // 1000
        window = said.window
        trace = WindowTrace(
            video_id=window.video_id,
            window=window.index,
            start_us=window.start_us,
            end_us=window.end_us,
            attempt=waiting.kills + 1,
            decode_node=waiting.node,
            replica=outcome.replica,
            decode_s=waiting.decoded.decode_s,
            model_s=said.model_s,
            decoded_us=wall_us - round((now - waiting.since) * 1e6),
            sent_us=wall_us - round((now - outcome.since) * 1e6),
            answered_us=wall_us,
        )
        self._trace(lambda observer: observer.traced(trace))

    def reduced(self, video_id: str, began_us: int) -> None:
        """The windows of a video have just become its rows."""
        if self._tracing:
            self._reduced_us[video_id] = began_us, time.time_ns() // 1000

    def recorded(self, results: Sequence[VideoResult], committed_us: tuple[int, int]) -> None:
        """These are in the log now."""
        for result in results if self._tracing else ():
            if (reduced_us := self._reduced_us.pop(result.video_id, None)) is not None:
                self._video(VideoTrace(result.video_id, len(result.events), reduced_us, committed_us))

    def _video(self, trace: VideoTrace) -> None:
        self._trace(lambda observer: observer.recorded(trace))

    def _trace(self, say: Callable[[FlowObserver], None]) -> None:
        self._tell(lambda observer: say(observer) if observer.wants_traces else None)

    def _tell(self, say: Callable[[FlowObserver], None]) -> None:
        """One that raises is not asked again: numbers beside the work do not end a run."""
        for observer in list(self._observers):
            try:
                say(observer)
            except Exception:
                logger.exception("an observer of the run failed and is left out from now on")
                self._observers.remove(observer)
