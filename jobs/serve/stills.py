"""Small pictures of moments, kept in memory: a person who moves over a timeline asks for the same ones again."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from pipeline.stills import Still, still


class Stills:
    """The ones used longest ago give way. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, int, int], Still] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def known(self, video_id: str, time_us: int, height: int) -> Still | None:
        with self._lock:
            found = self._kept.get((video_id, time_us, height))
            if found is not None:
                self._kept.move_to_end((video_id, time_us, height))
            return found

    def take(self, video_id: str, uri: str, time_us: int, height: int) -> Still:
        """Decode it. Raises UsageError and VideoError as `pipeline.stills.still` does."""
        found = still(uri, time_us, height=height)
        key = (video_id, time_us, height)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._bytes += len(found.jpeg)
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1].jpeg)
        return found
