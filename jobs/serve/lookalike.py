"""Moments by how they look: like a picture that is sent, or like another moment."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import shapes
from jobs.serve.each import Videos
from jobs.serve.reply import reply
from jobs.serve.site import KindList, RunId, Site, SiteOf, Time, VideoName, answers, us

router = APIRouter(prefix="/api/search", tags=["search"])

Limit = Annotated[int, Query(ge=1, le=200)]
_PICTURE = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/jpeg", "image/png")},
    }
}


@router.post("/image", openapi_extra=_PICTURE, **answers(shapes.Moments, 404))
async def image(
    request: Request,
    site: SiteOf,
    video: Videos = None,
    kind: KindList = None,
    start: Time | None = None,
    end: Time | None = None,
    run: RunId = None,
    limit: Limit = 20,
) -> Response:
    """Moments whose frames look most like the picture in the body (JPEG, PNG, WebP), the most alike first.

    By the vision features that a Qwen3-VL leaves beside the log; 422 where the log has none.
    """
    data = await request.body()  # no larger than the guard lets through
    start_us, end_us = (None if t is None else us(t) for t in (start, end))

    def ask() -> dict[str, Any]:
        only = {"kinds": kind, "start_us": start_us, "end_us": end_us, "run": _run(site, run), "limit": limit}
        return site.looking.image(data, video, **only)

    return await site.think(lambda: reply(request, ask()))


@router.get("/like", **answers(shapes.Moments, 404))
async def like(
    request: Request,
    site: SiteOf,
    of: VideoName,
    t: Time,
    video: Videos = None,
    kind: KindList = None,
    start: Time | None = None,
    end: Time | None = None,
    run: RunId = None,
    of_run: Annotated[
        str | None,
        Query(max_length=128, description="as this run saw that moment, where it did; not the newest"),
    ] = None,
    limit: Limit = 20,
) -> Response:
    """Moments that look most like the one at `t` of the video `of`, the most alike first.

    With `run` (and no `of_run`) both that moment and the others are those of this run.
    """
    at_us = us(t)
    start_us, end_us = (None if time is None else us(time) for time in (start, end))

    def ask() -> dict[str, Any]:
        only = {"kinds": kind, "start_us": start_us, "end_us": end_us, "run": _run(site, run), "limit": limit}
        return site.looking.like(of, at_us, _run(site, of_run), video, **only)

    return await site.think(lambda: reply(request, ask()))


def _run(site: Site, run: str | None) -> str | None:
    return None if run is None else str(site.archive.run(run)["run_id"])
