"""Runs: the list, one of them, two compared; and what could not be watched."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.serve import cursor as cursors
from jobs.serve import shapes
from jobs.serve.archive import as_event
from jobs.serve.comparing import pairs
from jobs.serve.reply import Problem, reply
from jobs.serve.site import Cursor, Rows, SiteOf, VideoPath, answers
from pipeline.log.lookup import Filter
from pipeline.query import as_rows

router = APIRouter(prefix="/api", tags=["runs"])

ROW = """run_id, status, model, config_hash, weights_hash, code_version, started_at_us, finished_at_us,
    videos_done, videos_failed, videos_quarantined, events, watched_us"""
FIELDS = tuple(name.strip() for name in ROW.split(","))

Left = Annotated[str, Query(min_length=1, max_length=128, description="a run: its id, or the beginning of one")]

#: Events that two runs may have in one video to be compared one by one.
COMPARED = 20_000


@router.get("/runs", **answers(shapes.Runs))
async def runs(request: Request, site: SiteOf) -> Response:
    """The runs, newest first."""

    def ask() -> dict[str, Any]:
        return {"runs": site.archive.facts().rows(f"select {ROW} from run_list limit 10000")}

    return await site.work(lambda: reply(request, ask()))


@router.get("/runs/{run_id}", **answers(shapes.RunDetail, 404))
async def run(request: Request, site: SiteOf, run_id: str) -> Response:
    """One run, with its whole configuration."""

    def ask() -> dict[str, Any]:
        row = site.archive.run(run_id)
        kinds = site.archive.facts().rows(
            "select kind, count(*) as events, count(distinct video_id) as videos,"
            " sum(greatest(end_us - start_us, 0))::bigint as total_us from events"
            " where run_id = ? group by kind order by events desc, kind",
            [row["run_id"]],
        )
        return {**row, "kinds": kinds}

    return await site.work(lambda: reply(request, ask()))


@router.get("/compare", **answers(shapes.Comparison, 404))
async def compare(
    request: Request, site: SiteOf, left: Left, right: Left, limit: Rows = 50, cursor: Cursor = None
) -> Response:
    """Two runs beside each other: events by kind over the videos of both, and the videos that differ most first."""
    after = None if cursor is None else cursors.unpack(cursor, "compare", int, str)

    def ask() -> dict[str, Any]:
        a, b = site.archive.run(left), site.archive.run(right)
        facts = site.archive.facts()
        ids = {"a": a["run_id"], "b": b["run_id"]}
        both = """with a as (select * from videos where run_id = $a and status = 'done'),
            b as (select * from videos where run_id = $b and status = 'done'),
            joined as (
                select coalesce(a.video_id, b.video_id) as video_id,
                    coalesce(a.uris[1], b.uris[1], a.video_id, b.video_id) as name,
                    case when a.video_id is null then null else coalesce(a.events, 0) end as "left",
                    case when b.video_id is null then null else coalesce(b.events, 0) end as "right"
                from a full join b on a.video_id = b.video_id)"""
        kinds = facts.rows(
            f"""{both}, shared as (select video_id from joined where "left" is not null and "right" is not null)
            select kind, count(*) filter (run_id = $a) as "left", count(*) filter (run_id = $b) as "right"
            from events semi join shared using (video_id) where run_id in ($a, $b) group by kind order by kind""",
            ids,
        )
        [counts] = facts.rows(
            f"""{both} select count(*) as total,
            count(*) filter ("left" is not null and "right" is not null) as both from joined""",
            ids,
        )
        differ = """abs(coalesce("left", 0) - coalesce("right", 0))"""
        where, values = "true", dict(ids)
        if after is not None:
            where = f"({differ} < $by or ({differ} = $by and video_id > $id))"
            values |= {"by": after[0], "id": after[1]}
        rows = facts.rows(
            f"{both} select *, {differ} as apart from joined where {where}"
            f" order by apart desc, video_id limit {limit + 1}",
            values,
        )
        page = rows[:limit]
        following = cursors.pack("compare", page[-1]["apart"], page[-1]["video_id"]) if len(rows) > limit else None
        for row in page:
            del row["apart"]
        sides = {side: {name: of[name] for name in FIELDS} for side, of in (("left", a), ("right", b))}
        return {**sides, "kinds": kinds, "videos": page, **counts, "next": following}

    return await site.work(lambda: reply(request, ask()))


@router.get("/videos/{video}/compare", **answers(shapes.VideoComparison, 404))
async def compare_video(request: Request, site: SiteOf, video: VideoPath, left: Left, right: Left) -> Response:
    """One video as two runs saw it, and which events are the same one."""

    def ask() -> dict[str, Any]:
        sides, name, duration = [], "", None
        for run_id in (left, right):
            match = site.archive.find(video, run_id)
            name, duration = match.name, match.entry.duration_us
            if match.entry.events > COMPARED:
                raise Problem(422, "too_many", f"{name} has {match.entry.events} events in run {run_id}: too many")
            rows = as_rows(site.archive.query.overlapping(match, -(2**62), 2**62, Filter()))
            sides.append([as_event(row, name) for row in rows])
        return {
            "video_id": match.entry.video_id,
            "name": name,
            "duration_us": duration,
            "left": sides[0],
            "right": sides[1],
            "pairs": pairs(*sides),
        }

    return await site.work(lambda: reply(request, ask()))


@router.get("/failures", **answers(shapes.Failures))
async def failures(
    request: Request,
    site: SiteOf,
    code: Annotated[str | None, Query(max_length=100, description="only failures of this kind")] = None,
    limit: Rows = 100,
    cursor: Cursor = None,
) -> Response:
    """The videos that no run has watched to the end, and why."""
    after = None if cursor is None else cursors.unpack(cursor, "failures", str, str)

    def ask() -> dict[str, Any]:
        facts = site.archive.facts()
        kind = "coalesce(nullif(split_part(reason, ':', 1), ''), status)"
        where, values = ["status <> 'done'"], {}
        if code is not None:
            where.append(f"{kind} = $code")
            values["code"] = code
        [total] = facts.rows(f"select count(*) as n from catalog where {' and '.join(where)}", values)
        if after is not None:
            where.append("(name > $name or (name = $name and video_id > $id))")
            values |= {"name": after[0], "id": after[1]}
        rows = facts.rows(
            f"select video_id, name, status, {kind} as code, reason, run_id, finished_at_us from catalog"
            f" where {' and '.join(where)} order by name, video_id limit {limit + 1}",
            values,
        )
        page = rows[:limit]
        following = cursors.pack("failures", page[-1]["name"], page[-1]["video_id"]) if len(rows) > limit else None
        return {
            "reasons": facts.overview["reasons"],
            "failures": page,
            "total": total["n"],
            "next": following,
        }

    return await site.work(lambda: reply(request, ask()))
