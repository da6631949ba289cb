"""What to say to somebody who asks for a kind of event that there is not."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.output import printable
from pipeline.errors import shortened
from pipeline.query import Match, Query

#: So many videos, with so many events, are looked up one by one for their kinds.
MOST_VIDEOS, MOST_EVENTS = 200, 200_000

#: Of more, the column `kind` is read, in so many rows and files at most: it is only a hint.
MOST_ROWS, MOST_FILES = 20_000_000, 500

#: Kinds that are listed at most.
LISTED = 20


def hint(log: str, query: Query, matches: Sequence[Match], asked: Sequence[str] | None) -> None:
    """Says on stderr which of the kinds `asked` for no event of the videos has, and which kinds there are."""
    there = _counted(log, query, matches) if asked else None
    if there is None or not asked:
        return
    import difflib

    by_letters = {kind.casefold(): kind for kind in there}
    for kind in dict.fromkeys(asked):
        if kind in there:
            continue
        near = [by_letters[k] for k in difflib.get_close_matches(shortened(kind).casefold(), by_letters, n=1)]
        meant = f"did you mean {near[0]}? " if near else ""
        listed = ", ".join(sorted(there, key=lambda k: (-there[k], k))[:LISTED]) or "none at all"
        more = f" and {len(there) - LISTED} more" if len(there) > LISTED else ""
        said = f"secondsight: no event here is of kind {shortened(kind)!r}: {meant}the kinds there are: {listed}{more}"
        print(printable(said), file=sys.stderr)


def _counted(log: str, query: Query, matches: Sequence[Match]) -> dict[str, int] | None:
    """Events of each kind: of these videos or, where they are many, of all that their runs watched. None where that
    would take long."""
    if len(matches) <= MOST_VIDEOS and sum(m.entry.events for m in matches) <= MOST_EVENTS:
        there: dict[str, int] = {}
        for match in matches:
            for kind, count in query.kinds(match.entry.video_id, match.entry.run_id).items():
                there[kind] = there.get(kind, 0) + count
        return there
    from pipeline.log import EventLog
    from pipeline.log.sql import select

    snapshot = EventLog.open(log).snapshot()
    files = snapshot.files("events")
    if len(files) > MOST_FILES or sum(file.rows for file in files) > MOST_ROWS:
        return None
    counted = "select kind, count(*) as n from events where list_contains(?, run_id) group by kind"
    runs = sorted({match.entry.run_id for match in matches})
    return {row["kind"]: row["n"] for row in select(snapshot, counted, [runs]).to_pylist()}
