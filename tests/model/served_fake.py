"""A server that speaks OpenAI's chat API and does what a test tells it: answers, and all that can go wrong."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from aiohttp import web

from pipeline.frames import Frames
from pipeline.plan import Window

S = 1_000_000

ANSWER = json.dumps({"events": [{"start": 0.5, "end": 1.5, "kind": "a", "text": "x", "confidence": 0.9}]})


def chunks(text: str = ANSWER, finish: str = "stop", size: int = 7) -> list[bytes]:
    """A whole streamed answer, as vLLM writes it."""
    said: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    said += [{"choices": [{"delta": {"content": text[i : i + size]}}]} for i in range(0, len(text), size)]
    said.append({"choices": [{"delta": {}, "finish_reason": finish}], "system_fingerprint": "fake-1"})
    said.append({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}})
    return [b"data: " + json.dumps(c).encode() + b"\n\n" for c in said] + [b": still here\n\n", b"data: [DONE]\n\n"]


class Fake:
    """`plan`: what each chat request gets, in order, the last one for ever after. A plan's entry is a list of bytes to
    stream, (status, headers, body), or a function that makes an iterator of bytes. `facts`: path -> JSON; `refused`:
    path -> status. `came`, `came_at`: the requests, and when they came (monotonic seconds)."""

    def __init__(self) -> None:
        self.plan: list[Any] = [chunks()]
        self.facts: dict[str, Any] = {"/v1/models": {"data": [{"id": "tiny", "owned_by": "vllm", "root": "org/tiny"}]}}
        self.refused: dict[str, int] = {}
        self.came: list[dict[str, Any]] = []
        self.came_at: list[float] = []
        self.tokens: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.work_s = 0.0
        self.url = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization"))
        self.came.append(await request.json())
        self.came_at.append(time.monotonic())
        todo = self.plan[min(len(self.came), len(self.plan)) - 1]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.work_s)
            if isinstance(todo, tuple):
                status, headers, body = todo
                return web.Response(status=status, headers=headers, text=body)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            if callable(todo):
                async for data in todo():
                    await response.write(data)
            else:
                for data in todo:
                    await response.write(data)
            return response
        finally:
            self.at_once -= 1

    async def other(self, request: web.Request) -> web.Response:
        if status := self.refused.get(request.path):
            return web.Response(status=status)
        found = self.facts.get(request.path)
        return web.Response(status=404) if found is None else web.json_response(found)


def dripping(data: list[bytes], every_s: float) -> Callable[[], AsyncIterator[bytes]]:
    """One byte at a time."""

    async def drip() -> AsyncIterator[bytes]:
        for byte in b"".join(data):
            await asyncio.sleep(every_s)
            yield bytes([byte])

    return drip


@contextmanager
def running() -> Iterator[Fake]:
    fake, loop, up = Fake(), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", fake.chat)
        app.router.add_get("/{rest:.*}", fake.other)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)  # when a client goes away
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    runner = None

    def serve() -> None:
        nonlocal runner
        runner = loop.run_until_complete(start())
        up.set()
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert up.wait(60)
    try:
        yield fake
    finally:
        assert runner is not None
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def pixels(count: int, height: int = 64, width: int = 96) -> Any:
    """Smooth pictures that differ, in the sizes that a model sees."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.stack([rows * 2, columns + 9 * i, rows + columns], -1) % 256 for i in range(count)]).astype(
        np.uint8
    )


def a_window(times_us: list[int], index: int = 0, start_us: int = 0) -> tuple[Window, Frames]:
    times = np.array(times_us, np.int64) + start_us
    ends = np.append(times[1:], start_us + 8 * S)
    return Window("v", index, start_us, start_us + 8 * S), Frames(pixels(len(times)), times, ends)
