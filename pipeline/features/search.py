"""Search by picture: the moments of a log whose frames look most like one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import LogError, UsageError
from pipeline.features.index import FeatureIndex, Floats, Part, log_identity, nearness
from pipeline.log.lookup import Filter
from pipeline.log.snapshot import Snapshot
from pipeline.log.store import Store, open_store
from pipeline.plan import SECOND_US, Sampling
from pipeline.query import Match, Query, as_rows
from pipeline.query.reading import check_inside
from pipeline.search.place import locked, place_of

#: Moments that can be had at most.
MAX_MOMENTS = 1000

#: Moments of one video nearer to each other than this are one, as long as they look nearly as alike as its best.
JOIN_US = 2 * SECOND_US
JOIN_NEARNESS = 0.1

#: Vectors looked at for each moment wanted, at first: a still camera has thousands alike.
LOOK_AT = 64

#: Largest picture that is decoded.
MOST_BYTES, MOST_PIXELS = 32 << 20, 100_000_000
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))  # read by OpenCV when it is first imported


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of a video that looks like a picture. `at_us`: the frames most like it; `[start_us, end_us)`: around
    them, what looks nearly as alike; `nearness`: cosine, 1.0 for the same. `events`: what is on at `at_us`, as rows."""

    video_id: str
    run_id: str
    name: str
    at_us: int
    start_us: int
    end_us: int
    nearness: float
    events: list[dict[str, Any]]


