"""From names to videos: every name of the archive is identified, and every content is taken up once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipeline.errors import SecondsightError, VideoError
from pipeline.listing import Unlisted
from pipeline.video import Source, Video
from workers.already import unread_id
from workers.identify import Listing, Stage
from workers.report import Progress
from workers.watchdog import Suspect

AHEAD = 256  # videos that are being identified
MAX_NAMED = 5  # folders that the error of a run names

logger = logging.getLogger(__name__)


class Intake:
    """`skip`: video_id -> status of what needs no work.

    `on_video(video)`: a content to watch; `on_failed(video_id, uris, size_bytes, error)`: one that cannot be opened;
    `on_name(video_id, uri)`: a further name of one that the log has, or will have without it.
    """

    def __init__(
        self,
        sources: Iterable[Source | VideoError],
        fingerprints: Stage,
        probes: Stage,
        skip: Mapping[str, str],
        progress: Progress,
        *,
        on_video: Callable[[Video], None],
        on_failed: Callable[[str, list[str], int, VideoError], None],
        on_name: Callable[[str, str], None],
    ) -> None:
        self._listing = Listing(sources)
        self._fingerprints, self._probes = fingerprints, probes
        self._skip, self._progress = skip, progress
        self._on_video, self._on_failed, self._on_name = on_video, on_failed, on_name
        self._names: dict[str, list[str]] = {}  # of videos that are being worked on
        self._seen: set[bytes] = set()  # video_ids of this run, in half the memory
        self._unlisted: list[Unlisted] = []

    @property
    def ended(self) -> bool:
        """Whether every name has been dealt with."""
        return self._listing.ended and not len(self._fingerprints) and not len(self._probes)

    @property
    def listed(self) -> bool:
        return self._listing.ended

    @property
    def found(self) -> int:
        return self._listing.found

    @property
    def retries(self) -> int:
        return self._fingerprints.retries + self._probes.retries

    def stages(self) -> Mapping[str, Stage]:
        return {"fingerprint": self._fingerprints, "probe": self._probes}

    def suspects(self) -> Iterator[Suspect]:
        """What is in progress; tasks that hang are ended by their stage."""
        if (since := self._listing.waiting_since()) is not None:
            yield Suspect("identify", "the archive", "its listing", since)
        for name, stage in self.stages().items():
            for first, count, began in stage.in_progress():
                yield Suspect("identify", first, f"{name} of {count}" if count > 1 else name, began, slow_s=0.0)

    def refs(self) -> list[Any]:
        return [*self._fingerprints.running, *self._probes.running]

    def pump(self, wanted: bool) -> None:
        """Take names from the listing while videos are `wanted`, and keep the identifying tasks going."""
        if wanted:
            room = AHEAD - len(self._fingerprints) - len(self._probes)
            for entry in self._listing.take(max(0, room)):
                if isinstance(entry, Unlisted):
                    logger.warning("%s: cannot be listed, the run does what it finds: %s", entry.uri, entry.detail)
                    self._unlisted.append(entry)
                elif isinstance(entry, VideoError):
                    self._unidentified(entry.uri, 0, entry)
                else:
                    self._fingerprints.waiting.append(entry)
        self._fingerprints.pump()
        self._probes.pump()

    def collect(self, ref: Any) -> bool:
        """Take in a task that has ended; False where it is none of ours."""
        if ref in self._fingerprints.running:
            for source, result in self._fingerprints.collect(ref):
                self._fingerprinted(source, result)
        elif ref in self._probes.running:
            for (source, video_id), result in self._probes.collect(ref):
                if isinstance(result, VideoError):
                    self._on_failed(video_id, self.names_of(video_id), source.size_bytes, result)
                else:
                    self._on_video(result)
        else:
            return False
        return True

    def names_of(self, video_id: str) -> list[str]:
        """The names of a video that is finished: those found from now on are further names."""
        return self._names.pop(video_id)

    def known(self, video_id: str, uri: str) -> None:
        """A name of a video that the log has, or will have without this name."""
        self._progress.names += 1
        if self._is_new(video_id):
            self._progress.already += 1
        else:
            self._progress.duplicates += 1
        self._on_name(video_id, uri)

    def check(self) -> None:
        """Raises SecondsightError where a part of the archive could not be listed: nobody knows what is missing."""
        if not self._unlisted:
            return
        named = "; ".join(f"{error.uri}: {error.detail}" for error in self._unlisted[:MAX_NAMED])
        more = f"; and {more} more" if (more := len(self._unlisted) - MAX_NAMED) > 0 else ""
        raise SecondsightError(
            f"not the whole archive could be listed: {named}{more}. What was found is in the log, and the same command"
            " goes on from there; --exclude leaves a folder out"
        )

    def close(self) -> None:
        self._listing.close()

    def _fingerprinted(self, source: Source, result: str | VideoError) -> None:
        if isinstance(result, VideoError):
            self._unidentified(source.uri, source.size_bytes, result)
        elif result in self._names:
            self._progress.names += 1
            self._progress.duplicates += 1
            self._names[result].append(source.uri)
        elif bytes.fromhex(result) in self._seen or result in self._skip:
            self.known(result, source.uri)
        else:
            self._progress.names += 1
            self._is_new(result)
            self._names[result] = [source.uri]
            self._probes.waiting.append((source, result))

    def _unidentified(self, uri: str, size_bytes: int, error: VideoError) -> None:
        """Not even a fingerprint: the name stands in for the content."""
        self._progress.names += 1
        video_id = unread_id(uri)
        if not self._is_new(video_id):
            return
        if video_id in self._skip:
            self._progress.already += 1
        else:
            self._on_failed(video_id, [uri], size_bytes, error)

    def _is_new(self, video_id: str) -> bool:
        """Whether it was not seen before in this run; it has been from now on."""
        key = bytes.fromhex(video_id)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True
