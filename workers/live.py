"""The driver's word on where its run stands, written beside the log every few seconds (pipeline/live.py)."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.errors import SecondsightError
from pipeline.live import LiveStatus, State, forget_live, write_live

if TYPE_CHECKING:
    from workers.report import FlowEvent, Progress, VideoTrace, WindowTrace

INTERVAL_S = 2.0
LATELY_S = 60.0  # over which rates are measured
SAMPLE_S = 1.0
END_S = 10.0  # the longest that the end of a run waits for its last word to be written
SHOWN_FAILURES = 20
SHOWN_STUCK = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Counts at one moment, for rates: each since the run began."""

    at_s: float
    video_us: int
    windows: int
    frames: int
    videos: int
    decode_s: float
    model_s: float


class LiveReport:
    """A `workers.report.FlowObserver` that keeps the run's live status. A thread of its own writes it.

    That the status cannot be written never disturbs the run: it is logged once, and tried again with the next one.
    """

    wants_traces = False

    def __init__(self, log_uri: str, first: LiveStatus, interval_s: float = INTERVAL_S) -> None:
        """`first`: what is known from the start (who, what, since when); `snapshot` fills in the rest of it. Nothing is
        written before `begin`."""
        self._uri, self._status, self._interval_s = log_uri, first, interval_s
        self._samples: deque[_Sample] = deque()
        self._first_window_s: tuple[float, int] | None = None
        self._taken_s = 0.0
        self._next: LiveStatus | None = None
        self._over = False
        self._told = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, started_at_us: int, before: Mapping[str, float] | None = None) -> None:
        """The run is in the log from now on. `before`: what earlier drivers of it did."""
        now_us = time.time_ns() // 1000
        self._put(replace(self._status, started_at_us=started_at_us, updated_at_us=now_us, before=before or {}))
        self._thread = threading.Thread(target=self._write, name="live", daemon=True)
        self._thread.start()

    def hours_per_hour(self) -> float | None:
        """Of the last minute."""
        return self._rates().get("video")

    def event(self, event: FlowEvent) -> None:
        pass

    def recorded(self, trace: VideoTrace) -> None:
        pass

    def traced(self, trace: WindowTrace) -> None:
        pass

    def snapshot(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self._samples or now - self._samples[-1].at_s >= SAMPLE_S:
            self._sample(progress, now)
        if now - self._taken_s >= self._interval_s:
            self._taken_s = now
            self._put(self._filled(progress, now))

    def end(self, progress: Progress, state: State, note: str = "") -> None:
        """The last word; waits until it is written, `END_S` at most."""
        if self._thread is None:
            return
        now = time.monotonic()
        self._sample(progress, now)
        last = replace(self._filled(progress, now), state=state, note=note, left_s=None, stuck=())
        self._put(replace(last, hours_per_hour=self._overall(progress)), over=True)
        self._thread.join(END_S)

    # --- What is said.

    def _sample(self, progress: Progress, now: float) -> None:
        videos = progress.done + progress.failed + progress.quarantined
        self._samples.append(
            _Sample(
                now,
                progress.video_us,
                progress.windows,
                progress.frames,
                videos,
                progress.decode_s,
                progress.model_s,
            )
        )
        while len(self._samples) > 2 and now - self._samples[1].at_s >= LATELY_S:
            self._samples.popleft()
        if self._first_window_s is None and progress.windows:
            self._first_window_s = now, progress.video_us

    def _filled(self, progress: Progress, now: float) -> LiveStatus:
        expected = expected_us(progress)
        state: State = "running" if progress.replicas or progress.windows else "starting"
        left_s = None
        if self._first_window_s is not None:
            since_s, before_us = self._first_window_s
            pace = (progress.video_us - before_us) / max(now - since_s, 1e-9)
            left_s = max(0, expected - progress.video_us) / pace if pace > 0 and now - since_s > 1 else None
        return replace(
            self._status,
            state=state,
            updated_at_us=time.time_ns() // 1000,
            note=progress.waits_for,
            videos_found=progress.found,
            listed=progress.listed,
            videos_done=progress.done,
            videos_failed=progress.failed,
            videos_quarantined=progress.quarantined,
            videos_already=progress.already,
            duplicates=progress.duplicates,
            windows_done=progress.windows,
            windows_known=progress.windows_known,
            windows_kept=progress.windows_kept,
            retries=progress.retries,
            events=progress.events,
            frames=progress.frames,
            video_us=progress.video_us,
            known_us=progress.known_us,
            expected_us=expected,
            hours_per_hour=self.hours_per_hour(),
            left_s=left_s,
            rates={name: rate for name, rate in self._rates().items() if name != "video"},
            decode_s=progress.decode_s,
            model_s=progress.model_s,
            commit_s=progress.commit_s,
            file_bytes=progress.file_bytes,
            input_tokens=progress.input_tokens,
            output_tokens=progress.output_tokens,
            expert_imbalance=expert_imbalance(progress.model),
            replicas=progress.replicas,
            replicas_wanted=progress.replicas_wanted or self._status.replicas_wanted,
            replica_deaths=progress.replica_deaths,
            decoders=progress.decoders or self._status.decoders,
            nodes=progress.nodes,
            nodes_lost=progress.nodes_lost,
            bytes_in_flight=progress.bytes_in_flight,
            budget_bytes=progress.budget_bytes or self._status.budget_bytes,
            stuck=progress.stuck[:SHOWN_STUCK],
            failures=tuple(progress.failures[-SHOWN_FAILURES:]),
        )

    def _rates(self) -> dict[str, float]:
        if len(self._samples) < 2:
            return {}
        then, now = self._samples[0], self._samples[-1]
        span_s = now.at_s - then.at_s
        if span_s < SAMPLE_S / 2:
            return {}
        return {
            "video": (now.video_us - then.video_us) / 1e6 / span_s,
            "decode_frames": (now.frames - then.frames) / span_s,
            "watch_windows": (now.windows - then.windows) / span_s,
            "finish_videos": (now.videos - then.videos) / span_s,
            "decode_busy": (now.decode_s - then.decode_s) / span_s,
            "watch_busy": (now.model_s - then.model_s) / span_s,
        }

    def _overall(self, progress: Progress) -> float | None:
        elapsed_us = time.time_ns() // 1000 - self._status.started_at_us
        return progress.video_us / elapsed_us if elapsed_us > 0 else None

    # --- How it is written.

    def _put(self, status: LiveStatus, over: bool = False) -> None:
        with self._change:
            self._status = self._next = status
            self._over = over
            self._change.notify()

    def _write(self) -> None:
        self._try(partial(forget_live, self._uri))
        while True:
            with self._change:
                self._change.wait_for(lambda: self._next is not None or self._over)
                status, self._next, over = self._next, None, self._over
            if status is not None:
                self._try(partial(write_live, self._uri, status))
            elif over:
                return

    def _try(self, what: Callable[[], object]) -> None:
        try:
            what()
        except (SecondsightError, OSError) as error:
            if not self._told:
                self._told = True
                log.warning("where the run stands cannot be written: %s", error)


def expected_us(progress: Progress) -> int:
    """How much video there is to watch, as far as one can tell: what is known, and the average for what is not."""
    taken = max(0, progress.names - progress.already - progress.duplicates - progress.failed)
    unknown = max(0, progress.found - progress.names)
    average = progress.known_us / taken if taken else 0.0
    return round(progress.known_us + unknown * average)


def expert_imbalance(counted: Mapping[str, Any]) -> float | None:
    """The busiest expert's tokens over the average's, layers averaged, of what a model counted (1.0: balanced); None
    where it has no experts."""
    layers = (counted.get("routing") or {}).get("tokens") or []
    found = [max(layer) * len(layer) / sum(layer) for layer in layers if sum(layer) > 0]
    return sum(found) / len(found) if found else None
