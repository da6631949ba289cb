"""What to say to somebody who asks for a kind of event that there is not."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.output import printable
from pipeline.errors import shortened
from pipeline.query import Match, Query

#: So many videos, with so many events, are looked through for their kinds at most: it is only a hint.
MOST_VIDEOS, MOST_EVENTS = 200, 200_000

#: Kinds that are listed at most.
LISTED = 20


def hint(query: Query, matches: Sequence[Match], asked: Sequence[str] | None) -> None:
    """Says on stderr which of the kinds `asked` for no event of the videos has, and which kinds there are."""
    if not asked or len(matches) > MOST_VIDEOS or sum(m.entry.events for m in matches) > MOST_EVENTS:
        return
    import difflib

    there: dict[str, int] = {}
    for match in matches:
        for kind, count in query.kinds(match.entry.video_id, match.entry.run_id).items():
            there[kind] = there.get(kind, 0) + count
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
