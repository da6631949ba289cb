"""What of an archive is in the log already, found out before Ray is started: often that is everything."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from pipeline.archive import fingerprint
from pipeline.errors import VideoError
from pipeline.listing import Unlisted
from pipeline.video import Source


@dataclass(slots=True)
class Already:
    """`names`: video_id -> uris found at the head of the archive that need no work. `rest`: what comes after them;
    None when nothing does."""

    names: dict[str, list[str]] = field(default_factory=dict)
    rest: Iterable[Source | VideoError] | None = None


def leading_already(
    sources: Iterator[Source | VideoError], known: Collection[str], patience_s: float = 10.0
) -> Already:
    """Fingerprint the archive from its beginning for as long as its videos are `known`, and `patience_s` at most.

    One reading thread, which is left behind where it hangs: whatever is large, slow or new is the flow's.
    """
    found = Already(rest=sources)
    if not known:
        return found
    deadline = time.monotonic() + patience_s
    answers: queue.Queue[str] = queue.Queue(1)
    for source in sources:
        if isinstance(source, Unlisted):
            video_id = ""  # nobody knows what is there
        elif isinstance(source, VideoError):
            video_id = unread_id(source.uri)
        else:
            threading.Thread(target=_identify, args=(source, answers), daemon=True).start()
            try:
                video_id = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                video_id = ""
        if video_id not in known:
            found.rest = chain([source], sources)
            return found
        found.names.setdefault(video_id, []).append(source.uri)
    found.rest = None
    return found


def unread_id(uri: str) -> str:
    """What stands in for the fingerprint of an object that cannot be read: a hash of its name."""
    return hashlib.blake2b(uri.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _identify(source: Source, answers: queue.Queue[str]) -> None:
    try:
        answers.put(fingerprint(source))
    except VideoError:
        answers.put(unread_id(source.uri))
    except Exception:  # noqa: BLE001 - the flow tries again, and tells
        answers.put("")
