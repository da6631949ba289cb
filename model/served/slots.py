"""How many requests are in flight at once: fewer where the server is too slow for so many."""

from __future__ import annotations

import asyncio
import time

STEADY = 4  # times `limit` answers without one that came too late, and one more may be in flight


class Slots:
    """A semaphore for `most` requests, whose `limit` is halved by a timeout and grows again, one at a time. A server
    with a queue answers the last of too many requests too late, and what is sent again stands at the queue's end."""

    def __init__(self, most: int) -> None:
        self.limit = self._most = most
        self._free = asyncio.Semaphore(most)
        self._owed = 0  # slots in use that are not to be given back
        self._halved = float("-inf")  # monotonic
        self._answers = 0

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(self, *error: object) -> None:
        self._one_more()

    def answered(self) -> None:
        self._answers += 1
        if self.limit < self._most and self._answers >= STEADY * self.limit:
            self._answers = 0
            self.limit += 1
            self._one_more()

    def too_late(self, sent: float) -> None:
        """A request sent at `sent` (monotonic seconds) was not answered in time. Others that were in flight beside it
        tell nothing new."""
        self._answers = 0
        if sent > self._halved and self.limit > 1:
            self._halved = time.monotonic()
            self._owed += self.limit - self.limit // 2
            self.limit //= 2

    def _one_more(self) -> None:
        if self._owed:
            self._owed -= 1
        else:
            self._free.release()
