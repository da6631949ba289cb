"""Windows of unfinished videos are kept beside the log, and given back to the next driver (pipeline/kept.py)."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Container, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

from pipeline.errors import LogError
from pipeline.kept import KeptWindow, join, keep, kept_files, read_kept
from pipeline.log.store import open_store
from pipeline.packed import Packed
from pipeline.plan import Windowing
from pipeline.video import Video
from workers.work import Answer, Decoded

EVERY_S = 5.0  # at most so much work is lost; a video that takes less is never written here
MAX_FILES = 32  # of one video and level, before they become one of the next level
LEVELS = 3  # the last one's files hold more than an hour of work each, and stay

logger = logging.getLogger(__name__)


#: Paths of one video's files, by level.
Levels = Sequence[Sequence[str]]


@dataclass(slots=True)
class _Kept:
    """What is known of one unfinished video. `fresh`: answers that are in no file, since `since`; `sent`: those that
    are being written."""

    fresh: list[Answer] = field(default_factory=list)
    since: float = 0.0
    sent: list[Answer] = field(default_factory=list)
    files: Levels = ()
    writing: Future[Levels] | None = None
    leaves: bool = False  # nothing more comes, and it is let go of when all is written


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
                paths += chain.from_iterable(kept.files)
                if kept.writing is not None:
                    kept.writing.add_done_callback(self._delete_written)
        if paths:
            self._thread.submit(self._delete, paths)

    def leave(self, video_ids: Iterable[str]) -> None:
        """Write what there is of videos that ended otherwise, for the run that takes them up again, and hold it in
        memory no longer than that takes."""
        for video_id in video_ids:
            if (kept := self._videos.get(video_id)) is not None:
                kept.leaves, kept.since = True, 0.0

    def load(self, video: Video, windowing: Windowing) -> Future[Collection[Answer]] | None:
        """What an earlier driver left of a video that is taken up; None where that is nothing."""
        paths = self._found.get(video.video_id)
        return None if paths is None else self._thread.submit(self._load, video, windowing, paths)

    def note(self, answers: Iterable[Answer]) -> None:
        """Fresh answers of unfinished videos."""
        for answer in answers:
            kept = self._videos.setdefault(answer.decoded.window.video_id, _Kept())
            if not kept.fresh:
                kept.since = time.monotonic()
            kept.fresh.append(answer)

    def loaded(self, video_id: str) -> None:
        """What `load` gave has been taken up."""
        self._videos[video_id] = _Kept(files=(self._found.pop(video_id, []),))

    def pump(self, now: bool = False) -> None:
        """Write what has waited long enough (`now`: all there is)."""
        clock = time.monotonic()
        if clock - self._looked < self._every_s / 5 and not now:
            return
        self._looked = clock
        for video_id, kept in list(self._videos.items()):
            if kept.writing is not None and kept.writing.done():
                self._written(kept)
            due = now or clock - kept.since >= self._every_s
            if kept.writing is None and kept.leaves and not kept.fresh:
                del self._videos[video_id]
            elif kept.writing is None and kept.fresh and due:
                kept.sent, kept.fresh = kept.fresh, []
                kept.writing = self._thread.submit(self._write, video_id, kept.sent, kept.files)

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
            kept.files = kept.writing.result()
        elif isinstance(error, LogError | OSError):
            kept.fresh, kept.since = kept.sent + kept.fresh, time.monotonic()  # again, some time later
            self._tell(kept.writing)
        else:
            raise error
        kept.sent, kept.writing = [], None

    def _tell(self, writing: Future[Levels]) -> None:
        """Say once why nothing can be kept."""
        error = writing.exception()
        if error is not None and not self._told:
            self._told = True
            logger.warning("windows of unfinished videos cannot be kept beside the log: %s", error)

    def _write(self, video_id: str, answers: list[Answer], files: Levels) -> Levels:
        """Write answers; returns `files` with the new one, and many small ones joined to one."""
        path = keep(self._store, self._config_hash, video_id, [_flat(a) for a in answers])
        first, *rest = files or ((),)
        levels = [[*first, path], *map(list, rest)]
        for level in range(LEVELS - 1):
            old = levels[level]
            if len(old) < MAX_FILES:
                break
            try:
                whole, old = join(self._store, self._config_hash, video_id, old)
            except (LogError, OSError) as error:
                logger.info("kept windows cannot be joined now: %s", error)
                break
            levels[level : level + 2] = [[], [*chain(*levels[level + 1 : level + 2]), whole]]
            self._delete(old)
        return levels

    def _load(self, video: Video, windowing: Windowing, paths: list[str]) -> Collection[Answer]:
        count = windowing.count(video.duration_us)
        expected = {i: windowing.window(video.video_id, i, video.duration_us) for i in range(count)}
        kept = (
            Answer(Decoded(k.window, k.frame_us, k.lost_us, k.decode_s, k.frame_bytes), k.events, k.attempt, k.replica)
            for k in read_kept(self._store, paths, expected)
        )
        return Packed(Answer.index, kept)

    def _delete(self, paths: list[str]) -> None:
        try:
            self._store.delete(paths)
        except (LogError, OSError) as error:  # deleted when a run finds them done, or too old
            logger.info("kept windows cannot be deleted now: %s", error)

    def _delete_written(self, writing: Future[Levels]) -> None:
        if writing.exception() is None:
            self._delete([*chain.from_iterable(writing.result())])


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
