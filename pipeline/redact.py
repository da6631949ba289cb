"""Hiding what must not be seen, before any model, server or file gets a picture.

What a detector finds is filled with the one colour that it has on average: nothing of it can be had back. A detector
misses things now and then, so that what it found in one frame is hidden in all frames shown up to `HOLD_US` before and
after it, and of a thing that such frames around show in two places all of the way between. A thing that is found in no
frame for longer than that is shown.
"""

from __future__ import annotations

import json
import os
import platform
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.detectors import FACE_MODEL, Box, detector
from pipeline.errors import LogError, UsageError, VideoError
from pipeline.plan import SECOND_US, Sampling

if TYPE_CHECKING:
    from pipeline.decode.engine import Answer

Picture = npt.NDArray[np.uint8]
#: When a picture is on screen (microseconds), and what was found in it.
Find = tuple[int, list[Box]]

HOLD_US = SECOND_US  # before and after a frame in which it was found
#: Raised whenever pictures come out differently for the same detectors.
VERSION = 4


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

    def answers(self, answers: Iterable[Answer]) -> Iterator[Answer | None]:
        """Decoded frames (ascending) with all hidden in them that `hidden_at` names: each comes when those of the
        next `HOLD_US` are known. None after each frame that was looked at, which takes long: a sign of life.

        A frame that stays on screen keeps what was hidden in it before; what is found more than `HOLD_US` after a
        window is not hidden there, even where the window shows a frame that stays on screen until then.
        """
        line: deque[tuple[Answer, list[Box]]] = deque()  # those up to HOLD_US before the one given last, and all after
        given = 0
        still: tuple[int, list[Box]] = (-1, [])  # the frame given last, and what is hidden in it

        def give() -> Answer:
            nonlocal given, still
            answer = line[given][0]
            given += 1
            while line[0][0].at_us < answer.at_us - HOLD_US:
                line.popleft()
                given -= 1
            if answer.pixels is None:
                return answer
            boxes = hidden_at(answer.at_us, [(a.at_us, found) for a, found in line])
            if answer.time_us == still[0]:
                boxes = list(dict.fromkeys(still[1] + boxes))
            still = answer.time_us, boxes
            return answer._replace(pixels=covered(answer.pixels, boxes))

        last: Answer | None = None
        found: list[Box] = []
        for answer in answers:
            while given < len(line) and line[given][0].at_us + HOLD_US < answer.at_us:
                yield give()
            if answer.pixels is None:
                line.append((answer, []))
                continue
            if last is None or last.time_us != answer.time_us:
                last, found = answer, self.boxes(answer.pixels)
                yield None
            line.append((answer, found))
        while given < len(line):
            yield give()


def hidden_at(at_us: int, found: Sequence[Find]) -> list[Box]:
    """The boxes to hide in a picture shown at `at_us`: those found up to `HOLD_US` away, and where such pictures before
    and after it show one thing in two places, all of the way between. `found` ascends by time."""
    near = [find for find in found if abs(find[0] - at_us) <= HOLD_US]
    boxes = [box for _, some in near for box in some]
    before = _nearest(some for t, some in reversed(near) if t < at_us)
    after = _nearest(some for t, some in near if t > at_us)
    boxes += [_around(a, b) for a in before for b in after if _same(a, b)]
    return list(dict.fromkeys(boxes))


def _nearest(found: Iterable[list[Box]]) -> list[Box]:
    """Each thing where the first of the pictures that show it has it."""
    things: list[Box] = []
    for boxes in found:
        things += [box for box in boxes if not any(_same(box, thing) for thing in things)]
    return things


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


# --- Which detectors.


def parse(text: str) -> tuple[str, ...]:
    """The names in "faces,text,...", each once; weights of faces, also those that $SECONDSIGHT_FACE_MODEL names, by
    their whole path. Raises UsageError for none."""
    what = {part.strip() for part in text.split(",") if part.strip()}
    if not what:
        raise UsageError("--redact: say what to hide: faces, text, codes")
    return tuple(sorted(map(_whole, what)))


def _whole(spec: str) -> str:
    name, _, path = spec.partition("=")
    path = path or (os.environ.get(FACE_MODEL, "") if name == "faces" else "")
    return f"{name}={os.path.abspath(os.path.expanduser(path))}" if path else name


def redactor(what: tuple[str, ...]) -> Redactor:
    """One per process: loading a detector takes a second. Raises UsageError."""
    return _made(what, tuple(map(_stamp, what)))


@lru_cache(maxsize=4)
def _made(what: tuple[str, ...], stamps: tuple[object, ...]) -> Redactor:
    return Redactor(what)


def _stamp(spec: str) -> object:
    """Another one when the file of the weights was written anew."""
    path = spec.partition("=")[2]
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None  # making the detector says what is wrong
    return status and (status.st_size, status.st_mtime_ns)


def pledged(sampling: Sampling) -> Sampling:
    """The sampling with the identity of its detectors here, which `hider` holds every process to. Raises UsageError."""
    return replace(sampling, redact_identity=_text(redactor(sampling.redact).identity))


def hider(sampling: Sampling, uri: str) -> Redactor:
    """What hides in the frames of the video at `uri`.

    Raises UsageError; of a `pledged` sampling VideoError (redaction) where its detectors are not to be had in this
    process, or are others: better no frame than one that shows too much.
    """
    if not sampling.redact_identity:
        return redactor(sampling.redact)
    node = platform.node()
    try:
        ours = redactor(tuple(map(_there, sampling.redact)))
    except (UsageError, ImportError) as error:
        raise VideoError(uri, "redaction", f"node {node} cannot hide what the run is to hide: {error}") from error
    if _text(ours.identity) != sampling.redact_identity:
        wanted = json.loads(sampling.redact_identity)
        raise VideoError(
            uri, "redaction", f"node {node} has other detectors than the run's driver: {_differ(wanted, ours.identity)}"
        )
    return ours


def _there(spec: str) -> str:
    """The weights beside the job's other files, where they do not lie under the driver's path."""
    name, _, path = spec.partition("=")
    beside = Path(path).name
    return f"{name}={Path.cwd() / beside}" if path and not Path(path).is_file() and Path(beside).is_file() else spec


def _text(identity: object) -> str:
    return json.dumps(identity, sort_keys=True)


def _differ(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    if theirs["version"] != ours["version"] or theirs["hold_us"] != ours["hold_us"]:
        return f"redaction {theirs['version']} there, {ours['version']} here (another release of Secondsight)"
    pairs = zip(theirs["detectors"], ours["detectors"], strict=True)
    return "; ".join(f"{_text(a)} there, {_text(b)} here" for a, b in pairs if _text(a) != _text(b))


# --- What a run of a log hid.


@lru_cache(maxsize=4096)
def sampled_by(log: str, run_id: str) -> dict[str, Any]:
    """The part "sampling" of a run's configuration. Raises LogError where the log has no such run: then nobody knows
    what it was to hide."""
    from pipeline.log import EventLog

    runs = EventLog.open(log).snapshot().table("runs", ["run_id", "config"]).to_pylist()
    configs = [json.loads(row["config"] or "{}") for row in runs if row["run_id"] == run_id]
    if not configs:
        raise LogError(f"{log}: no row tells what run {run_id} was to hide; `secondsight log {log} --check`")
    return dict(configs[0].get("sampling", {}))


def hidden_by(log: str, run_id: str) -> tuple[dict[str, Any], ...]:
    """The detectors (`identity`) by which a run hid things from its model; none where it hid nothing.

    Raises LogError (`sampled_by`).
    """
    return tuple((sampled_by(log, run_id).get("redact") or {}).get("detectors", ()))
