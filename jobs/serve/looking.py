"""Search by how moments look, over the served log: kept up with the log while it grows."""

from __future__ import annotations

import threading
import time
from typing import Any

from jobs.serve.archive import Archive, as_event
from pipeline.features.kept import feature_files
from pipeline.features.search import Moment, PictureSearch, picture
from pipeline.log.store import open_store

#: How long the index of pictures may lag behind the log.
UPDATE_S = 5.0


class Looking:
    """`model`: the checkpoint that watched; None: the bundled one. Thread-safe."""

    def __init__(self, archive: Archive, model: str | None) -> None:
        self._archive, self._model = archive, model
        self._lock = threading.Lock()
        self._search: PictureSearch | None = None
        self._looked_at, self._any = 0.0, False

    def possible(self) -> bool:
        """Whether the log holds features at all."""
        if not self._any:
            self._any = next(feature_files(open_store(self._archive.uri)), None) is not None
        return self._any

    def index(self) -> PictureSearch:
        """The index, at most a moment behind the log."""
        with self._lock:
            if self._search is None:
                self._search = PictureSearch(self._archive.uri)
            if time.monotonic() - self._looked_at > UPDATE_S or not self._looked_at:
                self._search.update()
                self._looked_at = time.monotonic()
            return self._search

    def image(self, data: bytes, videos: list[str] | None, **only: Any) -> dict[str, Any]:
        from jobs.picturing import embedded

        pixels = picture(data, "the picture")
        search = self.index()
        return self._found(search, *embedded(search, pixels, self._model), videos, **only)

    def like(self, of: str, at_us: int, of_run: str | None, videos: list[str] | None, **only: Any) -> dict[str, Any]:
        """`of_run`: the run whose look at the moment is meant before all others'; None: the one that is asked about."""
        run = only["run"] if of_run is None else None
        name = self._archive.find(of, run).entry.video_id
        search = self.index()
        return self._found(search, *search.like(name, at_us, run, of_run), videos, **only)

    def _found(
        self, search: PictureSearch, vector: Any, made_by: str, videos: list[str] | None, **only: Any
    ) -> dict[str, Any]:
        run = only["run"]
        among = None if videos is None else [self._archive.find(name, run).entry.video_id for name in videos]
        moments = search.find(vector, made_by, video=among, **only)
        return {"moments": [_said(m) for m in moments], "note": search.left_out(made_by) if run is None else ""}


def _said(moment: Moment) -> dict[str, Any]:
    return {
        "video_id": moment.video_id,
        "video": moment.name,
        "run_id": moment.run_id,
        "at_us": moment.at_us,
        "start_us": moment.start_us,
        "end_us": moment.end_us,
        "nearness": round(moment.nearness, 4),
        "events": [as_event(e, moment.name) for e in moment.events],
    }
