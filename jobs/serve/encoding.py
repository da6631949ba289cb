"""Videos that browsers cannot decode (MPEG-2, MPEG-4 part 2, ProRes, mostly HEVC): a few seconds at a time, as H.264.

Made when they are asked for, so that a person may go to any second of an hour at once; kept in memory while they are
used. Each is one piece of the video's own timeline (pipeline/clips/segment.py), so that a second on the page is that
second of the log.
"""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve.media import said
from jobs.serve.shown import check_inside, shown
from jobs.serve.site import Site, SiteOf, VideoPath
from pipeline.plan import SECOND_US
from pipeline.storage import local_path

router = APIRouter(prefix="/api/videos/{video}", tags=["pictures"])

SEGMENT_US = 4 * SECOND_US

_MP4 = {200: {"content": {"video/mp4": {}}, "description": "fragmented MP4; times count from the segment's start"}}


@router.get("/segment", **said(_MP4, 404, 409, 410))
async def segment(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    n: Annotated[int, Query(ge=0, le=10**7, description="which four seconds, from 0 on")],
) -> Response:
    """Four seconds of the video as H.264 and AAC, for browsers that cannot decode it (Media Source Extensions)."""
    entry, uri = await site.ask(lambda: shown(site, video))
    start_us = n * SEGMENT_US
    check_inside(entry, uri, start_us)
    key = entry.video_id, n
    found = site.segments.known(key)
    if found is None:
        found = await site.encode(lambda: site.segments.take(key, lambda: _made(site, uri, start_us)))
    headers = {"Cache-Control": "private, max-age=3600", "ETag": f'"{entry.video_id}-{n}"'}
    return Response(found, 200, headers, "video/mp4")


def _made(site: Site, uri: str, start_us: int) -> bytes:
    from pipeline.clips.segment import segment

    if local_path(uri) is not None:
        os.close(site.rooted.open(uri))
    return segment(uri, start_us, start_us + SEGMENT_US)
