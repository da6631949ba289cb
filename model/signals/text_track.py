"""From lines read on some frames to captions: each text once, with its start, its end and its place."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from difflib import SequenceMatcher

import cv2
import numpy as np
import numpy.typing as npt

from model.signals.text_reader import Line
from model.signals.thresholds import Thresholds
from pipeline.frames import Frames

CROP_HEIGHT = 24  # px that crops are compared at


@dataclass(eq=False)
class Track:
    """One text on screen: the frames it was read on and what was read there; then `first..last`, all that show it."""

    reads: list[tuple[int, Line]] = field(default_factory=list)
    first: int = 0
    last: int = 0

    @property
    def text(self) -> str:
        """What was read most surely: the reading with the highest sum of scores times length, for readings more often
        lack letters than they have some too many."""
        votes: dict[str, float] = defaultdict(float)
        for _, line in self.reads:
            votes[line.text] += line.score * len(line.text)
        return max(votes, key=lambda t: (votes[t], len(t), t))

    @property
    def line(self) -> Line:
        """The best reading of `text`."""
        text = self.text
        return max((line for _, line in self.reads if line.text == text), key=lambda line: line.score)


def track(frames: Frames, reads: list[tuple[int, list[Line]]], thresholds: Thresholds) -> list[Track]:
    """Tracks of the lines in `reads` (frame index, lines; in order)."""
    done: list[Track] = []
    live: list[Track] = []
    for index, lines in reads:
        free = list(lines)
        still: list[Track] = []
        for one in live:
            match = max(free, key=lambda line: alike(one.reads[-1][1], line), default=None)
            if match is not None and same_line(one.reads[-1][1], match, thresholds):
                free.remove(match)
                one.reads.append((index, match))
                still.append(one)
            else:
                done.append(one)
        live = still + [Track([(index, line)]) for line in free]
    tracks = sorted(done + live, key=lambda t: t.reads[0][0])
    for one in tracks:
        extend(frames, one, [t for t in tracks if t is not one], thresholds)
    return join(tracks, thresholds)


def alike(a: Line, b: Line) -> float:
    """Likeness of text (0..1) plus likeness of place (0..1)."""
    return similarity(a.text, b.text) + overlap(a.box, b.box)


def same_line(a: Line, b: Line, thresholds: Thresholds) -> bool:
    """Whether `b` is `a` read again: the same digits, nearly the same letters, near the same place."""
    if digits(a.text) != digits(b.text) or similarity(a.text, b.text) < thresholds.text_similarity:
        return False
    height = max(a.box[3] - a.box[1], b.box[3] - b.box[1])
    moved = max(abs(a.box[0] - b.box[0]), abs(a.box[1] - b.box[1]))
    return overlap(a.box, b.box) > 0 or moved < thresholds.text_travel * height


def similarity(a: str, b: str) -> float:
    """1 for equal texts, without regard to spaces and case."""
    a, b = a.replace(" ", "").casefold(), b.replace(" ", "").casefold()
    return 1.0 if a == b else SequenceMatcher(None, a, b, autojunk=False).ratio()


def digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def extend(frames: Frames, one: Track, others: list[Track], thresholds: Thresholds) -> None:
    """Set `first` and `last`: from the reads outwards while the strokes stay and are no other text's."""
    rivals = [t for t in others if overlap(t.line.box, one.line.box) > 0.3]
    for step in (-1, 1):
        read = one.reads[0 if step < 0 else -1]
        at = read[0]
        while 0 <= at + step < len(frames):
            likeness = shows(frames, read, at + step)
            if likeness < thresholds.text_persistence:
                break
            if any(shows_rather(frames, rival, at + step, likeness, abs(at + step - read[0])) for rival in rivals):
                break
            at += step
        if step < 0:
            one.first = at
        else:
            one.last = at


def shows_rather(frames: Frames, rival: Track, index: int, likeness: float, distance: int) -> bool:
    """Whether frame `index` shows the rival's text rather than one it is like by `likeness` and `distance` frames from:
    it is more like it, or, where grain decides, nearer to it."""
    nearest = min(rival.reads, key=lambda r: abs(r[0] - index))
    more = shows(frames, nearest, index) - likeness
    return more > 0.02 or (more > -0.02 and abs(nearest[0] - index) < distance)


def shows(frames: Frames, read: tuple[int, Line], index: int) -> float:
    """How much frame `index` looks like the read one in the box of the line that was read."""
    if index == read[0]:
        return 1.0
    box = read[1].box
    return edge_likeness(crop_edges(frames.pixels[read[0]], box), crop_edges(frames.pixels[index], box))


def crop_edges(picture: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> npt.NDArray[np.float32]:
    """float32 [2, 24, w]: horizontal and vertical gradients of the box's luma."""
    height, width, _ = picture.shape
    left, right = int(box[0] * width), max(int(np.ceil(box[2] * width)), int(box[0] * width) + 1)
    top, bottom = int(box[1] * height), max(int(np.ceil(box[3] * height)), int(box[1] * height) + 1)
    crop = cv2.cvtColor(np.ascontiguousarray(picture[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
    size = max(4, min(480, round(crop.shape[1] * CROP_HEIGHT / crop.shape[0]))), CROP_HEIGHT
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.stack([cv2.Sobel(crop, cv2.CV_32F, 1, 0), cv2.Sobel(crop, cv2.CV_32F, 0, 1)])


def edge_likeness(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Cosine of two gradient fields of equal shape: 1 the same strokes, 0 unrelated ones."""
    both = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float((a * b).sum()) / both if both > 0 else float(np.array_equal(a, b))


def join(tracks: list[Track], thresholds: Thresholds) -> list[Track]:
    """Tracks of the same line whose spans meet become one (a read in between that missed it)."""
    joined: list[Track] = []
    for one in sorted(tracks, key=lambda t: (t.first, t.last)):
        for other in joined:
            if one.first <= other.last + 1 and same_line(other.line, one.line, thresholds):
                other.reads = sorted(other.reads + one.reads, key=lambda r: r[0])
                other.last = max(other.last, one.last)
                break
        else:
            joined.append(one)
    return joined
