"""At and between times, first and last: of one video, of several, or of all."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from jobs.serve import cursor as cursors
from jobs.serve import shapes
from jobs.serve.archive import as_event
from jobs.serve.reply import Problem, reply
from jobs.serve.site import Cursor, KindList, Rows, RunId, Site, SiteOf, Text, Time, answers, us
from pipeline.errors import UsageError
from pipeline.log.lookup import Filter
from pipeline.query import Match, as_rows
from pipeline.query.reading import reaching

router = APIRouter(prefix="/api", tags=["by second"])

Videos = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]] | None,
    Query(
        max_length=100,
        description="its path or URI, the end of one (match.mp4), its id or the beginning of one; may be repeated;"
        " without it: every video. Of several, those that end before are left out",
    ),
]


@router.get("/at", **answers(shapes.Events, 404))
async def at(
    request: Request,
    site: SiteOf,
    t: Time,
    video: Videos = None,
    span: Time = "1",
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
    limit: Rows = 1000,
    cursor: Cursor = None,
) -> Response:
    """What goes on in the second that begins at `t` (in `span` seconds from there)."""
    start = us(t)
    end = start + max(1, us(span))
    return await _spanning(request, site, video, start, end, Filter(kind, text), run, limit, cursor)


@router.get("/between", **answers(shapes.Events, 404))
async def between(
    request: Request,
    site: SiteOf,
    start: Time,
    end: Time,
    video: Videos = None,
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
    limit: Rows = 100,
    cursor: Cursor = None,
) -> Response:
    """What goes on at any moment from `start` to before `end`: by video, in order of start."""
    return await _spanning(request, site, video, us(start), us(end), Filter(kind, text), run, limit, cursor)


async def _spanning(
    request: Request,
    site: Site,
    videos: list[str] | None,
    start_us: int,
    end_us: int,
    wanted: Filter,
    run: str | None,
    limit: int,
    cursor: str | None,
) -> Response:
    def ask() -> dict[str, Any]:
        matches, begin_us, skip = _matches(site, videos, run), start_us, 0
        one = len(matches) == 1 and videos is not None
        if not one:
            matches = reaching(matches, start_us)
        if cursor is not None:
            # The page before ended with the `skip`-th of the events of a video that begin at `begin_us`, in this run.
            video_id, begin_us, skip, run_id = cursors.unpack(cursor, "span", str, int, int, str)
            if not start_us <= max(begin_us, start_us) < end_us:
                raise Problem(422, "bad_cursor", "this cursor is of another span: begin without one")
            [goes_on, *others] = _from(matches, video_id)
            matches = [Match(goes_on.name, site.archive.find(video_id, run_id).entry), *others]
        found: list[tuple[Match, dict[str, Any]]] = []
        for place, match in enumerate(matches):
            going_on = cursor is not None and place == 0
            need = limit + 1 - len(found) + (skip if going_on else 0)
            rows: list[dict[str, Any]] = []
            first_us = max(start_us, begin_us) if going_on else start_us
            for batch in site.archive.query.overlapping(match, first_us, end_us, wanted):
                if going_on:  # those that began before were on earlier pages
                    starts = batch.column("start_us").to_pylist()
                    batch = batch.slice(next((i for i, s in enumerate(starts) if s >= begin_us), len(starts)))
                if need > len(rows):
                    rows += as_rows([batch.slice(0, min(need - len(rows), batch.num_rows))])
            found += [(match, row) for row in rows[skip if going_on else 0 :]]
            if len(found) > limit:
                break
        page, following = found[:limit], None
        if len(found) > limit:
            match, last = page[-1]
            same = sum(m is match and row["start_us"] == last["start_us"] for m, row in page)
            if cursor is not None and match is matches[0] and last["start_us"] == begin_us:
                same += skip
            following = cursors.pack("span", match.entry.video_id, last["start_us"], same, match.entry.run_id)
        return _said(matches[0] if one else None, page, following)

    return await _asked(site, videos)(lambda: reply(request, ask()))


@router.get("/first", **answers(shapes.Events, 404))
async def first(
    request: Request,
    site: SiteOf,
    video: Videos = None,
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
    limit: Rows = 1000,
    cursor: Cursor = None,
) -> Response:
    """The first time something happened, in each of the videos."""
    return await _end(request, site, video, Filter(kind, text), run, limit, cursor, last=False)


@router.get("/last", **answers(shapes.Events, 404))
async def last(
    request: Request,
    site: SiteOf,
    video: Videos = None,
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
    limit: Rows = 1000,
    cursor: Cursor = None,
) -> Response:
    """The last time something happened, in each of the videos."""
    return await _end(request, site, video, Filter(kind, text), run, limit, cursor, last=True)


async def _end(
    request: Request,
    site: Site,
    videos: list[str] | None,
    wanted: Filter,
    run: str | None,
    limit: int,
    cursor: str | None,
    *,
    last: bool,
) -> Response:
    def ask() -> dict[str, Any]:
        matches = _matches(site, videos, run)
        one = matches[0] if len(matches) == 1 and videos is not None else None
        if cursor is not None:
            matches = _from(matches, cursors.unpack(cursor, "ends", str)[0])[1:]
        ends = site.archive.query.last if last else site.archive.query.first
        found: list[tuple[Match, dict[str, Any]]] = []
        for match in matches:
            entry = match.entry
            rows = ends(entry.video_id, kinds=wanted.kinds, text=wanted.text, run=entry.run_id).to_pylist()
            found += [(match, row) for row in rows]
            if len(found) > limit:
                break
        page = found[:limit]
        following = cursors.pack("ends", page[-1][0].entry.video_id) if len(found) > limit else None
        return _said(one, page, following)

    return await _asked(site, videos)(lambda: reply(request, ask()))


def _asked(site: Site, videos: list[str] | None) -> Any:
    """One video is looked up in milliseconds; many take a while."""
    return site.ask if videos is not None and len(videos) == 1 else site.work


def _matches(site: Site, videos: list[str] | None, run: str | None) -> list[Match]:
    """The videos meant, each once: named ones in the order given, all of them in the order of their names."""
    if videos is not None:
        return list({m.entry.video_id: m for m in (site.archive.find(name, run) for name in videos)}.values())
    run_id = None if run is None else site.archive.run(run)["run_id"]
    try:
        return site.archive.query.matches(None, run_id)
    except UsageError as error:
        raise Problem(404, "unknown_run", str(error)) from error


def _from(matches: list[Match], video_id: str) -> list[Match]:
    """A video and those that follow it. Raises Problem 422: it is none of them."""
    for place, match in enumerate(matches):
        if match.entry.video_id == video_id:
            return matches[place:]
    raise Problem(422, "bad_cursor", "this cursor is of another video: begin without one")


def _said(one: Match | None, page: list[tuple[Match, dict[str, Any]]], following: str | None) -> dict[str, Any]:
    """`one`: the only video that was asked about; of several, only the events name theirs."""
    return {
        "video": None if one is None else one.name,
        "video_id": None if one is None else one.entry.video_id,
        "run_id": None if one is None else one.entry.run_id,
        "events": [as_event(row, match.name) for match, row in page],
        "next": following,
    }
