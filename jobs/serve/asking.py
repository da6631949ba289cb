"""Sums over videos: kinds, density, gaps; an event, where it comes from, and what else was on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import each, shapes, shapes_sums
from jobs.serve.archive import as_event
from jobs.serve.each import Videos
from jobs.serve.reply import Problem, reply
from jobs.serve.site import Cursor, KindList, RunId, Site, SiteOf, Text, Time, VideoName, VideoPath, answers, us
from jobs.serve.spanning import EVENT, anchor_of
from pipeline.errors import UsageError
from pipeline.query import Match

router = APIRouter(prefix="/api", tags=["by second"])

#: Numbers of a page, beyond which no further video is added to it.
NUMBERS = 200_000

SomeVideos = Annotated[int, Query(ge=1, le=1000, description="videos of a page")]


@router.get("/kinds", **answers(shapes_sums.Kinds, 404))
async def kinds(
    request: Request,
    site: SiteOf,
    video: Videos = None,
    run: RunId = None,
    limit: SomeVideos = 100,
    cursor: Cursor = None,
) -> Response:
    """How many events of each kind each video has."""

    def ask(match: Match) -> list[Any]:
        counts = site.archive.query.kinds(match.entry.video_id, match.entry.run_id)
        return [{"kind": kind, "events": n} for kind, n in counts.items()]

    return await _sums(request, site, "kinds", ask, video, run, limit, cursor)


@router.get("/density", **answers(shapes_sums.Density, 404))
async def density(
    request: Request,
    site: SiteOf,
    video: Videos = None,
    step: Time = "1",
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
    limit: SomeVideos = 100,
    cursor: Cursor = None,
) -> Response:
    """How many events go on in each `step` seconds of each video."""
    step_us = us(step)

    def ask(match: Match) -> list[Any]:
        query, entry = site.archive.query, match.entry
        return query.density(entry.video_id, step_us, entry.run_id, kinds=kind, text=text)

    return await _sums(request, site, "counts", ask, video, run, limit, cursor, {"step_us": step_us})


@router.get("/gaps", **answers(shapes_sums.Gaps, 404))
async def gaps(
    request: Request,
    site: SiteOf,
    video: Videos = None,
    least: Time = "1",
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
    limit: SomeVideos = 100,
    cursor: Cursor = None,
) -> Response:
    """Where nothing (of these kinds) goes on for at least `least` seconds, in each video."""
    least_us = us(least)

    def ask(match: Match) -> list[Any]:
        query, entry = site.archive.query, match.entry
        found = query.gaps(entry.video_id, least_us, entry.run_id, kinds=kind, text=text)
        return [{"start_us": start, "end_us": end} for start, end in found]

    return await _sums(request, site, "gaps", ask, video, run, limit, cursor)


async def _sums(
    request: Request,
    site: Site,
    what: str,
    ask: Callable[[Match], list[Any]],
    videos: list[str] | None,
    run: str | None,
    limit: int,
    cursor: str | None,
    more: dict[str, Any] | None = None,
) -> Response:
    def answer() -> dict[str, Any]:
        seen = numbers = 0

        def is_enough(found: list[Any]) -> bool:
            nonlocal seen, numbers
            seen, numbers = seen + 1, numbers + len(found)
            return seen >= limit or numbers >= NUMBERS

        asked = each.asked(site, videos, run, what, cursor)
        found, following, left = each.answered(site, asked, ask, is_enough, what)
        of = [
            {"video": m.name, "video_id": m.entry.video_id, "run_id": m.entry.run_id, what: some} for m, some in found
        ]
        return {**(more or {}), "videos": of, "next": following, "videos_left": left}

    return await each.threads(site, videos)(lambda: reply(request, answer()))


@router.get("/meanwhile", **answers(shapes.Events, 404))
async def meanwhile(
    request: Request,
    site: SiteOf,
    video: VideoName,
    event: Annotated[str, Query(min_length=1, max_length=1000, description=EVENT)],
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
) -> Response:
    """What else was on while an event was."""

    def ask() -> dict[str, Any]:
        match, query = site.archive.find(video, run), site.archive.query
        anchor = anchor_of(site, match, event, run)
        match = Match(match.name, query.find(match.entry.video_id, anchor.event["run_id"]).entry)
        found = query.meanwhile(match.entry.video_id, anchor, kinds=kind, text=text, run=match.entry.run_id)
        return each.said(match, [(match, row) for row in found.to_pylist()])

    return await site.ask(lambda: reply(request, ask()))


@router.get("/videos/{video}/events/{event_id}", **answers(shapes.Provenance, 404))
async def event(request: Request, site: SiteOf, video: VideoPath, event_id: str, run: RunId = None) -> Response:
    """One event, and where it comes from: the run, the windows, the frames that the model saw."""

    def ask() -> dict[str, Any]:
        match = site.archive.find(video, run)
        try:
            row = site.archive.query.event(match.entry.video_id, event_id, run)
        except UsageError as error:
            raise Problem(404, "unknown_event", str(error)) from error
        return {"event": as_event(row, match.name), **site.archive.query.provenance(row)}

    return await site.ask(lambda: reply(request, ask()))
