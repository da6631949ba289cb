"""The events of several videos, or of all, in the formats of other tools; of one video also as subtitles (media.py)."""

from __future__ import annotations

import io
import os
import zipfile
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import each
from jobs.serve.each import Videos
from jobs.serve.reply import Problem
from jobs.serve.site import KindList, RunId, Site, SiteOf, answers
from pipeline.export import Exported, activitynet, fiftyone, table
from pipeline.log.lookup import Filter
from pipeline.query import Match, as_rows
from pipeline.storage import local_path

router = APIRouter(prefix="/api", tags=["archive"])

#: Events of one answer: they are held in memory.
MOST_EVENTS = 200_000

#: Format -> (name of the file, its type).
_FILES = {
    "csv": ("events.csv", "text/csv"),
    "activitynet": ("events.json", "application/json"),
    "fiftyone": ("fiftyone.zip", "application/zip"),
}
_CONTENT = {200: {"content": {kind: {} for _, kind in _FILES.values()}, "description": "a file to keep"}}


def exported(site: Site, match: Match, kinds: list[str] | None) -> Exported:
    """A video with its events."""
    events = as_rows(site.archive.query.overlapping(match, -(2**62), 2**62, Filter(kinds)))
    width, height = site.size(match.entry.video_id)
    return Exported(match.entry.video_id, match.name, match.entry.duration_us, width, height, events)


_SAID = answers(None, 404)
_SAID["responses"] |= _CONTENT


@router.get("/export", **_SAID, response_class=Response)
async def export(
    request: Request,
    site: SiteOf,
    format: Annotated[Literal["csv", "activitynet", "fiftyone"], Query()],
    video: Videos = None,
    kind: KindList = None,
    run: RunId = None,
) -> Response:
    """The events of videos as one table (CSV), annotations (ActivityNet JSON), or a FiftyOne data set (a zip).

    All of them or none: 504 where that takes too long, 413 where there are too many. The command `secondsight export`
    has no such limits.
    """

    def write() -> bytes:
        matches = each.asked(site, video, run, "export", None).matches
        films: list[Exported] = []
        events = 0
        for _, film in site.archive.query.each(matches, lambda m: exported(site, m, kind), site.limits.many_s):
            films.append(film)
            events += len(film.events)
            if events > MOST_EVENTS:
                raise Problem(413, "too_large", f"more than {MOST_EVENTS} events: {_LESS}")
        if left := len(matches) - len(films):
            raise Problem(504, "time_limit", f"{left} of {len(matches)} videos could not be read in time: {_LESS}")
        films.sort(key=lambda film: (film.name, film.video_id))
        if format == "csv":
            return table(films).encode("utf-8", "replace")
        if format == "activitynet":
            return activitynet(films, f"secondsight {site.archive.uri}").encode("utf-8", "replace")
        return _zipped(fiftyone(films, lambda name: os.path.abspath(name) if local_path(name) else name))

    content = await site.look_through(write)
    name, kind_of = _FILES[format]
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-cache"}
    return Response(content, 200, headers, kind_of)


_LESS = "name fewer videos or kinds, or use `secondsight export`"


def _zipped(files: dict[str, Any]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(name, text.encode("utf-8", "replace"))
    return packed.getvalue()
