"""Who is who in the archive: content fingerprints and probes, as tasks in worker processes that may be killed."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.archive import fingerprint
from pipeline.errors import SecondsightError, VideoError, VideoReason
from pipeline.probe import probe
from pipeline.video import Source, Video
from workers.failures import understand
from workers.limits import memory_limit
from workers.outage import Outage

BATCH = 16  # sources per task, once things run
PROBE_BYTES = 2 << 30  # of private memory that opening a video may add to its process
TRIES = {"died": 2, "node": 10, "lost": 10, "full": 6}  # for a source whose task ends without an answer, by why
PASSING_TRIES = 6  # for one whose storage fails
BACK_OFF_S = 1.0  # before the second try; doubled before each further one


@ray.remote(num_cpus=0, max_retries=0)
def _fingerprint_all(sources: Sequence[Source]) -> list[str | VideoError]:
    """The fingerprint of each source, or why it cannot be had."""
    return [_fingerprint(source) for source in sources]


@ray.remote(num_cpus=0, max_retries=0)
def _probe_all(found: Sequence[tuple[Source, str]]) -> list[Video | VideoError]:
    """The video behind each source and its fingerprint, or why it cannot be read."""
    return [_probe(source, video_id) for source, video_id in found]


def _fingerprint(source: Source) -> str | VideoError:
    try:
        return fingerprint(source)
    except VideoError as error:
        return error
    except (OSError, SecondsightError) as error:
        return VideoError(source.uri, "storage", str(error))


def _probe(source: Source, video_id: str) -> Video | VideoError:
    try:
        with memory_limit(PROBE_BYTES):
            return probe(source.uri, source.size_bytes, video_id, (source.uri,))
    except VideoError as error:
        return error
    except MemoryError:
        return VideoError(source.uri, "memory", f"opening it needs more than {PROBE_BYTES >> 20} MiB")
    except Exception as error:  # noqa: BLE001 - whatever a library does with hostile bytes, the archive goes on
        return VideoError(source.uri, "unreadable", f"{type(error).__name__}: {error}")


class Listing:
    """An archive's listing, read ahead in a thread so that a slow object store does not hold up the driver."""

    _END = object()

    def __init__(self, sources: Iterable[Source | VideoError], ahead: int = 1000) -> None:
        self.found = 0
        self.ended = False
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._moved = time.monotonic()
        threading.Thread(target=self._read, args=(sources,), daemon=True, name="listing").start()

    def take(self, most: int) -> list[Source | VideoError]:
        """Up to `most` entries that are there now. Raises what the listing raised."""
        entries: list[Source | VideoError] = []
        while len(entries) < most and not self.ended:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
            if entry is self._END:
                self.ended = True
            elif isinstance(entry, BaseException) and not isinstance(entry, VideoError):
                raise entry
            else:
                entries.append(entry)
        return entries

    def waiting_since(self) -> float | None:
        """Since when (monotonic seconds) the archive has named nothing more; None while nobody waits for it."""
        return None if self.ended or not self._queue.empty() else self._moved

    def close(self) -> None:
        self._stop.set()

    def _read(self, sources: Iterable[Source | VideoError]) -> None:
        try:
            for source in sources:
                self.found += 1
                if not self._put(source):
                    return
            self._put(self._END)
        except Exception as error:  # noqa: BLE001 - raised again in the driver's thread by `take`
            self._put(error)

    def _put(self, entry: object) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                self._moved = time.monotonic()
                return True
            except queue.Full:
                continue
        return False


@dataclass(slots=True)
class _Task:
    items: list[Any]
    began: float
    tries: int  # 0: only a look whether the storage is there


