"""What runs are doing now: once, or as server-sent events (WHATWG HTML, section 9.2) for as long as somebody looks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from jobs.serve import shapes
from jobs.serve.reply import Problem, dumps, reply
from jobs.serve.site import Site, SiteOf, answers
from pipeline.errors import SecondsightError
from pipeline.live import read_live

router = APIRouter(prefix="/api", tags=["runs"])

LOOK_S = 1.0  # how often the log's store is looked at, whoever listens
ALIVE_S = 15.0  # a comment at least this often, so that a proxy does not take the silence for an end
RUNS = 20  # the newest are shown


def status(site: Site) -> dict[str, Any]:
    runs = []
    for each in read_live(site.settings.log)[:RUNS]:
        runs.append({**each.as_json(), "is_live": each.is_live(), "silent_s": round(each.silent_s(), 1)})
    return {"version": site.archive.version, "runs": runs}


class Watch:
    """Looks at the runs once for all who listen."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._task: asyncio.Task[None] | None = None
        self._last = b""

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    async def listen(self, site: Site) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)
        self._listeners.add(queue)
        if self._task is None or self._task.done():
            self._last = b""
            self._task = asyncio.create_task(self._look(site))
        elif self._last:
            queue.put_nowait(self._last)
        try:
            yield b"retry: 3000\n\n"
            while True:
                try:
                    yield await asyncio.wait_for(queue.get(), ALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self._listeners.discard(queue)
            if not self._listeners and self._task is not None:
                self._task.cancel()

    async def _look(self, site: Site) -> None:
        told = None
        while True:
            try:
                found = await site.ask(lambda: status(site))
                name = b"status"
                same = {**found, "runs": [{k: v for k, v in r.items() if k != "silent_s"} for r in found["runs"]]}
            except (SecondsightError, Problem) as error:
                found = same = {"message": str(error)}
                name = b"trouble"
            if same != told:
                told = same
                self._last = b"event: " + name + b"\ndata: " + dumps(found) + b"\n\n"
                for queue in self._listeners:
                    with contextlib.suppress(asyncio.QueueFull):  # who does not read gets the next one
                        queue.put_nowait(self._last)
            await asyncio.sleep(LOOK_S)


@router.get("/live", **answers(shapes.Live))
async def live(request: Request, site: SiteOf) -> Response:
    """What the runs into this log are doing now."""
    return await site.ask(lambda: reply(request, status(site)))


_STREAM = {200: {"content": {"text/event-stream": {}}, "description": "events `status` (as /api/live) and `trouble`"}}


@router.get("/live/stream", **{**answers(None), "responses": {**answers(None)["responses"], **_STREAM}})
async def stream(request: Request, site: SiteOf) -> Response:
    """The same, sent whenever it changes."""
    watch: Watch = request.app.state.watch
    if watch.listeners >= site.limits.streams:
        raise Problem(503, "busy", "too many are listening: ask again in a few seconds", retry_s=10)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(watch.listen(site), 200, headers, "text/event-stream")
