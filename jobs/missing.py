"""What is left to do: said before a run begins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from pipeline.errors import VideoError
from pipeline.video import Source

if TYPE_CHECKING:
    from pipeline.log import EventLog

LOOK_NAMES, LOOK_S = 20_000, 5.0  # how far the archive is looked through before the work begins
KNOWN_VIDEOS = 200_000  # names of more videos are not fetched only to count


@dataclass(frozen=True, slots=True)
class Missing:
    """By name and size, the look that costs nothing: the run itself goes by content. `more`: the archive goes on."""

    names: int
    size_bytes: int
    more: bool
    to_do: int
    to_do_bytes: int

    def line(self, begun: int) -> str:
        """`begun`: videos of which an earlier run has left windows."""
        plus = "+" if self.more else ""
        parts = [f"{self.names:,}{plus} videos found ({_size(self.size_bytes)}{plus})"]
        parts += [f"{self.names - self.to_do:,} done before"] if self.to_do < self.names else []
        parts += [f"{self.to_do:,}{plus} to watch ({_size(self.to_do_bytes)}{plus})"]
        parts += [f"{begun:,} of them begun before, their windows are kept"] if begun else []
        return ", ".join(parts)


def look_ahead(
    sources: Iterator[Source | VideoError], known: Mapping[str, int]
) -> tuple[Missing, Iterator[Source | VideoError]]:
    """Look through an archive, `LOOK_NAMES` names or `LOOK_S` at most; returns also the sources as they were.

    `known`: uri -> bytes of what is done.
    """
    seen: list[Source | VideoError] = []
    deadline, more = time.monotonic() + LOOK_S, False
    size = to_do = to_do_bytes = 0
    for source in sources:
        seen.append(source)
        if isinstance(source, Source):
            size += source.size_bytes
            if known.get(source.uri) != source.size_bytes:
                to_do, to_do_bytes = to_do + 1, to_do_bytes + source.size_bytes
        else:
            to_do += 1
        if len(seen) >= LOOK_NAMES or time.monotonic() > deadline:
            more = True
            break
    return Missing(len(seen), size, more, to_do, to_do_bytes), chain(seen, sources)


def done_names(log: EventLog, config_hash: str, skip: Mapping[str, str]) -> dict[str, int]:
    """uri -> bytes of the videos in the log that need no work."""
    if not skip or len(skip) > KNOWN_VIDEOS:
        return {}
    from pipeline.log.sql import select

    rows = select(log.snapshot(), "select video_id, uris, size_bytes from videos where config_hash = $1", [config_hash])
    return {uri: r["size_bytes"] for r in rows.to_pylist() if r["video_id"] in skip for uri in r["uris"]}


def not_done(log: EventLog, committed: Mapping[str, str]) -> tuple[int, int]:
    """Of what is committed under a configuration: how many videos failed (or were quarantined), and how many of those
    are not there any more, their files having been replaced since."""
    failed = [video_id for video_id, status in committed.items() if status != "done"]
    if not failed:
        return 0, 0
    from pipeline.log.replaced import REPLACED
    from pipeline.log.sql import select

    gone = select(log.snapshot(), f"with {REPLACED} from replaced")["video_id"].to_pylist()
    return len(failed), len(set(failed).intersection(gone))


def forget_done(committed: Mapping[str, str]) -> Iterable[str]:
    """Videos that are done: what an earlier driver kept of them is not needed any more. What is kept of the others is
    what a retry need not watch again."""
    return [video_id for video_id, status in committed.items() if status == "done"]


def _size(size: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:,.1f} {unit}"
        size = size / 1000  # type: ignore[assignment]
    raise AssertionError