class PictureSearch:
    """Moments of a log by how they look. Thread-safe, and safe beside other processes on the same log."""

    def __init__(self, log: str, index: str | Path | None = None) -> None:
        """Raises LogError where there is no log."""
        self._store: Store = open_store(log)
        self._query = Query(log)
        self.folder = place_of(self._store, index)
        self._index = FeatureIndex(self.folder)

    def update(self, progress: Callable[[str], None] = lambda _: None, rebuild: bool = False) -> int:
        """Take in the features that came since (`rebuild`: all, anew); returns how many. Raises LogError."""
        with locked(self.folder):
            if rebuild:
                self._index.clear()
            count = self._index.take_in(self._store, log_identity(self._store), progress)
        self._query.refresh()
        return count

    def makers(self) -> dict[str, int]:
        """How many vectors each `made_by` left, the most first. Raises UsageError where the log has none."""
        makers = self._index.makers()
        if not makers and (damaged := self._index.damaged()):
            raise UsageError(
                f"{self._store.uri}: the {damaged} files of its vision features are damaged; what was watched since"
                " they were written, or is watched again, can be searched by picture; or search by words"
            )
        if not makers:
            raise UsageError(
                f"{self._store.uri} holds no vision features to compare a picture with: who watched gives none (signal"
                " analysers, served models), or was told to leave them out (--set features=false). `secondsight run"
                " --model bundled`, or with a Qwen3-VL checkpoint, keeps them; or search by words"
            )
        return dict(sorted(makers.items(), key=lambda one: -one[1]))

    def watchers(self) -> dict[str, str]:
        """The name of the model behind each `made_by`, as its newest run has it, in the order of `makers`."""
        rows = Snapshot(self._store).table("runs", ["weights_hash", "model", "started_at_us"]).to_pylist()
        names = {row["weights_hash"]: row["model"] for row in sorted(rows, key=lambda row: row["started_at_us"])}
        return {made_by: str(names.get(made_by.partition(":")[0], "a run that is gone")) for made_by in self.makers()}

    def left_out(self, made_by: str) -> str:
        """Says what of the log is not compared with a vector of `made_by`; "" where all of it is."""
        makers = self.makers()
        others = {m: name for m, name in self.watchers().items() if m != made_by} if len(makers) > 1 else {}
        if not others:
            return ""
        listed = ", ".join(f"{name} ({m[:12]} ...)" for m, name in others.items())
        return (
            f"not compared: {sum(makers[m] for m in others)} of {sum(makers.values())} moments, which other weights"
            f" watched: {listed}"
        )

    def sampling(self, made_by: str) -> Sampling:
        """How large the model behind features saw the frames. Raises UsageError: no run of it; LogError."""
        weights_hash = made_by.partition(":")[0]
        rows = Snapshot(self._store).table("runs", ["weights_hash", "config", "started_at_us"]).to_pylist()
        runs = sorted((r for r in rows if r["weights_hash"] == weights_hash), key=lambda r: r["started_at_us"])
        if not runs:
            raise UsageError(f"no run in {self._store.uri} was watched by what made its features ({made_by[:16]} ...)")
        try:
            said = json.loads(runs[-1]["config"])["sampling"]
            return Sampling(short_side=said["short_side"], max_pixels=said["max_pixels"], multiple=said["multiple"])
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(f"{self._store.uri}: the configuration of its run cannot be read: {error}") from error

    def find(
        self,
        vector: Floats,
        made_by: str,
        *,
        limit: int = 20,
        video: str | Sequence[str] | None = None,
        run: str | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        kinds: Collection[str] | None = None,
    ) -> list[Moment]:
        """The moments most like `vector` float32 [D], which `made_by` made, the most alike first.

        `video`: only of this one, or of these; `run`: as this run saw it (its id, or the beginning of one) instead of
        each video's newest run that has features; `start_us`, `end_us`: only of that span of its video; `kinds`: only
        where an event of these kinds is on. Raises UsageError: no features of that maker, unknown video or run.
        """
        if not 1 <= limit <= MAX_MOMENTS:
            raise UsageError(f"{limit} moments: ask for one at least, and for {MAX_MOMENTS} at most")
        if made_by not in self.makers():
            raise UsageError(
                f"the features of {self._store.uri} were made by other weights: name the checkpoint that watched"
            )
        parts, mean = self._index.parts(made_by), self._index.mean(made_by)
        if vector.shape != mean.shape or not np.isfinite(vector).all():
            raise UsageError(f"a vector of {vector.shape} is none of this model's, {mean.shape}")
        wanted = None if video is None else {m.entry.video_id for m in self._query.matches(video, run)}
        owners = _Owners(self._query, parts, wanted, run)
        near = [_only(nearness(part, mean, vector), part, start_us, end_us) for part in parts]
        return self._moments(near, parts, owners, limit, kinds)

    def like(self, video: str, at_us: int, run: str | None = None, prefer: str | None = None) -> tuple[Floats, str]:
        """The vector that the log holds of a moment of a video, and what made it.

        Of `run` (its id, or the beginning of one), else of the newest done run that left one then, before all others of
        the run `prefer` (its id). Raises UsageError: no such video or run, a time beyond the end, no vector.
        """
        match = self._query.find(video, run)
        check_inside(match, at_us)
        parts = [(made_by, part) for made_by in self.makers() for part in self._index.parts(made_by)]
        entries = [match.entry]
        if run is None:
            done = [e for e in self._query.runs_of(match.entry.video_id) if e.status == "done"]
            entries = sorted(done[::-1] or entries, key=lambda entry: entry.run_id != prefer)
        seen = False
        for entry in entries:
            owner = (entry.video_id, entry.run_id)
            for made_by, part in parts:
                if owner not in part.owners:
                    continue
                seen = True
                rows = np.flatnonzero(part.owner == part.owners.index(owner))
                there = rows[(part.span_us[rows, 0] <= at_us) & (at_us < part.span_us[rows, 1])]
                if len(there):
                    return part.vectors[there[-1]].astype(np.float32), made_by
        of_run = "" if run is None else f" by run {match.entry.run_id}"
        raise UsageError(f"{match.name}: the log holds no features of this {'moment' if seen else 'video'}{of_run}")

    def _moments(
        self, near: list[Floats], parts: list[Part], owners: _Owners, limit: int, kinds: Collection[str] | None
    ) -> list[Moment]:
        scores = np.concatenate(near)
        part_of = np.repeat(np.arange(len(parts)), [len(n) for n in near])
        row_of = np.concatenate([np.arange(len(n)) for n in near])
        look_at = LOOK_AT * limit
        while True:
            best = _best(scores, look_at)
            found = self._joined(scores, part_of, row_of, best, parts, owners, limit, kinds)
            if len(found) >= limit or len(best) < look_at:
                return found[:limit]
            look_at *= 8

    def _joined(
        self,
        scores: Floats,
        part_of: npt.NDArray[np.int64],
        row_of: npt.NDArray[np.int64],
        best: npt.NDArray[np.int64],
        parts: list[Part],
        owners: _Owners,
        limit: int,
        kinds: Collection[str] | None,
    ) -> list[Moment]:
        """Moments of the best rows. A row beside a better one of its video is part of that moment."""
        stretches: dict[tuple[str, str], list[list[int]]] = {}  # [start, end, number of its moment]
        found: list[tuple[Match, int, float, list[int]]] = []
        for i in best:
            part = parts[part_of[i]]
            owner = part.owners[part.owner[row_of[i]]]
            if len(found) >= limit and owner not in stretches:
                continue
            match = owners.match(owner)
            if match is None:
                continue
            start, end = (int(t) for t in part.span_us[row_of[i]])
            beside = next(
                (s for s in stretches.get(owner, ()) if start < s[1] + JOIN_US and s[0] - JOIN_US < end), None
            )
            if beside is not None:
                if scores[i] >= found[beside[2]][2] - JOIN_NEARNESS:
                    beside[0], beside[1] = min(beside[0], start), max(beside[1], end)
                continue
            if len(found) >= limit:
                continue
            stretch = [start, end, len(found)]
            stretches.setdefault(owner, []).append(stretch)
            found.append((match, start, float(scores[i]), stretch))
        moments = [self._moment(match, at_us, near, stretch) for match, at_us, near, stretch in found]
        return [m for m in moments if kinds is None or any(e["kind"] in kinds for e in m.events)]

    def _moment(self, match: Match, at_us: int, near: float, stretch: list[int]) -> Moment:
        events = as_rows(self._query.overlapping(match, at_us, at_us + SECOND_US, Filter()))
        entry = match.entry
        end_us = stretch[1] if entry.duration_us is None else min(stretch[1], max(entry.duration_us, stretch[0] + 1))
        return Moment(entry.video_id, entry.run_id, match.name, at_us, stretch[0], end_us, near, events)


