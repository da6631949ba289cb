"""Small pictures of moments, kept in memory: a person who moves over a timeline asks for the same ones again."""

from __future__ import annotations

from jobs.serve.holding import Holding
from pipeline.stills import Still, still


class Stills:
    """Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._held: Holding[Still] = Holding(most_bytes, lambda found: len(found.jpeg))

    def known(self, video_id: str, time_us: int, height: int) -> Still | None:
        return self._held.known((video_id, time_us, height))

    def take(self, video_id: str, uri: str, time_us: int, height: int) -> Still:
        """Decode it. Raises UsageError and VideoError as `pipeline.stills.still` does."""
        return self._held.take((video_id, time_us, height), lambda: still(uri, time_us, height=height))
