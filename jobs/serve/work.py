"""Blocking work off the event loop, with an end to how much of it waits and how long it takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from jobs.serve.reply import Problem

T = TypeVar("T")


class Pool:
    """A few threads. Work that finds too much waiting is refused with 503, work that takes too long with 504.

    A thread cannot be stopped: what was given up on keeps its thread until it ends, and so counts as waiting.
    """

    def __init__(self, name: str, threads: int, waiting: int, limit_s: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"serve-{name}")
        self._most = threads + waiting
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._pending = 0

    async def run(self, call: Callable[[], T], *, discard: Callable[[T], object] | None = None) -> T:
        """What `call` returns. `discard` takes it where nobody does: it came too late, or the asker has gone."""
        with self._lock:
            if self._pending >= self._most:
                raise Problem(503, "busy", "too much to do at the moment: ask again in a few seconds", retry_s=2)
            self._pending += 1
        try:
            future = self._executor.submit(call)
        except RuntimeError:
            self._ended()
            raise Problem(503, "busy", "the server is ending", retry_s=10) from None
        future.add_done_callback(lambda _: self._ended())
        try:
            return await self._in_time(future)
        except BaseException:
            if discard is not None:
                future.add_done_callback(lambda late: _discard(late, discard))
            raise

    async def _in_time(self, future: Future[T]) -> T:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._limit_s)
        except TimeoutError as error:
            # A TimeoutError of the work itself (a storage library's) is its own failure, not ours.
            if future.done() and not future.cancelled() and future.exception() is error:
                raise
            raise Problem(
                504, "time_limit", f"this took more than {self._limit_s:g} s: ask for less", retry_s=10
            ) from None

    def _ended(self) -> None:
        with self._lock:
            self._pending -= 1

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


def _discard(late: Future[T], discard: Callable[[T], object]) -> None:
    if not late.cancelled() and late.exception() is None:
        discard(late.result())
