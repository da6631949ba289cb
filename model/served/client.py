"""A client of OpenAI's chat API for a server that may be busy, slow, gone for a while, or wrong.

aiohttp, which Secondsight has anyway: many requests at once on one thread, connections kept open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from model.served.address import Address
from model.served.retry import BUSY, back_off_s, retry_after_s, spread_s
from model.served.slots import Slots
from model.served.stream import Broken, Reply, ReplyReader, parsed, said, whole
from pipeline.errors import ModelError

_T = TypeVar("_T")
ASIDE_S = 5.0  # how long a page beside the API may be busy
NOTICE_S = 1.5  # of being away or busy, after which somebody is told (at the next try: up to twice as late)
_MOST_FACTS = 8 << 20  # bytes of what a server says of itself
#: Said of the request itself; any other refusal (a token that has run out, a model that is gone) meets every request.
_REQUESTS_OWN = frozenset({400, 409, 411, 413, 414, 415, 416, 422, 431, 451})


class Unavailable(ModelError):
    """The server cannot be reached, or is busy, for longer than one wants to wait. `after_s`: when to ask again, where
    it said so."""

    def __init__(self, problem: str, waited: str, after_s: float) -> None:
        super().__init__(f"{problem}; {waited}")
        self.problem, self.after_s = problem, after_s


class Failed(ModelError):
    """One request failed again and again, while the server was there."""


class Barred(ModelError):
    """The server wants no request of ours: because of the token, the model's name or the address."""


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
    """Sends requests, `in_flight` at once at most. To be used from one event loop; `close` it there. `tell`: is given
    one line, once, where the server is waited for."""

    def __init__(
        self,
        address: Address,
        token: str | None = None,
        limits: TimeLimits | None = None,
        in_flight: int = 16,
        most_characters: int = 1 << 20,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.address, self.limits, self.counts = address, limits or TimeLimits(), Counts()
        self._most, self._tell = most_characters, tell
        self._slots = Slots(in_flight)
        self._resume = 0.0  # the server wants to be left alone until then (monotonic),
        self._asked_s = 0.0  # for so long in all, and has not answered since: 0 where it has
        self._problem = ""  # how it said so
        self._busy_since: float | None = None  # monotonic: it has said nothing but "not now" since then
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connect = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_s)
        self._session = aiohttp.ClientSession(connector=connect, timeout=timeout, headers=headers)

    async def close(self) -> None:
        await self._session.close()

    async def complete(self, body: Callable[[], Mapping[str, Any]] | Mapping[str, Any]) -> Reply:
        """The model's reply to a request of /chat/completions, which is streamed. `body`: it, or what makes it (in a
        thread, once, when its turn has come: requests with pictures are large).

        Raises Unavailable, Failed, Barred, and ModelError where the server refuses the request itself.
        """
        began, failures, tries, data = time.monotonic(), 0, 0, b""
        while True:
            async with self._slots:
                data = data or await asyncio.to_thread(_written, body)
                await self._leave_alone(began)
                self.counts.requests += 1
                sent = time.monotonic()
                try:
                    reply = await self._once(data)
                except _Busy as busy:
                    after_s = busy.after_s
                    self._is_busy(busy, tries + 1)
                    self._give_up_after(str(busy), self._busy_for(began), after_s)
                except _Fault as fault:
                    after_s, failures = None, failures + 1
                    if isinstance(fault, _Late):
                        self._slots.too_late(sent)
                    if failures >= self.limits.attempts:
                        raise Failed(f"{self.address.base}: {fault} ({failures} times)") from None
                else:
                    self._busy_since = None
                    if self._resume <= time.monotonic():
                        self._asked_s = 0.0
                    self._slots.answered()
                    return reply
            tries += 1
            self.counts.retries += 1
            if after_s is None:
                await self._pause(back_off_s(tries))

    async def facts(self, url: str, absent_s: float | None = None) -> dict[str, Any] | None:
        """What the server says at `url` (GET, a JSON object); None where it has nothing to say there. `absent_s`: how
        long one that cannot be reached is tried (None: as long as any outage).

        Raises Unavailable where nothing answers or it stays busy, Barred where the token is refused.
        """
        status, data = await self._get(url, absent_s, None)
        if status in (401, 403):
            raise Barred(f"{url}: status {status}: it wants a token that it knows")
        return data

    async def aside(self, url: str) -> dict[str, Any] | None:
        """The same of a page beside OpenAI's API, which gateways hide, refuse or cannot reach (502, 503): None there.

        Raises Unavailable where nothing answers.
        """
        return (await self._get(url, None, ASIDE_S))[1]

    async def _get(self, url: str, absent_s: float | None, busy_s: float | None) -> tuple[int, dict[str, Any] | None]:
        """Its status, and what it says where that is 200. `busy_s`: after which "not now" is taken for an answer."""
        began, tries = time.monotonic(), 0
        while True:
            try:
                async with (
                    asyncio.timeout(self.limits.connect_s + 20),
                    self._session.get(url, allow_redirects=False) as response,
                ):
                    status, most_s = response.status, None
                    if status not in BUSY or (busy_s is not None and time.monotonic() - began >= busy_s):
                        data = await _read(response, _MOST_FACTS)
                        with contextlib.suppress(Broken):
                            return status, parsed(data) if status == 200 else None
                        return status, None
                    problem = f"status {status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem, most_s = _why(error), absent_s
            except Broken:
                return 200, None
            self._give_up_after(problem, time.monotonic() - began, None, most_s)
            tries += 1
            await self._pause(back_off_s(tries))

    # --- One try.

    async def _once(self, body: bytes) -> Reply:
        url = f"{self.address.base}/chat/completions"
        limits, reader = self.limits, ReplyReader(self._most)
        began, headers = time.monotonic(), {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(limits.total_s):
                async with asyncio.timeout(limits.first_s) as first:
                    async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                        if response.status != 200:
                            await self._refused(url, response)
                        if "event-stream" not in response.headers.get("Content-Type", ""):
                            return whole(await _read(response, 4 * self._most + _MOST_FACTS), self._most)
                        async for data in response.content.iter_any():
                            if reader.feed(data):
                                break
                            if reader.begun:
                                first.reschedule(asyncio.get_running_loop().time() + limits.idle_s)
                        return reader.end()
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):  # connecting
                raise _Busy(_why(error)) from None
            raise _Late(self._late(reader.begun, time.monotonic() - began)) from None
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
        raise (ModelError if response.status in _REQUESTS_OWN else Barred)(f"{url}: {problem}")

    def _late(self, begun: bool, seconds: float) -> str:
        limits = self.limits
        if seconds >= limits.total_s:
            return f"it took too long to answer: more than total_s = {limits.total_s:g} s"
        if begun:
            return f"it took too long to go on with its answer: more than idle_s = {limits.idle_s:g} s"
        return (
            f"it took too long to begin its answer: more than first_s = {limits.first_s:g} s, with up to "
            f"{self._slots.limit} requests in its queue: choose a smaller in_flight, or a larger first_s"
        )

    # --- Waiting.

    def _is_busy(self, busy: _Busy, tries: int) -> None:
        self._busy_since = self._busy_since or time.monotonic()
        if busy.after_s is not None:  # the whole client keeps still, not this request alone
            self._problem, self._asked_s = str(busy), max(busy.after_s, back_off_s(tries))
            self._resume = max(self._resume, time.monotonic() + self._asked_s)

    def _busy_for(self, began: float) -> float:
        """Seconds for which a request of `began` has seen it busy."""
        return 0.0 if self._busy_since is None else time.monotonic() - max(began, self._busy_since)

    async def _leave_alone(self, began: float) -> None:
        """Wait for as long as the server wants to be left alone, and a little longer: others wait for the same moment,
        or come when it is over. Raises Unavailable where that is too long for a request of `began`."""
        while self._asked_s:
            wait_s = max(0.0, self._resume - time.monotonic())
            self._give_up_after(self._problem, self._busy_for(began), wait_s)
            await self._pause(wait_s + spread_s(self._asked_s))
            if self._resume <= time.monotonic():
                return

    async def _pause(self, seconds: float) -> None:
        self.counts.waited_s += seconds
        await asyncio.sleep(seconds)

    def _give_up_after(self, problem: str, away_s: float, wait_s: float | None, most_s: float | None = None) -> None:
        """`away_s`: how long it has been so; `wait_s`: how long the server says that it will be."""
        most_s = self.limits.outage_s if most_s is None else min(most_s, self.limits.outage_s)
        if away_s + (wait_s or 0.0) > most_s:
            asked = f"it wants to be left alone for {wait_s:.0f} s, which is" if wait_s else "it stayed so for"
            raise Unavailable(f"{self.address.base}: {problem}", f"{asked} more than {most_s:g} s", wait_s or 0.0)
        if self._tell is not None and away_s + (wait_s or 0.0) >= NOTICE_S:
            self._tell(f"{self.address.base}: {problem}: waiting for it, {most_s:g} s at most")
            self._tell = None


class _Busy(Exception):
    """Not now. `after_s`: when to ask again, where the server says."""

    def __init__(self, problem: str, after_s: float | None = None) -> None:
        super().__init__(problem)
        self.after_s = after_s


class _Fault(Exception):
    """This try failed, in a way that may not happen again."""


class _Late(_Fault):
    """It was not answered in time."""


def _written(body: Callable[[], Mapping[str, Any]] | Mapping[str, Any]) -> bytes:
    return json.dumps({**(body() if callable(body) else body), "stream": True}).encode()


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
