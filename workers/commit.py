"""From watched videos to the event log: reduced, grouped, committed by one thread of the driver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline.errors import LogError
from pipeline.event import EVENT_ORDER, Event, KindRule
from pipeline.log.records import VideoResult, WindowRecord
from pipeline.packed import Packed
from pipeline.reduce import Reducer
from workers.work import Answer, Watched

if TYPE_CHECKING:
    from pipeline.log import CommitReport

T = TypeVar("T")

logger = logging.getLogger(__name__)

GROUP = 64  # videos per commit
GROUP_S = 1.0  # or this long after the first of them was finished
BACK_OFF_S, MAX_PAUSE_S = 1.0, 15.0  # between two tries of a commit: doubled from the first to the second
BACKLOG = 4 * GROUP  # finished videos that may wait for the log before no more are taken up


class Log(Protocol):
    """The part of `pipeline.log.EventLog` that is used here."""

    def commit(self, results: Sequence[VideoResult]) -> CommitReport | None: ...

    def record_names(self, names: Mapping[str, Sequence[str]]) -> Any: ...


def video_result(
    watched: Watched,
    uris: Sequence[str],
    run_id: str,
    config_hash: str,
    rules: Mapping[str, KindRule],
) -> tuple[VideoResult, Mapping[str, int]]:
    """The row of a video with its windows and events, and how many reported events were dropped, by cause."""
    video = watched.video
    reducer = Reducer(rules, video.duration_us)
    events: Packed[Event] = Packed(EVENT_ORDER)
    windows: Packed[WindowRecord] = Packed(_by_window)
    for answer in watched.answers:
        windows.add(_window_record(answer))
        for event in reducer.add(answer.events):
            events.add(event)
    for event in reducer.end():
        events.add(event)
    result = VideoResult(
        video_id=video.video_id,
        run_id=run_id,
        config_hash=config_hash,
        uris=tuple(uris),
        size_bytes=video.size_bytes,
        status=watched.status,
        reason=watched.reason,
        duration_us=video.duration_us,
        offset_us=video.offset_us,
        width=video.width,
        height=video.height,
        rotation=video.rotation,
        codec=video.codec,
        frame_rate=video.frame_rate,
        lost_us=_union(watched.lost_us),
        windows=windows,
        events=events,
    )
    return result, reducer.dropped


def _by_window(record: WindowRecord) -> int:
    return record.window.index


def _window_record(answer: Answer) -> WindowRecord:
    said = answer.events
    return WindowRecord(
        window=answer.decoded.window,
        frame_us=answer.decoded.frame_us,
        attempt=answer.attempt,
        replica=answer.replica,
        decode_s=answer.decoded.decode_s,
        model_s=said.model_s,
        input_tokens=said.input_tokens,
        output_tokens=said.output_tokens,
        truncated=said.truncated,
        answer=said.answer,
        features=said.features,
    )


def _union(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted spans with those that overlap or touch joined: overlapping windows lose the same stretch twice."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)


class Committer:
    """The one writer of a run. A log that cannot be written is tried again with back-off for `patience_s`; what goes
    wrong then in its thread is raised by the next `pump` or `finish`. `committed(results)` is called in that thread."""

    def __init__(
        self,
        log: Log,
        patience_s: float = 0.0,
        committed: Callable[[Sequence[VideoResult]], None] = lambda results: None,
    ) -> None:
        self._log, self._patience_s, self._on_committed = log, patience_s, committed
        self._writing_since: float | None = None
        self.trouble = ""  # why the log could not be written the last time
        self.retries = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._results: list[VideoResult] = []
        self._names: dict[str, list[str]] = {}
        self._since = 0.0
        self._writing: Future[None] | None = None
        self.commit_s = 0.0
        self.last_us = (0, 0)  # of the last commit: its begin and end, Unix microseconds
        self.committed = 0
        self.file_bytes = 0  # of what is committed

    def busy_since(self) -> float | None:
        """Since when a commit is under way; None while none is."""
        return self._writing_since

    def full(self) -> bool:
        """Whether the log is so far behind that no more videos should be taken up."""
        return len(self._results) >= BACKLOG

    def add(self, result: VideoResult) -> None:
        self._since = self._since if self._results or self._names else time.monotonic()
        self._results.append(result)

    def add_name(self, video_id: str, uri: str) -> None:
        """Another name of a video whose row is, or will be, in the log without it."""
        self._since = self._since if self._results or self._names else time.monotonic()
        self._names.setdefault(video_id, []).append(uri)

    def pump(self) -> None:
        """Start a commit when one is due and none is under way."""
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._writing = None
        waiting = len(self._results) + len(self._names)
        if self._writing is None and waiting and (waiting >= GROUP or time.monotonic() - self._since >= GROUP_S):
            self._write()

    def finish(self) -> None:
        """Commit all there is, and wait for it."""
        try:
            while self._writing is not None or self._results or self._names:
                if self._writing is not None:
                    self._writing.result()
                    self._writing = None
                if self._results or self._names:
                    self._write()
        finally:
            self._thread.shutdown(wait=True)

    def _write(self) -> None:
        results, self._results = self._results, []
        names, self._names = self._names, {}
        self._writing_since = time.monotonic()
        self._writing = self._thread.submit(self._commit, results, names)

    def _commit(self, results: list[VideoResult], names: dict[str, list[str]]) -> None:
        began, began_us = time.perf_counter(), time.time_ns() // 1000
        if results:
            report = self._patiently(lambda: self._log.commit(results))
            self.file_bytes += report.file_bytes if report else 0
        if names:  # after the results: a name can belong to a video among them
            self._patiently(lambda: self._log.record_names(names))
        self.commit_s += time.perf_counter() - began
        self.committed += len(results)
        self._writing_since = None
        self.last_us = began_us, time.time_ns() // 1000
        self._on_committed(results)

    def _patiently(self, write: Callable[[], T]) -> T:
        """A full disk may be cleared and a store come back; nothing of a failed commit is in the log."""
        deadline, pause_s = time.monotonic() + self._patience_s, BACK_OFF_S
        while True:
            try:
                done = write()
                self.trouble = ""
                return done
            except LogError as error:
                if time.monotonic() + pause_s > deadline:
                    raise
                self.trouble = str(error)
                self.retries += 1
                logger.warning("%s; tried again in %.0f s", error, pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
