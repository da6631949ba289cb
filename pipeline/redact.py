"""Hiding what must not be seen, before any model, server or file gets a picture.

What a detector finds is filled with the one colour that it has on average: nothing of it can be had back. A detector
misses things now and then, so that what it found in one frame is hidden in its neighbours in time too, and between two
frames that show it on all of its way.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.detectors import FACE_MODEL, Box, detector
from pipeline.errors import LogError, UsageError
from pipeline.frames import Frames
from pipeline.plan import SECOND_US

Picture = npt.NDArray[np.uint8]

HOLD_US = SECOND_US  # before and after a frame in which it was found
_KEPT = 512  # frames whose boxes are remembered: windows overlap
_TRAIL = 12  # pictures of a clip that a find outlasts
#: Raised whenever pictures come out differently for the same detectors.
VERSION = 1


class Redactor:
    """Hides what the detectors named by `what` find ("text", "codes", "faces", "faces=PATH"). Thread-safe.

    Raises UsageError: an unknown name, or a detector whose weights are missing.
    """

    def __init__(self, what: Sequence[str]) -> None:
        self._detectors = [detector(spec) for spec in what]
        self._lock = Lock()
        found = sorted((d.identity() for d in self._detectors), key=lambda identity: str(identity["what"]))
        #: What makes its pictures its own, for the configuration of a run.
        self.identity: dict[str, Any] = {"version": VERSION, "hold_us": HOLD_US, "detectors": found}

    def boxes(self, picture: Picture) -> list[Box]:
        """What is to be hidden in a picture, uint8 [H, W, 3] RGB."""
        with self._lock:
            return [box for find in self._detectors for box in find(picture)]

    def picture(self, picture: Picture) -> Picture:
        """A copy of the picture without it."""
        return covered(picture, self.boxes(picture))

    def trail(self) -> Callable[[Picture], Picture]:
        """For pictures that follow each other: hides a find in the next pictures too."""
        recent: deque[list[Box]] = deque(maxlen=_TRAIL)

        def edit(picture: Picture) -> Picture:
            recent.append(self.boxes(picture))
            return covered(picture, [box for boxes in recent for box in boxes])

        return edit


class FrameRedactor:
    """Redacts the frames of one video, window by window. What is hidden depends on the frames of the window alone."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._known: OrderedDict[int, list[Box]] = OrderedDict()

    def __call__(self, frames: Frames) -> Frames:
        if not len(frames):
            return frames
        times = frames.time_us.tolist()
        found = [self._boxes(t, p) for t, p in zip(times, frames.pixels, strict=True)]
        hidden = held(found, times)
        pixels = np.stack([covered(p, boxes) for p, boxes in zip(frames.pixels, hidden, strict=True)])
        return replace(frames, pixels=pixels)

    def _boxes(self, time_us: int, picture: Picture) -> list[Box]:
        if time_us not in self._known:
            self._known[time_us] = self._redactor.boxes(picture)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[time_us]


def held(found: Sequence[list[Box]], times_us: Sequence[int]) -> list[list[Box]]:
    """The boxes to hide in each frame: its own, those of frames up to `HOLD_US` away, and where two such frames around
    it show a thing in two places, all of the way between."""
    hidden = []
    for i, t in enumerate(times_us):
        near = [j for j in range(len(times_us)) if abs(times_us[j] - t) <= HOLD_US]
        boxes = [box for j in near for box in found[j]]
        before = next((found[j] for j in reversed(near) if j < i and found[j]), [])
        after = next((found[j] for j in near if j > i and found[j]), [])
        boxes += [_around(a, b) for a in before for b in after if _same(a, b)]
        hidden.append(list(dict.fromkeys(boxes)))
    return hidden


def _same(a: Box, b: Box) -> bool:
    """Whether two boxes may be one thing that moved: alike in size, and not farther apart than twice their size."""
    size_a, size_b = (a[2] - a[0], a[3] - a[1]), (b[2] - b[0], b[3] - b[1])
    alike = all(0.5 <= p / max(1, q) <= 2 for p, q in zip(size_a, size_b, strict=True))
    return alike and all(
        abs((a[i] + a[i + 2]) - (b[i] + b[i + 2])) / 2 <= 2 * max(size_a[i], size_b[i]) for i in (0, 1)
    )


def _around(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def covered(picture: Picture, boxes: Sequence[Box]) -> Picture:
    """A copy of the picture with each box filled with its average colour."""
    result = picture.copy()
    high, wide = picture.shape[:2]
    for left, top, right, bottom in boxes:
        rows = slice(max(0, top), max(0, min(high, bottom)))
        columns = slice(max(0, left), max(0, min(wide, right)))
        inside = picture[rows, columns]
        if inside.size:
            result[rows, columns] = np.round(inside.mean(axis=(0, 1))).astype(np.uint8)
    return result


@lru_cache(maxsize=4)
def redactor(what: tuple[str, ...]) -> Redactor:
    """One per process: loading a detector takes a second. Raises UsageError."""
    return Redactor(what)


def parse(text: str) -> tuple[str, ...]:
    """The names in "faces,text,...", each once. Raises UsageError for none."""
    what = tuple(sorted({part.strip() for part in text.split(",") if part.strip()}))
    if not what:
        raise UsageError("--redact: say what to hide: faces, text, codes")
    return what


@lru_cache(maxsize=4096)
def hidden_by(log: str, run_id: str) -> tuple[dict[str, Any], ...]:
    """The detectors (`identity`) by which a run hid things from its model; none where it hid nothing.

    Raises LogError where the log has no such run: then nobody knows.
    """
    from pipeline.log import EventLog

    runs = EventLog.open(log).snapshot().table("runs", ["run_id", "config"]).to_pylist()
    configs = [json.loads(row["config"] or "{}") for row in runs if row["run_id"] == run_id]
    if not configs:
        raise LogError(f"{log}: no row tells what run {run_id} was to hide; `secondsight log {log} --check`")
    return tuple((configs[0].get("sampling", {}).get("redact") or {}).get("detectors", ()))


def editor(log: str, run_id: str, following: bool = False) -> Callable[[Picture], Picture] | None:
    """What hides in a picture all that was hidden from the model of a run; None where nothing was.

    `following`: for pictures that come one after the other, as in a clip. Raises UsageError where the very detectors
    of the run are not to be had here: better no picture than one that shows too much.
    """
    wanted = hidden_by(log, run_id)
    if not wanted:
        return None
    hider = redactor(tuple(sorted(d["what"] for d in wanted)))
    ours = {d["what"]: d.get("weights_hash") for d in hider.identity["detectors"]}
    for theirs in wanted:
        if ours[theirs["what"]] != theirs.get("weights_hash"):
            raise UsageError(
                f"run {run_id} hid {theirs['what']} by other weights than those here, so no picture of it is shown: "
                f"name those that it used in ${FACE_MODEL}"
            )
    return hider.trail() if following else hider.picture
