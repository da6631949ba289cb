"""From watched videos to the log, and windows of unfinished ones to the keeper; the counts of what became of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import VideoError
from pipeline.event import KindRule
from pipeline.log.records import VideoResult
from workers.commit import Committer, Log, video_result
from workers.keeper import Keeper
from workers.report import Progress, StageName
from workers.teller import Teller
from workers.work import Watched

MAX_NOTES = 1000  # failures kept for the summary; the log has all of them


class Recorder:
    """`patience_s`: for a log that cannot be written."""

    def __init__(
        self,
        log: Log,
        run_id: str,
        config_hash: str,
        rules: Mapping[str, KindRule],
        patience_s: float,
        keeper: Keeper | None,
        progress: Progress,
        teller: Teller,
    ) -> None:
        self._run_id, self._config_hash, self._rules = run_id, config_hash, rules
        self._keeper, self._progress, self._teller = keeper, progress, teller
        # (results, begin and end of their commit), filled by the committer's thread
        self._in_log: deque[tuple[Sequence[VideoResult], tuple[int, int]]] = deque()
        self.committer = Committer(
            log, patience_s, lambda results: self._in_log.append((results, self.committer.last_us))
        )

    def pump(self, finished: Iterable[Watched], names_of: Callable[[str], list[str]]) -> None:
        """Take videos that are finished; `names_of(video_id)`: all names of one."""
        for watched in finished:
            self._take(watched, names_of(watched.video.video_id))
        self.committer.pump()
        self._recorded()
        if self._keeper is not None:
            self._keeper.pump()

    def failed(self, video_id: str, uris: list[str], size_bytes: int, error: VideoError) -> None:
        """A video that cannot even be opened."""
        reason = f"{error.reason}: {error.detail}"
        self._progress.failed += 1
        self._note(uris[0], "failed", "identify", reason)
        result = VideoResult(video_id, self._run_id, self._config_hash, tuple(uris), size_bytes, "failed", reason)
        self.committer.add(result)

    def finish(self) -> None:
        """Wait until everything is in the log."""
        try:
            self.committer.finish()
        finally:
            self._recorded()
            if self._keeper is not None:
                self._keeper.finish()

    def _take(self, watched: Watched, names: list[str]) -> None:
        began_us, progress = time.time_ns() // 1000, self._progress
        result, dropped = video_result(watched, names, self._run_id, self._config_hash, self._rules)
        self._teller.reduced(watched.video.video_id, began_us)
        self.committer.add(result)
        progress.events += len(result.events)
        for cause, count in dropped.items():
            progress.dropped_events[cause] = progress.dropped_events.get(cause, 0) + count
        if watched.status == "done":
            progress.done += 1
            return
        progress.failed += watched.status == "failed"
        progress.quarantined += watched.status == "quarantined"
        self._note(names[0], watched.status, "watch", watched.reason)

    def _recorded(self) -> None:
        """Windows of videos that are done are not kept any longer; of others they are: another run may take them up."""
        while self._in_log:
            results, committed_us = self._in_log.popleft()
            self._teller.recorded(results, committed_us)
            if self._keeper is not None:
                self._keeper.forget([r.video_id for r in results if r.status == "done"])
                self._keeper.leave([r.video_id for r in results if r.status != "done"])

    def _note(self, uri: str, status: Any, stage: StageName, reason: str) -> None:
        if len(self._progress.failures) < MAX_NOTES:
            self._progress.failures.append((uri, reason))
        self._teller.event(status, stage, uri, "", reason)
