"""What files hold: their fingerprints, which are the ids of videos, remembered until a file changes."""

from __future__ import annotations

import os
import time

from jobs.serve.holding import Holding
from jobs.serve.rooted import Rooted
from pipeline.fingerprint import fingerprint
from pipeline.storage import filesystem, local_path, object_info
from pipeline.video import Source

#: How long a look at an object in a store counts: it takes a request.
LOOK_S = 5.0

#: Files that are remembered.
MOST = 4096


class Contents:
    """Thread-safe."""

    def __init__(self, rooted: Rooted) -> None:
        self._rooted = rooted
        self._found: Holding[str] = Holding(MOST, lambda _: 1)
        self._looks: Holding[tuple[float, int, str]] = Holding(MOST, lambda _: 1)

    def of(self, uri: str) -> str:
        """The fingerprint of a file below a root, or of an object. Raises Problem, VideoError."""
        size, stamp = self._seen(uri)
        return self._found.take((uri, size, stamp), lambda: fingerprint(Source(uri, size)))

    def _seen(self, uri: str) -> tuple[int, str]:
        """Its size, and what changes with it."""
        if local_path(uri) is not None:
            handle = self._rooted.open(uri)
            try:
                seen = os.fstat(handle)
            finally:
                os.close(handle)
            return seen.st_size, f"{seen.st_dev} {seen.st_ino} {seen.st_mtime_ns} {seen.st_ctime_ns}"
        known = self._looks.known(uri)
        if known is None or time.monotonic() - known[0] > LOOK_S:
            info = object_info(uri, *filesystem(uri))
            stamp = next((str(info[key]) for key in ("ETag", "LastModified", "mtime", "created") if info.get(key)), "")
            known = time.monotonic(), int(info.get("size") or 0), stamp
            self._looks.hold(uri, known)
        return known[1], known[2]
