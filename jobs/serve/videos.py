"""Videos: the list, one of them, its events as columns, strips of many."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import cursor as cursors
from jobs.serve import shapes
from jobs.serve.archive import Facts
from jobs.serve.encoding import SEGMENT_US
from jobs.serve.reply import Problem, reply
from jobs.serve.shown import shown
from jobs.serve.site import Cursor, KindList, Rows, RunId, Site, SiteOf, VideoPath, answers
from pipeline.clips.segment import CODECS
from pipeline.errors import VideoError
from pipeline.log.lookup import Filter
from pipeline.query import Match
from pipeline.query.spans import density

router = APIRouter(prefix="/api", tags=["archive"])

#: What a browser plays as it is: the file's suffix -> codecs.
PLAYED = {suffix: {"h264", "av1", "vp9", "hevc"} for suffix in ("mp4", "m4v", "mov")} | {"webm": {"vp8", "vp9", "av1"}}

#: Codecs that a browser plays once they are in MP4.
REMUXED = {"h264", "hevc", "av1", "vp9"}

COLUMNS = """video_id, run_id, name, uris, status, reason, duration_us, width, height, rotation, codec, frame_rate,
    size_bytes, windows, events, decode_s, model_s, finished_at_us"""

#: What only the log's own row of a video says.
UNKNOWN = ("width", "height", "rotation", "codec", "frame_rate", "size_bytes")
UNCOUNTED = ("windows", "decode_s", "model_s", "lost_us")

#: Whom some name has $q in: of any run, or found since.
NAMED = """select video_id from (
        select video_id, unnest(uris) as uri from videos union all select video_id, uri from names)
    where contains(lower(uri), lower($q))"""

ORDERS = {
    "name": ("name", str, "asc"),
    "events": ("events", int, "desc"),
    "duration": ("coalesce(duration_us, 0)", int, "desc"),
    "newest": ("coalesce(finished_at_us, 0)", int, "desc"),
}


@router.get("/overview", **answers(shapes.Overview))
async def overview(request: Request, site: SiteOf) -> Response:
    """The archive in one look: counts, kinds, what failed, where events lie."""

    def ask() -> dict[str, Any]:
        return {
            **site.archive.facts().overview,
            "search": site.finding.mode(),
            "pictures": site.looking.possible(),
            "model": site.finding.model,
        }

    return await site.work(lambda: reply(request, ask()))


@router.get("/videos", **answers(shapes.Videos))
async def videos(
    request: Request,
    site: SiteOf,
    q: Annotated[
        str | None,
        Query(max_length=500, description="only with this in any of their names (or ids)"),
    ] = None,
    status: Annotated[Literal["done", "failed", "quarantined"] | None, Query()] = None,
    kind: Annotated[str | None, Query(max_length=200, description="only videos with events of this kind")] = None,
    order: Annotated[Literal["name", "events", "duration", "newest"], Query()] = "name",
    limit: Rows = 50,
    cursor: Cursor = None,
) -> Response:
    """The videos of the log, each in its newest done run."""
    expression, kind_of, direction = ORDERS[order]
    after = None if cursor is None else cursors.unpack(cursor, f"videos-{order}", kind_of, str)

    def ask() -> dict[str, Any]:
        facts = site.archive.facts()
        where, values = ["true"], {}
        if q:
            where.append(f"(video_id in ({NAMED}) or starts_with(video_id, lower($q)))")
            values["q"] = q
        if status:
            where.append("status = $status")
            values["status"] = status
        if kind:
            where.append("(video_id, run_id) in (select (video_id, run_id) from events where kind = $kind)")
            values["kind"] = kind
        [total] = facts.rows(f"select count(*) as n from catalog where {' and '.join(where)}", values)
        if after is not None:
            than = ">" if direction == "asc" else "<"
            where.append(f"({expression} {than} $value or ({expression} = $value and video_id > $id))")
            values |= {"value": after[0], "id": after[1]}
        rows = facts.rows(
            f"select {COLUMNS}, {expression} as sort_key from catalog where {' and '.join(where)}"
            f" order by sort_key {direction}, video_id limit {limit + 1}",
            values,
        )
        page = rows[:limit]
        following = None
        if len(rows) > limit:
            following = cursors.pack(f"videos-{order}", page[-1]["sort_key"], page[-1]["video_id"])
        for row in page:
            del row["sort_key"]
        return {"videos": page, "total": total["n"], "next": following}

    return await site.work(lambda: reply(request, ask()))


@router.get("/videos/{video}", **answers(shapes.VideoDetail, 404))
async def one(request: Request, site: SiteOf, video: VideoPath) -> Response:
    """One video: what it is, its runs, and how a browser can play it."""

    def ask() -> dict[str, Any]:
        runs = _runs(site.archive.facts(), site.archive.video_id(video))
        if not runs:
            runs = [_as_entry(site.archive.find(video))]  # newer than the facts
        chosen = dict(next((r for r in runs if r["status"] == "done"), runs[0]))
        lost = chosen.pop("lost_us") or []
        listed = [{key: value for key, value in run.items() if key != "lost_us"} for run in runs]
        return {**chosen, "lost_us": lost, "runs": listed, "play": _play(site, chosen)}

    return await site.work(lambda: reply(request, ask()))


def _runs(facts: Facts, video_id: str) -> list[dict[str, Any]]:
    return facts.rows(
        f"""select {COLUMNS.replace("name", "coalesce(uris[1], video_id) as name")}, lost_us from videos
        where video_id = ? order by finished_at_us desc, run_id desc""",
        [video_id],
    )


def _as_entry(match: Match) -> dict[str, Any]:
    entry = match.entry
    unknown = dict.fromkeys(
        (
            "width",
            "height",
            "rotation",
            "codec",
            "frame_rate",
            "size_bytes",
            "windows",
            "decode_s",
            "model_s",
            "lost_us",
        )
    )
    return {
        "video_id": entry.video_id,
        "run_id": entry.run_id,
        "name": match.name,
        "uris": list(entry.uris),
        "status": entry.status,
        "reason": entry.reason,
        "duration_us": entry.duration_us,
        "events": entry.events,
        "finished_at_us": entry.finished_at_us,
        **unknown,
    }


def _play(site: Site, row: dict[str, Any]) -> dict[str, Any]:
    """How a browser gets its pictures."""
    path = f"/api/videos/{row['video_id']}/media"
    try:
        _, uri = shown(site, row["video_id"])
    except (Problem, VideoError) as error:
        return {"how": "none", "url": None, "original": path, "reason": str(error), "segments": None}
    segments = {"url": f"/api/videos/{row['video_id']}/segment", "length_us": SEGMENT_US, "codecs": list(CODECS)}
    how: dict[str, Any] = {"original": path, "reason": None, "segments": segments}
    suffix, codec = uri.rsplit(".", 1)[-1].lower(), (row["codec"] or "").lower()
    if codec in PLAYED.get(suffix, ()):
        return {"how": "direct", "url": path, **how}
    if codec in REMUXED and (row["size_bytes"] or 0) <= site.limits.remux_bytes:
        return {"how": "remux", "url": f"{path}?container=mp4", **how}
    return {"how": "encode", "url": None, **how}


# -- events as columns

FIELDS = ("text", "confidence", "event_id")


@router.get("/videos/{video}/timeline", **answers(shapes.Timeline, 404))
async def timeline(
    request: Request,
    site: SiteOf,
    video: VideoPath,
    run: RunId = None,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=500_000)] = 200_000,
    field: Annotated[list[Literal["text", "confidence", "event_id"]] | None, Query(description="more columns")] = None,
) -> Response:
    """All events of a video as columns, in order of start."""

    def ask() -> dict[str, Any]:
        match = site.archive.find(video, run)
        table = site.tables.get(site.archive.query, match)
        page = table.slice(offset, limit)
        kinds = page["kind"].combine_chunks().dictionary_encode()
        said: dict[str, Any] = {
            "video_id": match.entry.video_id,
            "run_id": match.entry.run_id,
            "duration_us": match.entry.duration_us,
            "total": table.num_rows,
            "offset": offset,
            "kinds": kinds.dictionary.to_pylist(),
            "start_us": page["start_us"].to_pylist(),
            "end_us": page["end_us"].to_pylist(),
            "kind": kinds.indices.to_pylist(),
            **dict.fromkeys(FIELDS),
        }
        for name in field or ():
            values = page[name].to_pylist()
            said[name] = [v if v is None else round(v, 3) for v in values] if name == "confidence" else values
        return said

    return await site.ask(lambda: reply(request, ask()))


@router.get("/strips", **answers(shapes.Strips, 404))
async def strips(
    request: Request,
    site: SiteOf,
    video_id: Annotated[list[str], Query(min_length=1, max_length=64)],
    bins: Annotated[int, Query(ge=1, le=1000)] = 96,
    kind: KindList = None,
) -> Response:
    """How full the parts of several videos are: a small picture of each."""

    def ask() -> dict[str, Any]:
        found = []
        for name in video_id:
            match = site.archive.find(name)
            entry = match.entry
            length = entry.duration_us or max((s.end_us for s in entry.spans), default=1)
            step = max(1, -(-length // bins))
            batches = site.archive.query.overlapping(match, -(2**62), 2**62, Filter(kind))
            times = [
                (start, min(end, length))
                for batch in batches
                for start, end in zip(
                    batch.column("start_us").to_pylist(), batch.column("end_us").to_pylist(), strict=True
                )
                if start < length
            ]
            counts = density(times, step, length)[:bins]
            found.append({"video_id": entry.video_id, "run_id": entry.run_id, "counts": counts})
        return {"strips": found}

    return await site.ask(lambda: reply(request, ask(), fresh_s=30))
