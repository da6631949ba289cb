"""Windows of unfinished videos are kept beside the log, and given back to the next driver (pipeline/kept.py)."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.errors import LogError
from pipeline.kept import KeptWindow, keep, kept_files, read_kept
from pipeline.log.store import open_store
from pipeline.plan import Windowing
from pipeline.video import Video
from workers.work import Answer, Decoded

EVERY_S = 5.0  # at most so much work is lost; a video that takes less is never written here
MAX_FILES = 32  # of one video, before they become one

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """What is known of one unfinished video. `answers[written:]` are in no file yet, `since` is how old these are."""

    answers: list[Answer] = field(default_factory=list)
    written: int = 0
    since: float = 0.0
    files: list[str] = field(default_factory=list)
    writing: Future[str] | None = None
    over: bool = False  # nothing more is to be written


class Keeper:
    """The windows of one configuration. A thread of its own reads and writes; that the store fails here costs nothing
    but what would have been kept."""

    def __init__(self, log_uri: str, config_hash: str, every_s: float = EVERY_S) -> None:
        """Raises LogError where the store cannot be listed."""
        self._store, self._config_hash, self._every_s = open_store(log_uri), config_hash, every_s
        self._found = kept_files(self._store, config_hash)
        self._videos: dict[str, _Kept] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._looked = 0.0
        self._told = False

    def begun(self, skip: Container[str]) -> int:
        """How many videos that are not to be skipped an earlier driver left windows of."""
        return sum(video_id not in skip for video_id in self._found)

    def forget(self, video_ids: Iterable[str]) -> None:
        """Delete what is kept of videos that are done."""
        paths: list[str] = []
        for video_id in video_ids:
            paths += self._found.pop(video_id, [])
            kept = self._videos.pop(video_id, None)
            if kept is not None:
                kept.over = True
                paths += kept.files
                if kept.writing is not None:
                    kept.writing.add_done_callback(self._delete_written)
        if paths:
            self._thread.submit(self._delete, paths)

    def leave(self, video_ids: Iterable[str]) -> None:
        """Write what there is of videos that ended otherwise, for the run that takes them up again, and hold it in
        memory no longer."""
        for video_id in video_ids:
            kept = self._videos.pop(video_id, None)
            if kept is not None and (fresh := kept.answers[kept.written :]):
                self._thread.submit(self._write, video_id, fresh, []).add_done_callback(self._tell)

    def load(self, video: Video, windowing: Windowing) -> Future[list[Answer]] | None:
        """What an earlier driver left of a video that is taken up; None where that is nothing."""
        paths = self._found.get(video.video_id)
        return None if paths is None else self._thread.submit(self._load, video, windowing, paths)

    def note(self, answers: Iterable[Answer]) -> None:
        """Fresh answers of unfinished videos."""
        for answer in answers:
            kept = self._videos.setdefault(answer.decoded.window.video_id, _Kept())
            if kept.written == len(kept.answers):
                kept.since = time.monotonic()
            kept.answers.append(answer)

    def loaded(self, video_id: str, answers: Sequence[Answer]) -> None:
        """What `load` gave has been taken up."""
        files = self._found.pop(video_id, [])
        self._videos[video_id] = _Kept(list(answers), len(answers), 0.0, files)

    def pump(self, now: bool = False) -> None:
        """Write what has waited long enough (`now`: all there is)."""
        clock = time.monotonic()
        if clock - self._looked < self._every_s / 5 and not now:
            return
        self._looked = clock
        for video_id, kept in self._videos.items():
            if kept.writing is not None and kept.writing.done():
                self._written(kept)
            due = now or clock - kept.since >= self._every_s
            if kept.writing is None and due and kept.written < len(kept.answers):
                whole = len(kept.files) >= MAX_FILES
                fresh = kept.answers if whole else kept.answers[kept.written :]
                old = kept.files if whole else []
                kept.files = [] if whole else kept.files
                kept.written = len(kept.answers)
                kept.writing = self._thread.submit(self._write, video_id, list(fresh), old)

    def finish(self) -> None:
        """Write all there is of unfinished videos, and wait for it."""
        for kept in self._videos.values():
            if kept.writing is not None:
                kept.writing.exception()
        self.pump(now=True)
        self._thread.shutdown(wait=True)

    def _written(self, kept: _Kept) -> None:
        assert kept.writing is not None
        error = kept.writing.exception()
        if error is None:
            kept.files.append(kept.writing.result())
        elif isinstance(error, LogError | OSError):
            kept.written, kept.since = 0, time.monotonic()  # all of it again, some time later
            self._tell(kept.writing)
        else:
            raise error
        kept.writing = None

    def _tell(self, writing: Future[str]) -> None:
        """Say once why nothing can be kept."""
        error = writing.exception()
        if error is not None and not self._told:
            self._told = True
            logger.warning("windows of unfinished videos cannot be kept beside the log: %s", error)

    def _write(self, video_id: str, answers: list[Answer], old: list[str]) -> str:
        path = keep(self._store, self._config_hash, video_id, [_flat(a) for a in answers])
        self._delete(old)
        return path

    def _load(self, video: Video, windowing: Windowing, paths: list[str]) -> list[Answer]:
        count = windowing.count(video.duration_us)
        expected = {i: windowing.window(video.video_id, i, video.duration_us) for i in range(count)}
        return [
            Answer(Decoded(k.window, k.frame_us, k.lost_us, k.decode_s, k.frame_bytes), k.events, k.attempt, k.replica)
            for k in read_kept(self._store, paths, expected)
        ]

    def _delete(self, paths: list[str]) -> None:
        try:
            self._store.delete(paths)
        except (LogError, OSError) as error:  # deleted when a run finds them done, or too old
            logger.info("kept windows cannot be deleted now: %s", error)

    def _delete_written(self, writing: Future[str]) -> None:
        if writing.exception() is None:
            self._delete([writing.result()])


def _flat(answer: Answer) -> KeptWindow:
    decoded = answer.decoded
    return KeptWindow(
        decoded.window,
        decoded.frame_us,
        decoded.lost_us,
        decoded.decode_s,
        decoded.frame_bytes,
        answer.events,
        answer.attempt,
        answer.replica,
    )