class _Owners:
    """Which videos and runs may answer: of each video its newest run that has features, or the one asked for."""

    def __init__(self, query: Query, parts: list[Part], videos: set[str] | None, run: str | None) -> None:
        self._query, self._videos, self._run = query, videos, run
        self._have = {owner for part in parts for owner in part.owners}
        self._known: dict[tuple[str, str], Match | None] = {}

    def match(self, owner: tuple[str, str]) -> Match | None:
        if owner not in self._known:
            self._learn(owner[0])
        return self._known.setdefault(owner, None)

    def _learn(self, video_id: str) -> None:
        if self._videos is not None and video_id not in self._videos:
            return
        entries = [e for e in self._query.runs_of(video_id) if (video_id, e.run_id) in self._have]
        if self._run is not None:
            entries = [e for e in entries if e.run_id.startswith(self._run)]
        done = [e for e in entries if e.status == "done"]
        if done:
            entry = done[-1]
            name = entry.uris[0] if entry.uris else video_id
            self._known[video_id, entry.run_id] = Match(name, entry)


def _only(near: Floats, part: Part, start_us: int | None, end_us: int | None) -> Floats:
    if start_us is not None:
        near = np.where(part.span_us[:, 1] > start_us, near, -np.inf)
    if end_us is not None:
        near = np.where(part.span_us[:, 0] < end_us, near, -np.inf)
    return near


def _best(scores: Floats, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` highest scores, the highest first; of equal ones the first."""
    if count < len(scores):
        chosen = np.argpartition(-scores, count)[:count]
        chosen.sort()
    else:
        chosen = np.arange(len(scores))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    return chosen[np.isfinite(scores[chosen])]


def picture(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    """A picture file (JPEG, PNG, WebP and others that OpenCV reads) as uint8 [H, W, 3] RGB, upright.

    Raises UsageError for anything else, and for one that is far too large.
    """
    import cv2

    if len(data) > MOST_BYTES:
        raise UsageError(f"{name}: a picture of more than {MOST_BYTES >> 20} MiB: make it smaller")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        raise UsageError(f"{name}: a picture of more than {MOST_PIXELS:,} pixels, or a damaged one") from None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise UsageError(f"{name}: no picture that can be read: give a JPEG, PNG or WebP file")
    return np.ascontiguousarray(pixels[..., ::-1])


def read_picture(path: str) -> npt.NDArray[np.uint8]:
    """The picture in a local file. Raises UsageError."""
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise UsageError(f"{path}: a picture of more than {MOST_BYTES >> 20} MiB: make it smaller")
        with open(path, "rb") as file:
            return picture(file.read(MOST_BYTES + 1), path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
