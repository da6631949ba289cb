"""Of one video: before, after, meanwhile; an event and where it comes from; kinds, density, gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import shapes
from jobs.serve.archive import as_event
from jobs.serve.reply import Problem, reply
from jobs.serve.site import KindList, RunId, Site, SiteOf, Text, Time, VideoName, VideoPath, answers, us
from pipeline.errors import UsageError
from pipeline.log.lookup import Filter
from pipeline.query import Anchor, Match, as_rows

router = APIRouter(prefix="/api", tags=["by second"])

Count = Annotated[int, Query(ge=1, le=1000, description="how many events")]


def _events(match: Match, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"video": match.name, **_of(match), "events": [as_event(row, match.name) for row in rows], "next": None}


def _of(match: Match) -> dict[str, str]:
    return {"video_id": match.entry.video_id, "run_id": match.entry.run_id}


AnEvent = Annotated[str | None, Query(max_length=64, description="an event's id, in place of `t`")]


@router.get("/before", **answers(shapes.Events, 404))
async def before(
    request: Request,
    site: SiteOf,
    video: VideoName,
    t: Time | None = None,
    event_id: AnEvent = None,
    count: Count = 5,
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
) -> Response:
    """The last `count` events that begin before `t`, or before an event."""
    return await _around(request, site, "before", video, t, event_id, count, Filter(kind, text), run)


@router.get("/after", **answers(shapes.Events, 404))
async def after(
    request: Request,
    site: SiteOf,
    video: VideoName,
    t: Time | None = None,
    event_id: AnEvent = None,
    count: Count = 5,
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
) -> Response:
    """The first `count` events that begin at `t` or later, or once an event has ended."""
    return await _around(request, site, "after", video, t, event_id, count, Filter(kind, text), run)


async def _around(
    request: Request,
    site: Site,
    side: Literal["before", "after"],
    video: str,
    t: str | None,
    event_id: str | None,
    count: int,
    wanted: Filter,
    run: str | None,
) -> Response:
    if (t is None) == (event_id is None):
        raise Problem(422, "bad_value", "give either t, a time, or event_id, an event to ask around")

    def ask() -> dict[str, Any]:
        match, query = site.archive.find(video, run), site.archive.query
        if event_id is None:
            assert t is not None
            asked = query.preceding if side == "before" else query.following
            return _events(match, as_rows(asked(match, us(t), count, wanted)))
        anchor = _anchor(site, match, event_id, run)
        match = query.find(match.entry.video_id, anchor.event["run_id"])
        if side == "before":
            return _events(match, as_rows(query.preceding(match, anchor.start_us, count, wanted)))
        return _events(match, as_rows(query.from_on(match, anchor.end_us, count, wanted)))

    return await site.ask(lambda: reply(request, ask()))


def _anchor(site: Site, match: Match, event_id: str, run: str | None) -> Anchor:
    try:
        return Anchor(site.archive.query.event(match.entry.video_id, event_id, run))
    except UsageError as error:
        raise Problem(404, "unknown_event", str(error)) from error


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


@router.get("/videos/{video}/kinds", **answers(shapes.Kinds, 404))
async def kinds(request: Request, site: SiteOf, video: VideoPath, run: RunId = None) -> Response:
    """How many events of each kind a video has."""

    def ask() -> dict[str, Any]:
        match = site.archive.find(video, run)
        counts = site.archive.query.kinds(match.entry.video_id, match.entry.run_id)
        return {**_of(match), "kinds": [{"kind": kind, "events": n} for kind, n in counts.items()]}

    return await site.ask(lambda: reply(request, ask()))


@router.get("/videos/{video}/density", **answers(shapes.Density, 404))
async def density(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    step: Time = "1",
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
) -> Response:
    """How many events go on in each `step` seconds of a video."""
    step_us = us(step)

    def ask() -> dict[str, Any]:
        match = site.archive.find(video, run)
        query, entry = site.archive.query, match.entry
        counts = query.density(entry.video_id, step_us, entry.run_id, kinds=kind, text=text)
        return {**_of(match), "step_us": step_us, "counts": counts}

    return await site.ask(lambda: reply(request, ask()))


@router.get("/videos/{video}/gaps", **answers(shapes.Gaps, 404))
async def gaps(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    least: Time = "1",
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
) -> Response:
    """Where nothing (of these kinds) goes on for at least `least` seconds."""
    least_us = us(least)

    def ask() -> dict[str, Any]:
        match = site.archive.find(video, run)
        query, entry = site.archive.query, match.entry
        found = query.gaps(entry.video_id, least_us, entry.run_id, kinds=kind, text=text)
        return {**_of(match), "gaps": [{"start_us": start, "end_us": end} for start, end in found]}

    return await site.ask(lambda: reply(request, ask()))


@router.get("/meanwhile", **answers(shapes.Events, 404))
async def meanwhile(
    request: Request,
    site: SiteOf,
    video: VideoName,
    event_id: Annotated[str, Query(max_length=64)],
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
) -> Response:
    """What else was on while an event was."""

    def ask() -> dict[str, Any]:
        match, query = site.archive.find(video, run), site.archive.query
        anchor = _anchor(site, match, event_id, run)
        found = query.meanwhile(match.entry.video_id, anchor, kinds=kind, text=text, run=anchor.event["run_id"])
        return {**_events(match, found.to_pylist()), "run_id": anchor.event["run_id"]}

    return await site.ask(lambda: reply(request, ask()))
