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

    def image(self, data: bytes, video: str | None, **only: Any) -> dict[str, Any]:
        from jobs.picturing import embedded

        pixels = picture(data, "the picture")
        search = self.index()
        return self._found(search, *embedded(search, pixels, self._model), video=video, **only)

    def like(self, of: str, at_us: int, video: str | None, **only: Any) -> dict[str, Any]:
        name = self._archive.find(of, only["run"]).entry.video_id
        search = self.index()
        return self._found(search, *search.like(name, at_us, only["run"]), video=video, **only)

    def _found(self, search: PictureSearch, vector: Any, made_by: str, **only: Any) -> dict[str, Any]:
        if only["video"] is not None:
            only["video"] = self._archive.find(only["video"], only["run"]).entry.video_id
        return {"moments": [_said(m) for m in search.find(vector, made_by, **only)]}


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