@dataclass(slots=True)
class Stage:
    """One kind of identifying task over a queue of items: batches grow to `BATCH`, a crash or hang is narrowed down.

    `start(items)` starts a task that resolves to one result per item; `uri(item)` names an item; `archive`: the outage
    of what they are read from.
    """

    start: Any
    uri: Any
    tasks: int
    stall_s: float
    waiting: deque[Any] = field(default_factory=deque)
    running: dict[Any, _Task] = field(default_factory=dict)
    archive: Outage = field(default_factory=lambda: Outage("away"))
    retries: int = 0
    _again: list[tuple[float, int, Any]] = field(default_factory=list)  # not before, try, item
    _good: Any = None  # an item that could be read
    _batch: int = 1

    def __len__(self) -> int:
        return len(self.waiting) + len(self._again) + sum(len(t.items) for t in self.running.values() if t.tries)

    def pump(self) -> None:
        """Start what may be started; end what has hung."""
        now = time.monotonic()
        if self.archive.why and self._good is not None:
            self._look(now)
        else:
            self._start(now)
        for ref, task in self.running.items():
            if now - task.began > self.stall_s:
                self._batch = 1  # what is merely slow gets through one by one
                ray.cancel(ref, force=True)

    def _start(self, now: float) -> None:
        while len(self.running) < self.tasks:
            due = next((i for i, (not_before, _, _) in enumerate(self._again) if not_before <= now), None)
            if (due is None and not self.waiting) or not self.archive.may_try(now):
                break
            if self.waiting and (due is None or self.archive.why):  # others may show that it is not the storage
                batch = 1 if self.archive.why else min(self._batch, len(self.waiting))
                items = [self.waiting.popleft() for _ in range(batch)]
                self._batch = min(BATCH, 2 * self._batch)
                self.running[self.start(items)] = _Task(items, now, 1)
            elif due is not None:
                _, tries, item = self._again.pop(due)
                self.running[self.start([item])] = _Task([item], now, tries)

    def _look(self, now: float) -> None:
        """Whether what could be read before can be read now: then it is not the storage that fails."""
        if all(task.tries for task in self.running.values()) and self.archive.may_try(now):
            self.running[self.start([self._good])] = _Task([self._good], now, 0)

    def in_progress(self) -> Iterator[tuple[str, int, float]]:
        """Of each task: the name of its first item, how many it has, since when (monotonic seconds)."""
        return ((self.uri(t.items[0]), len(t.items), t.began) for t in self.running.values() if t.tries)

    def collect(self, ref: Any) -> list[tuple[Any, Any]]:
        """(item, result) pairs of a task that has ended; a VideoError is a result."""
        task, now = self.running.pop(ref), time.monotonic()
        try:
            results = list(zip(task.items, ray.get(ref), strict=True))
        except Exception as error:  # noqa: BLE001 - sorted by `understand`
            failure = understand(error)
        else:
            return [pair for pair in results if not self._passing(task, *pair)]
        if not task.tries:  # a look without an answer found nothing that can be read
            self.archive.failed(self.uri(task.items[0]), failure.detail, False, now)
            return []
        if len(task.items) > 1:  # one of them did it: each alone from here
            self._again += [(now, 1, item) for item in task.items]
            self.retries += len(task.items)
            return []
        (item,) = task.items
        if task.tries < TRIES.get(failure.what, 1):
            pause_s = BACK_OFF_S * 2 ** (task.tries - 1) if failure.what == "full" else 0.0
            self._again.append((now + pause_s, task.tries + 1, item))
            self.retries += 1
            return []
        reason: VideoReason = "timeout" if failure.what == "cancelled" else "crash"
        detail = f"no answer within {self.stall_s:.0f} s" if reason == "timeout" else failure.detail
        return [(item, VideoError(self.uri(item), reason, f"opening it: {detail}"))]

    def _passing(self, task: _Task, item: Any, result: Any) -> bool:
        """Whether a result is not given out: an error that may heal by itself, whose item is tried again later, or
        that of a mere look, whose item was given out before."""
        if not isinstance(result, VideoError) or result.reason != "storage":
            self.archive.over()
            self._good = self._good if isinstance(result, VideoError) else item
            return not task.tries
        now, last = time.monotonic(), task.tries >= PASSING_TRIES
        outage = self.archive.failed(self.uri(item), result.detail, last, now)
        if not task.tries:
            return True
        if outage:
            self._again.append((now, task.tries, item))
        elif last:
            return False
        else:
            self._again.append((now + BACK_OFF_S * 2 ** (task.tries - 1), task.tries + 1, item))
        self.retries += 1
        return True


def fingerprinting(tasks: int, stall_s: float, archive: Outage, task: Any = _fingerprint_all) -> Stage:
    """Items: Source. Results: fingerprint or VideoError. `task`: a stand-in for the remote function."""
    return Stage(lambda items: task.remote(items), lambda source: source.uri, tasks, stall_s, archive=archive)


def probing(tasks: int, stall_s: float, archive: Outage, task: Any = _probe_all) -> Stage:
    """Items: (Source, fingerprint). Results: Video or VideoError. `task`: a stand-in for the remote function."""
    return Stage(lambda items: task.remote(items), lambda item: item[0].uri, tasks, stall_s, archive=archive)
