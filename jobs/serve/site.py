"""What the routes share: the log, the threads, the files that may be shown."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request

from jobs.serve import shapes
from jobs.serve.archive import Archive
from jobs.serve.contents import Contents
from jobs.serve.finding import Finding
from jobs.serve.holding import Holding
from jobs.serve.looking import Looking
from jobs.serve.remux import Remuxed
from jobs.serve.rooted import Rooted
from jobs.serve.session import Gate
from jobs.serve.settings import Settings
from jobs.serve.sql_asking import Processes
from jobs.serve.stills import Stills
from jobs.serve.tables import Tables
from jobs.serve.work import Pool
from pipeline.clock import parse_time

T = TypeVar("T")


class Site:
    """Raises LogError where there is no log, UsageError for settings that cannot be meant."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.limits = settings, settings.limits
        self.gate = Gate(settings.token)
        self.archive = Archive(settings.log)
        self.tables = Tables()
        self.finding = Finding(self.archive, settings.model)
        self.looking = Looking(self.archive, settings.watcher)
        self.rooted = Rooted(settings.roots, self.archive.roots)
        self.contents = Contents(self.rooted)
        self.quick = Pool("quick", self.limits.quick_threads, 4 * self.limits.waiting, self.limits.quick_s)
        self.heavy = Pool("heavy", self.limits.heavy_threads, self.limits.waiting, self.limits.heavy_s)
        self.many = Pool("many", self.limits.many_threads, self.limits.waiting, self.limits.heavy_s)
        self.cutter = Pool("cut", self.limits.cut_threads, self.limits.waiting, self.limits.heavy_s)
        self.thinker = Pool("model", self.limits.model_threads, self.limits.waiting, self.limits.heavy_s)
        self._temporary = tempfile.TemporaryDirectory(prefix="secondsight-serve-")
        self.folder = self._temporary.name
        self.encoder = Pool("encode", self.limits.encode_threads, self.limits.encode_waiting, self.limits.heavy_s)
        # Their processes are ended in time; waiting for a turn takes time too.
        self.sql = Pool("sql", self.limits.sql_processes, self.limits.waiting // 4, self.limits.heavy_s)
        self.sql_processes = Processes()
        self.segments: Holding[bytes] = Holding(self.limits.segments_bytes, len)
        self.stills = Stills(self.limits.stills_bytes)
        self.remuxed = Remuxed(self.folder, self.limits.remux_bytes)
        self._videos: dict[str, tuple[int | None, int | None, int | None]] = {}
        self.streams = threading.BoundedSemaphore(self.limits.streams)

    async def ask(self, call: Callable[[], T]) -> T:
        """A lookup."""
        return await self.quick.run(call)

    async def work(self, call: Callable[[], T]) -> T:
        """Something that takes a while."""
        return await self.heavy.run(call)

    async def look_through(self, call: Callable[[], T]) -> T:
        """Lookups of many videos."""
        return await self.many.run(call)

    async def think(self, call: Callable[[], T]) -> T:
        """Something that a model has a part in."""
        return await self.thinker.run(call)

    async def encode(self, call: Callable[[], T]) -> T:
        """Seconds of a video for a player, which stills must not wait for."""
        return await self.encoder.run(call)

    def sizes(self, video_id: str) -> int | None:
        """Bytes of the file that was watched, as the log has it."""
        return self._known(video_id)[0]

    def size(self, video_id: str) -> tuple[int | None, int | None]:
        """Width and height of its picture."""
        return self._known(video_id)[1:]

    def _known(self, video_id: str) -> tuple[int | None, int | None, int | None]:
        if video_id not in self._videos:
            sql = "select size_bytes, width, height from catalog where video_id = ?"
            rows = self.archive.facts().rows(sql, [video_id])
            if not rows:
                return None, None, None
            self._videos[video_id] = (rows[0]["size_bytes"], rows[0]["width"], rows[0]["height"])
        return self._videos[video_id]

    def close(self) -> None:
        self.quick.close()
        self.heavy.close()
        self.many.close()
        self.cutter.close()
        self.thinker.close()
        self.encoder.close()
        self.sql_processes.close()
        self.sql.close()
        self._temporary.cleanup()


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


SiteOf = Annotated[Site, Depends(_site)]

# -- parameters that many routes take

Time = Annotated[
    str,
    Query(
        max_length=40,
        description="seconds (45, 45.5), m:ss or h:mm:ss (1:02:45.5) on the video's own timeline",
        pattern=r"^\s*((\d{1,9}:)?\d{1,9}:)?(\d{1,12}(\.\d{0,18})?|\.\d{1,18})\s*$",
        examples=["45"],
    ),
]
VideoName = Annotated[
    str,
    Query(
        min_length=1,
        max_length=4096,
        description="its path or URI, the end of one (match.mp4), its id or the beginning of one",
    ),
]
VideoPath = Annotated[
    str, Path(min_length=1, max_length=1024, description="the video's id, the beginning of one, or its file name")
]
RunId = Annotated[
    str | None,
    Query(max_length=128, description="answer from this run (id, or the beginning of one), not the newest done one"),
]
KindList = Annotated[list[str] | None, Query(max_length=100, description="only events of this kind; may be repeated")]
Text = Annotated[str | None, Query(max_length=1000, description="only events with this in their text, in any case")]
Cursor = Annotated[str | None, Query(max_length=2000, description="`next` of the page before")]
Rows = Annotated[int, Query(ge=1, le=1000, description="rows of a page")]


def us(text: str) -> int:
    """Microseconds of a time as people write it; no time of a video is longer than 31 years."""
    return min(parse_time(text), 10**15)


def answers(model: Any, *statuses: int, **more: Any) -> dict[str, Any]:
    """What a route's documentation says of its answers: the good one, and errors (these, and those of any route)."""
    said: dict[int | str, dict[str, Any]] = {
        status: {"model": shapes.Error, "description": _MEANS[status]}
        for status in sorted({401, 403, 413, 414, 421, 422, 503, 504, *statuses})
    }
    if model is not None:
        said[200] = {"model": model}
    return {"responses": said, **more}


_MEANS = {
    401: "no valid token",
    403: "asked by another site's page, or a video outside the allowed roots",
    404: "no such video, run or event",
    409: "the file is not the one that was watched",
    410: "the file is gone",
    413: "too large",
    414: "too long",
    416: "a range of bytes that is not there",
    421: "a host name that this server does not have",
    422: "a value that cannot be meant",
    501: "not installed here",
    503: "too busy, or the log or its store cannot be read",
    504: "it took too long",
}
