"""By words, and by question."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import cursor as cursors
from jobs.serve import shapes
from jobs.serve.each import Videos
from jobs.serve.reply import reply
from jobs.serve.site import Cursor, KindList, RunId, SiteOf, Time, answers, us

router = APIRouter(prefix="/api", tags=["search"])

#: Hits that pages reach: further ones are no answer to a search.
DEEPEST = 10_000


@router.get("/search", **answers(shapes.Hits, 404, 501))
async def search(
    request: Request,
    site: SiteOf,
    q: Annotated[str, Query(min_length=1, max_length=1000, description="words, or what is meant")],
    mode: Annotated[Literal["auto", "words", "meaning", "both"], Query()] = "auto",
    video: Videos = None,
    kind: KindList = None,
    start: Time | None = None,
    end: Time | None = None,
    run: RunId = None,
    min_confidence: Annotated[float | None, Query(ge=0, le=1)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
    cursor: Cursor = None,
) -> Response:
    """Events by words and meaning, the best first."""
    offset = 0 if cursor is None else max(0, cursors.unpack(cursor, "search", int)[0])
    start_us, end_us = (None if t is None else us(t) for t in (start, end))

    def ask() -> dict[str, Any]:
        if offset >= DEEPEST:
            return {"hits": [], "mode": mode, "next": None}
        found = site.finding.find(
            q,
            limit=limit + 1,
            offset=offset,
            mode=mode,
            video=video,
            kinds=kind,
            start_us=start_us,
            end_us=end_us,
            run=run,
            min_confidence=min_confidence,
        )
        following = cursors.pack("search", offset + limit) if len(found["hits"]) > limit else None
        return {**found, "hits": found["hits"][:limit], "next": following}

    return await site.ask(lambda: reply(request, ask()))


@router.get("/ask", **answers(shapes.Answer, 404, 501))
async def ask(
    request: Request,
    site: SiteOf,
    q: Annotated[str, Query(min_length=1, max_length=1000, description="a question, which may name its videos")],
    video: Videos = None,
    kind: KindList = None,
    run: RunId = None,
    limit: Annotated[int, Query(ge=1, le=50, description="events that answer it")] = 5,
    around: Annotated[int, Query(ge=1, le=50, description="events before, while and next, where it asks for them")] = 3,
) -> Response:
    """An answer with the events that it rests on; without a model, or one that answers in time, those events."""
    until = time.monotonic() + site.limits.model_s  # from now on: waiting for a thread takes time too

    def found() -> Response:
        return reply(
            request,
            site.finding.ask(q, until=until, video=video, kinds=kind, run=run, limit=limit, around=around),
        )

    return await site.think(found)
