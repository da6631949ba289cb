"""A client of OpenAI's chat API for a server that may be busy, slow, gone for a while, or wrong.

aiohttp, which Secondsight has anyway: many requests at once on one thread, connections kept open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from model.served.address import Address
from model.served.retry import BUSY, back_off_s, retry_after_s
from model.served.stream import Broken, Reply, ReplyReader, parsed, said, whole
from pipeline.errors import ModelError

_T = TypeVar("_T")
_MOST_FACTS = 8 << 20  # bytes of what a server says of itself


class Unavailable(ModelError):
    """The server cannot be reached, or is busy, for longer than one wants to wait."""


class Failed(ModelError):
    """One request failed again and again, while the server was there."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds. `first_s`: until the first token, the server's queue included; `idle_s`: between two signs of life
    after it; `total_s`: of one whole answer, however slowly it drips. `outage_s`: how long a server that is busy or
    cannot be reached is asked again; `attempts`: of a request that fails in any other way."""

    connect_s: float = 10.0
    first_s: float = 600.0
    idle_s: float = 60.0
    total_s: float = 1800.0
    outage_s: float = 600.0
    attempts: int = 4


@dataclass(slots=True)
class Counts:
    requests: int = 0
    retries: int = 0
    waited_s: float = 0.0  # in back-off, of all requests together


class ChatClient:
    """Sends requests, `in_flight` at once at most. To be used from one event loop; `close` it there."""

    def __init__(
        self,
        address: Address,
        token: str | None = None,
        limits: TimeLimits | None = None,
        in_flight: int = 16,
        most_characters: int = 1 << 20,
    ) -> None:
        self.address, self.limits, self.counts = address, limits or TimeLimits(), Counts()
        self._most = most_characters
        self._slots = asyncio.Semaphore(in_flight)
        self._resume = 0.0  # the server wants to be left alone until then (monotonic)
        self._well = time.monotonic()  # when it last answered
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connect = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_s)
        self._session = aiohttp.ClientSession(connector=connect, timeout=timeout, headers=headers)

    async def close(self) -> None:
        await self._session.close()

    async def complete(self, body: Callable[[], Mapping[str, Any]] | Mapping[str, Any]) -> Reply:
        """The model's reply to a request of /chat/completions, which is streamed. `body`: it, or what makes it (in a
        thread, when its turn has come: requests with pictures are large).

        Raises Unavailable, Failed, and ModelError where the server refuses the request itself.
        """
        began, failures, tries = time.monotonic(), 0, 0
        while True:
            async with self._slots:
                await self._leave_alone()
                self.counts.requests += 1
                made = await asyncio.to_thread(body) if callable(body) else body
                try:
                    reply = await self._once({**made, "stream": True})
                except _Busy as busy:
                    problem, wait_s = str(busy), busy.after_s
                    self._give_up_after(problem, max(began, self._well), wait_s)
                except _Fault as fault:
                    problem, wait_s, failures = str(fault), None, failures + 1
                    if failures >= self.limits.attempts:
                        raise Failed(f"{self.address.base}: {problem} ({failures} times)") from None
                else:
                    self._well = time.monotonic()
                    return reply
            tries += 1
            self.counts.retries += 1
            if wait_s is not None:  # the whole client keeps still, not this request alone
                self._resume = max(self._resume, time.monotonic() + wait_s)
            else:
                await self._pause(back_off_s(tries))

    async def facts(self, url: str, absent_s: float | None = None) -> dict[str, Any] | None:
        """What the server says at `url` (GET, a JSON object); None where it has nothing to say there. `absent_s`: how
        long one that cannot be reached is tried (None: as long as any outage).

        Raises Unavailable where nothing answers, ModelError where the token is refused.
        """
        began, tries = time.monotonic(), 0
        while True:
            try:
                async with (
                    asyncio.timeout(self.limits.connect_s + 20),
                    self._session.get(url, allow_redirects=False) as response,
                ):
                    if response.status in (401, 403):
                        raise ModelError(f"{url}: status {response.status}: it wants a token that it knows")
                    if response.status not in BUSY:
                        data = await _read(response, _MOST_FACTS)
                        with contextlib.suppress(Broken):
                            return parsed(data) if response.status == 200 else None
                        return None
                    problem, most_s = f"status {response.status}", None
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem, most_s = _why(error), absent_s
            except Broken:
                return None
            self._give_up_after(problem, began, None, most_s)
            tries += 1
            await self._pause(back_off_s(tries))

    # --- One try.

    async def _once(self, body: Mapping[str, Any]) -> Reply:
        url = f"{self.address.base}/chat/completions"
        limits = self.limits
        try:
            async with asyncio.timeout(limits.total_s):
                async with asyncio.timeout(limits.first_s) as first:
                    async with self._session.post(url, json=body, allow_redirects=False) as response:
                        if response.status != 200:
                            await self._refused(url, response)
                        if "event-stream" not in response.headers.get("Content-Type", ""):
                            return whole(await _read(response, 4 * self._most + _MOST_FACTS), self._most)
                        reader = ReplyReader(self._most)
                        async for data in response.content.iter_any():
                            if reader.feed(data):
                                break
                            if reader.begun:
                                first.reschedule(asyncio.get_running_loop().time() + limits.idle_s)
                        return reader.end()
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):  # connecting
                raise _Busy(_why(error)) from None
            raise _Fault("it took too long to answer") from None
        except Broken as broken:
            raise _Fault(str(broken)) from None
        except aiohttp.ClientConnectorError as error:
            raise _Busy(_why(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Fault(f"the connection broke: {_why(error)}") from None

    async def _refused(self, url: str, response: aiohttp.ClientResponse) -> None:
        try:
            words = said(parsed(await _read(response, 1 << 16)))
        except Broken as broken:
            words = str(broken)
        problem = f"status {response.status}: {words}"
        if response.status in BUSY:
            raise _Busy(problem, retry_after_s(response.headers))
        if response.status >= 500:
            raise _Fault(problem)
        raise ModelError(f"{url}: {problem}")

    # --- Waiting.

    async def _leave_alone(self) -> None:
        while (wait_s := self._resume - time.monotonic()) > 0:
            await self._pause(wait_s)

    async def _pause(self, seconds: float) -> None:
        self.counts.waited_s += seconds
        await asyncio.sleep(seconds)

    def _give_up_after(self, problem: str, since: float, wait_s: float | None, most_s: float | None = None) -> None:
        away_s = time.monotonic() - since + (wait_s or 0.0)
        most_s = self.limits.outage_s if most_s is None else min(most_s, self.limits.outage_s)
        if away_s > most_s:
            asked = f"it wants to be left alone for {wait_s:.0f} s, which is" if wait_s else "it stayed so for"
            raise Unavailable(f"{self.address.base}: {problem}; {asked} more than {most_s:g} s")


class _Busy(Exception):
    """Not now. `after_s`: when to ask again, where the server says."""

    def __init__(self, problem: str, after_s: float | None = None) -> None:
        super().__init__(problem)
        self.after_s = after_s


class _Fault(Exception):
    """This try failed, in a way that may not happen again."""


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts, size = [], 0
    async for data in response.content.iter_any():
        size += len(data)
        if size > most:
            raise Broken(f"more than {most} bytes")
        parts.append(data)
    return b"".join(parts)


def _why(error: BaseException) -> str:
    cause = getattr(error, "os_error", error)  # what aiohttp says around it names the address once more
    number = cause.errno if isinstance(cause, OSError) else None
    words = os.strerror(number) if number is not None and number > 0 else str(cause)
    return f"cannot be reached: {' '.join(words.split())[:200] or type(error).__name__}"


class EventLoop:
    """An event loop in a thread of its own, for callers that know of none. `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served-model", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do `work` there and wait for it; it is cancelled where the wait is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            self._loop.close()


def run_once(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Do one piece of asynchronous work, from whatever thread, with or without an event loop of its own."""
    loop = EventLoop()
    try:
        return loop.run(work())
    finally:
        loop.close()
