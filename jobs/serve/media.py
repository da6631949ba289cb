"""Pictures: stills, the video itself by ranges, clips, contact sheets; and the events as subtitles and tables."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve.exporting import exported
from jobs.serve.reply import Problem
from jobs.serve.sending import TYPES, Bytes, Ranged
from jobs.serve.shown import check_inside, shown
from jobs.serve.site import KindList, RunId, Site, SiteOf, Time, VideoPath, answers, us
from pipeline.clock import format_time
from pipeline.errors import VideoError
from pipeline.log.entry import Entry
from pipeline.log.lookup import Filter
from pipeline.query import as_rows
from pipeline.storage import local_path

router = APIRouter(prefix="/api/videos/{video}", tags=["pictures"])

_JPEG = {200: {"content": {"image/jpeg": {}}, "description": "a JPEG; X-Time-Us is the frame's own time"}}
_VIDEO = {
    200: {"content": {"video/*": {}}, "description": "the whole file"},
    206: {"content": {"video/*": {}}, "description": "the range that was asked for"},
}


def said(found: dict[int, Any], *statuses: int) -> dict[str, Any]:
    """What a route's documentation says of answers that are no JSON."""
    known = answers(None, *statuses)
    known["responses"] |= found
    return {**known, "response_class": Response}


@router.get("/still", **said(_JPEG, 404, 409, 410))
async def still(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    t: Time,
    height: Annotated[int, Query(ge=16, le=2160, description="of the picture, in px; never enlarged")] = 360,
) -> Response:
    """The frame that a player shows at `t`."""
    time_us, height = us(t), height // 2 * 2
    entry, uri = await site.ask(lambda: shown(site, video))
    found = site.stills.known(entry.video_id, time_us, height)
    if found is None:
        check_inside(entry, uri, time_us)
        found = await site.work(lambda: site.stills.take(entry.video_id, uri, time_us, height))
    headers = {"Cache-Control": "private, max-age=86400", "X-Time-Us": str(found.time_us)}
    return Response(found.jpeg, 200, headers, "image/jpeg")


@router.head("/media", include_in_schema=False)
@router.get("/media", **said(_VIDEO, 404, 409, 410, 416))
async def media(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    container: Annotated[
        Literal["mp4"] | None, Query(description="the same streams copied into MP4, for browsers")
    ] = None,
) -> Response:
    """The video's bytes, by range."""
    entry, uri = await site.ask(lambda: shown(site, video))
    if not site.streams.acquire(blocking=False):
        raise Problem(503, "busy", "too many videos are being sent: ask again in a few seconds", retry_s=5)
    try:
        if container is None:
            what = await site.quick.run(lambda: _original(site, uri), discard=Bytes.close)
            kind = TYPES.get(uri.rsplit(".", 1)[-1].lower(), "application/octet-stream")
        else:
            what = Bytes.of_handle(await site.cutter.run(lambda: _remuxed(site, entry, uri), discard=os.close))
            kind = "video/mp4"
        tag = f'"{entry.video_id}{container or ""}-{what.size}"'
        try:
            return Ranged(request, what, kind, tag, site.streams.release)
        except BaseException:
            what.close()
            raise
    except BaseException:
        site.streams.release()
        raise


def _original(site: Site, uri: str) -> Bytes:
    return Bytes.of_handle(site.rooted.open(uri)) if local_path(uri) is not None else Bytes.of_object(uri)


def _remuxed(site: Site, entry: Entry, uri: str) -> int:
    size = site.sizes(entry.video_id)
    if size is not None and size > site.limits.remux_bytes:
        raise Problem(422, "too_large", f"{uri} is too large to be put into another container: take the original")
    if local_path(uri) is not None:
        os.close(site.rooted.open(uri))
    return site.remuxed.open(entry.video_id, uri)


@router.get("/clip", **said(_VIDEO, 404, 409, 410, 416))
async def clip(request: Request, site: SiteOf, video: VideoPath, start: Time, end: Time) -> Response:
    """Exactly the span from `start` to `end`, as MP4."""
    start_us, end_us = us(start), us(end)
    if end_us <= start_us:
        raise Problem(422, "empty", f"the span from {format_time(start_us)} to {format_time(end_us)} is empty")
    if end_us - start_us > site.limits.clip_s * 1e6:
        raise Problem(422, "too_long", f"a clip of more than {site.limits.clip_s:g} s: take the video itself")
    entry, uri = await site.ask(lambda: shown(site, video))
    check_inside(entry, uri, start_us)

    over = threading.Event()

    def cut() -> int:
        from pipeline.clips import clip

        def write(path: Path) -> None:
            clip(uri, start_us, end_us, path, overwrite=True, is_wanted=lambda: not over.is_set())

        return _written(site, ".mp4", write)

    try:
        what = Bytes.of_handle(await site.cutter.run(cut, discard=os.close))
    finally:
        over.set()
    tag = f'"{entry.video_id}-{start_us}-{end_us}-{what.size}"'
    try:
        reply = Ranged(request, what, "video/mp4", tag, lambda: None)
    except BaseException:
        what.close()
        raise
    name = f"{_stem(uri)} {start_us / 1e6:.3f}-{end_us / 1e6:.3f}.mp4"
    reply.headers["Content-Disposition"] = _download(name)
    return reply


