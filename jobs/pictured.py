"""What the commands that show pictures share: the film behind a video of the log, and an event meant by its id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UsageError, VideoError, shortened
from pipeline.fingerprint import fingerprint
from pipeline.log import EventLog
from pipeline.log.sql import select
from pipeline.query import Match, Query, as_rows
from pipeline.stills import opened
from pipeline.video import Source


def film(match: Match) -> str:
    """A name under which the very content that was watched can be read.

    Raises VideoError: the file is gone, or another content has taken its place.
    """
    problem: VideoError | None = None
    # The name that was asked for first: it is the one that a person expects to read in an error.
    for uri in sorted(match.entry.uris, key=lambda uri: uri != match.name):
        try:
            if fingerprint(Source(uri, opened(uri).size_bytes)) == match.entry.video_id:
                return uri
            raise VideoError(uri, "changed", "it is not the content that the log tells of: run it again, or restore it")
        except VideoError as error:
            problem = problem or error
    raise problem or UsageError(f"{match.name}: the log names no file of it")


def events_of(query: Query, match: Match) -> list[dict[str, Any]]:
    """All events of a video in its run, in order of start."""
    from pipeline.log.lookup import Filter

    if not match.entry.events:
        return []
    return as_rows(query.overlapping(match, -(2**62), 2**62, Filter()))


def find_event(log: str, query: Query, what: str, video: str | None, run: str | None) -> tuple[Match, dict[str, Any]]:
    """The event meant by an id (or the beginning of one), or, with a video named, by its kind or text.

    Raises UsageError: none, or more than one.
    """
    if video is not None:
        event = query.anchor(video, what, run).event
        return query.find(video, event["run_id"]), event
    if len(what) < 4 or any(c not in "0123456789abcdef" for c in what):
        raise UsageError(
            f"{shortened(what)!r} is not the id of an event; `secondsight query LOG --event-ids` shows them"
        )
    rows = select(
        EventLog.open(log).snapshot(),
        "select * from events where starts_with(event_id, ?) order by event_id limit 3",
        [what],
    ).to_pylist()
    if not rows:
        raise UsageError(f"no event {shortened(what)!r} in {log}; `secondsight query LOG --event-ids` shows their ids")
    if len(rows) > 1:
        raise UsageError(f"{what!r} begins the ids of several events: {', '.join(r['event_id'] for r in rows)} ...")
    return query.find(rows[0]["video_id"], rows[0]["run_id"]), rows[0]


def stem(match: Match) -> str:
    """The last part of a video's name without its suffix, for the name of a file."""
    name = (match.entry.uris[0] if match.entry.uris else match.entry.video_id).rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0].replace("\0", "") or "video"


def save(path: Path, content: bytes, force: bool) -> None:
    """Writes a file that is not there yet. Raises UsageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb" if force else "xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already; name another file, or add --force to replace it") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
