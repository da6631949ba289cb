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

    async def run(self, call: Callable[[], T]) -> T:
        with self._lock:
            if self._pending >= self._most:
                raise Problem(503, "busy", "too much to do at the moment: ask again in a few seconds", retry_s=2)
            self._pending += 1
        future = self._executor.submit(call)
        future.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._limit_s)
        except TimeoutError as error:
            # A TimeoutError of the work itself (a storage library's) is its own failure, not ours.
            if future.done() and not future.cancelled() and future.exception() is error:
                raise
            raise Problem(
                504, "time_limit", f"this took more than {self._limit_s:g} s: ask for less", retry_s=10
            ) from None

    def _ended(self, future: Future[T]) -> None:
        with self._lock:
            self._pending -= 1

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
