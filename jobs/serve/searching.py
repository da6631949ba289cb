"""By words, and by question."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import cursor as cursors
from jobs.serve import shapes
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
    video: Annotated[str | None, Query(min_length=1, max_length=4096)] = None,
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


@router.get("/ask", **answers(shapes.Answer, 501))
async def ask(
    request: Request,
    site: SiteOf,
    q: Annotated[str, Query(min_length=1, max_length=1000, description="a question")],
    limit: Annotated[int, Query(ge=1, le=50)] = 5,
) -> Response:
    """An answer with the events that it rests on; without a model, those events."""
    return await site.think(lambda: reply(request, site.finding.ask(q, limit=limit)))
