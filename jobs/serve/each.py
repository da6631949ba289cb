"""Questions to several videos, or to all: one after the other, as far as a page and its time go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Query
from pydantic import StringConstraints

from jobs.serve import cursor as cursors
from jobs.serve.archive import as_event
from jobs.serve.reply import Problem
from jobs.serve.site import Site
from pipeline.errors import UsageError
from pipeline.query import Match, as_rows

T = TypeVar("T")

VIDEO = "its path or URI, the end of one (match.mp4), its id or the beginning of one"
Videos = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]] | None,
    Query(
        max_length=100,
        description=f"{VIDEO}; may be repeated; without it: every video. Of several, those that end before are left"
        " out. A page over many may be short, or empty, and have a `next`: it went as far as its time allowed",
    ),
]

#: In a cursor, in place of how many events of a video were given: all of them.
DONE = -1


@dataclass(frozen=True, slots=True)
class Asked:
    """The videos that a question is put to, those of them that a page begins with, and where in the first of these:
    `skip` of its events from `begin_us` on were on pages before. `one`: the only video that was asked about."""

    matches: Sequence[Match]
    one: Match | None
    begin_us: int | None = None
    skip: int = 0


def asked(
    site: Site,
    videos: list[str] | None,
    run: str | None,
    what: str,
    cursor: str | None,
    within: Callable[[list[Match]], list[Match]] | None = None,
) -> Asked:
    """Whom a page asks. `what`: the list that a cursor must be of; `within`: which of several videos are meant.

    Raises Problem 404 for an unknown video or run, 422 for a cursor of another list.
    """
    matches = _matches(site, videos, run)
    one = matches[0] if len(matches) == 1 and videos is not None else None
    if one is None and within is not None:
        matches = within(matches)
    if cursor is None:
        return Asked(matches, one)
    video_id, begin_us, skip, run_id = cursors.unpack(cursor, what, str, int, int, str)
    place = next((i for i, m in enumerate(matches) if m.entry.video_id == video_id), None)
    if place is None:
        raise Problem(422, "bad_cursor", "this cursor is of another video: begin without one")
    if skip < 0:
        return Asked(matches[place + 1 :], one)
    goes_on = Match(matches[place].name, site.archive.find(video_id, run_id).entry)  # also where a newer run is done
    return Asked([goes_on, *matches[place + 1 :]], one, begin_us, skip)


def _matches(site: Site, videos: list[str] | None, run: str | None) -> list[Match]:
    """The videos meant, each once: named ones in the order given, all of them in the order of their names."""
    if videos is not None:
        return list({m.entry.video_id: m for m in (site.archive.find(name, run) for name in videos)}.values())
    run_id = None if run is None else site.archive.run(run)["run_id"]
    try:
        return site.archive.query.matches(None, run_id)
    except UsageError as error:
        raise Problem(404, "unknown_run", str(error)) from error


def answered(
    site: Site, asked: Asked, ask: Callable[[Match], T], is_enough: Callable[[T], bool], what: str
) -> tuple[list[tuple[Match, T]], str | None, int]:
    """(what the videos answer, the cursor that goes on behind the last of them, how many are left), until there is
    enough or the time of a page is over."""
    found: list[tuple[Match, T]] = []
    for match, answer in site.archive.query.each(asked.matches, ask, site.limits.many_s):
        found.append((match, answer))
        if is_enough(answer):
            break
    left = len(asked.matches) - len(found)
    return found, pack(what, found[-1][0], 0, DONE) if left else None, left


def pack(what: str, match: Match, begin_us: int, given: int) -> str:
    return cursors.pack(what, match.entry.video_id, begin_us, given, match.entry.run_id)


def events(
    site: Site, asked: Asked, ask: Callable[[Match, bool], Iterable[Any]], limit: int, what: str, *, by_start: bool
) -> dict[str, Any]:
    """A page of events. `ask`: a video's, as arro3 batches; whether it goes on with them (from `asked.begin_us` on).

    `by_start`: its cursors say where in a video they go on; else a video's events are few, and all are asked for again.
    """
    first = asked.matches[0] if asked.begin_us is not None else None
    total = 0

    def rows(match: Match) -> list[dict[str, Any]]:
        most, taken = limit + 1 + (asked.skip if match is first else 0), list[dict[str, Any]]()
        for batch in ask(match, match is first):
            if most > len(taken):
                taken += as_rows([batch.slice(0, min(most - len(taken), batch.num_rows))])
        return taken[asked.skip if match is first else 0 :]

    def is_enough(found: list[dict[str, Any]]) -> bool:
        nonlocal total
        total += len(found)
        return total > limit

    found, following, left = answered(site, asked, rows, is_enough, what)
    page = [(match, row) for match, some in found for row in some]
    if len(page) > limit:
        page = page[:limit]
        match, last = page[-1]
        begin_us = last["start_us"] if by_start else 0
        given = sum(m is match and (not by_start or row["start_us"] == begin_us) for m, row in page)
        if match is first and (not by_start or begin_us == asked.begin_us):
            given += asked.skip
        following = pack(what, match, begin_us, given)
        left = len(asked.matches) - next(i for i, m in enumerate(asked.matches) if m is match)
    return said(asked.one, page, following, left)


def said(
    one: Match | None, page: Sequence[tuple[Match, dict[str, Any]]], following: str | None = None, left: int = 0
) -> dict[str, Any]:
    """`one`: the only video that was asked about; of several, only the events name theirs."""
    return {
        "video": None if one is None else one.name,
        "video_id": None if one is None else one.entry.video_id,
        "run_id": None if one is None else one.entry.run_id,
        "events": [as_event(row, match.name) for match, row in page],
        "next": following,
        "videos_left": left,
    }


def threads(site: Site, videos: list[str] | None) -> Callable[[Callable[[], Any]], Any]:
    """One video is looked up in milliseconds; many take a while, in threads of their own."""
    return site.ask if videos is not None and len(videos) == 1 else site.look_through