def _written(site: Site, suffix: str, write: Callable[[Path], None]) -> int:
    """A descriptor of a file that is written and at once has no name: gone when it is closed."""
    handle, name = tempfile.mkstemp(suffix, dir=site.folder)
    os.close(handle)
    try:
        write(Path(name))
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        Path(name).unlink(missing_ok=True)


@router.get("/sheet", **said(_JPEG, 404, 409, 410))
async def sheet(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    columns: Annotated[int, Query(ge=1, le=10)] = 5,
    rows: Annotated[int, Query(ge=1, le=20)] = 6,
    width: Annotated[int, Query(ge=40, le=640, description="of a still, in px")] = 300,
    run: RunId = None,
) -> Response:
    """The whole video in one picture: stills at even steps, and what begins under each."""
    entry, uri = await site.ask(lambda: shown(site, video))

    def draw() -> bytes:
        from pipeline.sheet import sheet

        match = site.archive.find(entry.video_id, run)
        events = as_rows(site.archive.query.overlapping(match, -(2**62), 2**62, Filter()))
        return sheet(uri, events, title=uri.rsplit("/", 1)[-1], columns=columns, rows=rows, width=width)

    return Response(await site.cutter.run(draw), 200, {"Cache-Control": "private, max-age=60"}, "image/jpeg")


#: An SVG carries its own style; opened by itself it may load and run nothing.
_PLOT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_SVG = {200: {"content": {"image/svg+xml": {}}, "description": "an SVG, 1280 px wide"}}


@router.get("/plot", **said(_SVG, 404))
async def plot(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    kind: KindList = None,
    stills: Annotated[bool, Query(description="pictures along the top, where the video can be shown")] = True,
    run: RunId = None,
) -> Response:
    """The events drawn over the video's time: a lane for each kind; what they say on hovering."""

    def draw() -> str:
        from pipeline.timeline import even_stills, timeline

        match = site.archive.find(video, run)
        events = as_rows(site.archive.query.overlapping(match, -(2**62), 2**62, Filter(kind)))
        pictures = []
        if stills:
            with contextlib.suppress(Problem, VideoError):  # hidden, gone, not below a root: drawn without
                pictures = even_stills(shown(site, match.entry.video_id)[1])
        title = match.name.rsplit("/", 1)[-1]
        return timeline(match.entry.duration_us or 0, events, title=title, pictures=pictures)

    drawn = (await site.cutter.run(draw)).encode("utf-8", "replace")
    headers = {"Cache-Control": "private, max-age=60", "Content-Security-Policy": _PLOT_POLICY}
    return Response(drawn, 200, headers, "image/svg+xml")


_FILES = {"vtt": "text/vtt", "srt": "application/x-subrip", "csv": "text/csv", "activitynet": "application/json"}
_TEXT = {200: {"content": {kind: {} for kind in _FILES.values()}, "description": "a file to keep"}}


@router.get("/export", **said(_TEXT, 404))
async def export(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    format: Annotated[Literal["vtt", "srt", "csv", "activitynet"], Query()] = "vtt",
    kind: KindList = None,
    run: RunId = None,
) -> Response:
    """The events as subtitles (WebVTT, SRT), a table (CSV) or annotations (ActivityNet JSON)."""

    def write() -> tuple[str, str]:
        from pipeline.export import activitynet, srt, table, webvtt

        match = site.archive.find(video, run)
        film = exported(site, match, kind)
        if format in ("csv", "activitynet"):
            text = table([film]) if format == "csv" else activitynet([film], f"secondsight {site.archive.uri}")
        else:
            text = webvtt(film) if format == "vtt" else srt(film)
        return match.name, text

    name, text = await site.work(write)
    suffix = "json" if format == "activitynet" else format
    headers = {"Content-Disposition": _download(f"{_stem(name)}.{suffix}"), "Cache-Control": "no-cache"}
    return Response(text.encode("utf-8", "replace"), 200, headers, _FILES[format])


def _stem(uri: str) -> str:
    return uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _download(name: str) -> str:
    """Content-Disposition for a file name of any letters (RFC 6266)."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%;' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name.encode('utf-8', 'replace'), safe='')}"
