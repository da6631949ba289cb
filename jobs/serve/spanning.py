"""At and between times, before and after a time or an event, first and last: of one video, of several, or of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import each, shapes
from jobs.serve.each import Videos
from jobs.serve.reply import Problem, reply
from jobs.serve.site import Cursor, KindList, Rows, RunId, Site, SiteOf, Text, Time, answers, us
from pipeline.errors import UsageError
from pipeline.log.lookup import Filter
from pipeline.query import Anchor, Match
from pipeline.query.reading import EARLIEST, LATEST, reaching

router = APIRouter(prefix="/api", tags=["by second"])

Count = Annotated[int, Query(ge=1, le=1000, description="how many events of each video")]
EVENT = "its id, or a kind or text: the video's first event of that kind, or with that text"
AnEvent = Annotated[
    str | None, Query(min_length=1, max_length=1000, description=f"an event of one video in place of `t`: {EVENT}")
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
    def answer() -> dict[str, Any]:
        asked = each.asked(site, videos, run, "span", cursor, lambda matches: reaching(matches, start_us))
        begin_us = asked.begin_us
        if begin_us is not None and not start_us <= max(begin_us, start_us) < end_us:
            raise Problem(422, "bad_cursor", "this cursor is of another span: begin without one")

        def ask(match: Match, goes_on: bool) -> list[Any]:
            if not goes_on or begin_us is None:
                return site.archive.query.overlapping(match, start_us, end_us, wanted)
            rest = []
            for batch in site.archive.query.overlapping(match, max(start_us, begin_us), end_us, wanted):
                starts = batch.column("start_us").to_pylist()  # those that began before were on earlier pages
                rest.append(batch.slice(next((i for i, s in enumerate(starts) if s >= begin_us), len(starts))))
            return rest

        return each.events(site, asked, ask, limit, "span", by_start=True)

    return await each.threads(site, videos)(lambda: reply(request, answer()))


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
    wanted = Filter(kind, text)

    def ask(match: Match) -> list[Any]:
        return site.archive.query.from_on(match, EARLIEST, 1, wanted)

    return await _some(request, site, "first", ask, video, run, limit, cursor)


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
    wanted = Filter(kind, text)

    def ask(match: Match) -> list[Any]:
        return site.archive.query.preceding(match, LATEST, 1, wanted)

    return await _some(request, site, "last", ask, video, run, limit, cursor)


async def _some(
    request: Request,
    site: Site,
    what: str,
    ask: Callable[[Match], Any],
    videos: list[str] | None,
    run: str | None,
    limit: int,
    cursor: str | None,
) -> Response:
    def answer() -> dict[str, Any]:
        asked = each.asked(site, videos, run, what, cursor)
        return each.events(site, asked, lambda m, _: ask(m), limit, what, by_start=False)

    return await each.threads(site, videos)(lambda: reply(request, answer()))


@router.get("/before", **answers(shapes.Events, 404))
async def before(
    request: Request,
    site: SiteOf,
    video: Videos = None,
    t: Time | None = None,
    event: AnEvent = None,
    count: Count = 5,
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
    limit: Rows = 1000,
    cursor: Cursor = None,
) -> Response:
    """The last `count` events of each video that begin before `t`; or of one video, before an event begins."""
    wanted = Filter(kind, text)

    def ask(match: Match, when: int | Anchor) -> Any:
        us = when.start_us if isinstance(when, Anchor) else when
        return site.archive.query.preceding(match, us, count, wanted)

    return await _around(request, site, "before", ask, video, t, event, run, limit, cursor)


@router.get("/after", **answers(shapes.Events, 404))
async def after(
    request: Request,
    site: SiteOf,
    video: Videos = None,
    t: Time | None = None,
    event: AnEvent = None,
    count: Count = 5,
    kind: KindList = None,
    text: Text = None,
    run: RunId = None,
    limit: Rows = 1000,
    cursor: Cursor = None,
) -> Response:
    """The first `count` events of each video that begin at `t` or later; or of one video, once an event has ended."""
    wanted = Filter(kind, text)

    def ask(match: Match, when: int | Anchor) -> Any:
        if isinstance(when, Anchor):  # may end with its video: then nothing follows, which is an answer
            return site.archive.query.from_on(match, when.end_us, count, wanted)
        return site.archive.query.following(match, when, count, wanted)

    return await _around(request, site, "after", ask, video, t, event, run, limit, cursor)


async def _around(
    request: Request,
    site: Site,
    side: Literal["before", "after"],
    ask: Callable[[Match, int | Anchor], Any],
    videos: list[str] | None,
    t: str | None,
    event: str | None,
    run: str | None,
    limit: int,
    cursor: str | None,
) -> Response:
    if (t is None) == (event is None):
        raise Problem(422, "bad_value", "give either t, a time, or event, an event to ask around")
    if event is not None and (videos is None or len(videos) != 1):
        raise Problem(422, "bad_value", f"{side} an event asks about one video: name it, once, with video")

    def answer() -> dict[str, Any]:
        when: int | Anchor
        if event is None:
            assert t is not None
            when = start_us = us(t)
            within = (lambda matches: reaching(matches, start_us)) if side == "after" else None
            asked = each.asked(site, videos, run, side, cursor, within)
        else:
            assert videos is not None
            when = anchor_of(site, site.archive.find(videos[0], run), event, run)
            asked = each.asked(site, videos, when.event["run_id"], side, cursor)
        return each.events(site, asked, lambda m, _: ask(m, when), limit, side, by_start=False)

    return await each.threads(site, videos)(lambda: reply(request, answer()))


def anchor_of(site: Site, match: Match, event: str, run: str | None) -> Anchor:
    """The event of a video that is meant by its id, kind or text. Raises Problem 404."""
    try:
        return site.archive.query.anchor(match.entry.video_id, event, run)
    except UsageError as error:
        raise Problem(404, "unknown_event", str(error)) from error
