"""A contact sheet: stills of a video at even steps, and under each what begins between it and the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.clock import format_time
from pipeline.errors import UsageError
from pipeline.plan import SECOND_US
from pipeline.stills import Edit, as_jpeg, opened, pictures

Picture = npt.NDArray[np.uint8]

#: RGB of kinds, in order of how often they happen; colour-blind safe (Okabe and Ito, 2008).
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (90, 90, 90))
_INK, _FAINT, _PAPER, _LOST = (28, 30, 33), (110, 116, 122), (250, 250, 248), (225, 225, 222)
_GAP, _LINE, _LINES = 14, 19, 3  # px between cells, px of a line of caption, lines under a still
_STEP_US = SECOND_US // 2  # no two stills nearer than this
_SIDE = 60_000  # px: JPEG takes no more than 65 535


def sheet(
    uri: str,
    events: Sequence[Mapping[str, Any]],
    *,
    title: str = "",
    columns: int = 5,
    rows: int = 6,
    width: int = 300,
    edit: Edit | None = None,
) -> bytes:
    """A JPEG with up to `columns` x `rows` stills of `width` px.

    `events`: rows of the log (start_us, kind, text). Each still stands for the span up to the next one. `edit` changes
    every still before it is drawn. Raises UsageError (no room), VideoError (the video cannot be read).
    """
    video = opened(uri)
    if columns < 1 or rows < 1 or not 40 <= width <= 2000:
        raise UsageError("a sheet has one column and one row at least, and stills 40 to 2000 px wide")
    count = int(min(columns * rows, max(1, video.duration_us // _STEP_US)))
    columns, rows = min(columns, count), -(-count // columns)
    starts = [i * video.duration_us // count for i in range(count + 1)]
    high = max(2, round(width * video.height / max(1, video.width) / 2) * 2)
    cell = high + 6 + _LINE * (1 + _LINES)
    size = (2 * _GAP + 30 + rows * (cell + _GAP), _GAP + columns * (width + _GAP))
    if max(size) > _SIDE:
        raise UsageError(f"a sheet of {size[1]} x {size[0]} px is more than a JPEG holds: take fewer or smaller stills")
    paper = np.full((*size, 3), _PAPER, np.uint8)
    colours = colour_of(events)
    write(paper, (_GAP, _GAP + 16), f"{title or uri}   {format_time(video.duration_us // 1000 * 1000)}", 17, 600, _INK)
    # The middle of its span shows more of it than its first moment.
    shown = {at: p for at, _, p in pictures(uri, [(a + b) // 2 for a, b in _spans(starts)], height=high, edit=edit)}
    for i, (start, end) in enumerate(_spans(starts)):
        x, y = _GAP + i % columns * (width + _GAP), 2 * _GAP + 30 + i // columns * (cell + _GAP)
        _place(paper, x, y, width, high, shown.get((start + end) // 2))
        _caption(paper, x, y + high + 6, width, (start, end), events, colours, last=i == count - 1)
    return as_jpeg(paper)


def _spans(starts: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(starts))


def _place(
    paper: Picture,
    x: int,
    y: int,
    width: int,
    high: int,
    picture: Picture | None,
) -> None:
    paper[y : y + high, x : x + width] = _LOST
    if picture is None:
        write(paper, (x + 8, y + 22), "nothing to show here", 13, 400, _FAINT)
        return
    if picture.shape[:2] != (high, width):
        picture = cv2.resize(picture, (width, high), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    paper[y : y + high, x : x + width] = picture


def _caption(
    paper: Picture,
    x: int,
    y: int,
    width: int,
    span: tuple[int, int],
    events: Sequence[Mapping[str, Any]],
    colours: Mapping[str, tuple[int, int, int]],
    last: bool,
) -> None:
    times = " – ".join(format_time((t + 50_000) // 100_000 * 100_000) for t in span)
    write(paper, (x, y + 14), times, 13, 650, _INK)
    here = [e for e in events if span[0] <= e["start_us"] and (e["start_us"] < span[1] or last)]
    for i, event in enumerate(here[:_LINES]):
        top = y + _LINE * (i + 1)
        more = f"  +{len(here) - _LINES}" if i == _LINES - 1 and len(here) > _LINES else ""
        cv2.rectangle(paper, (x, top + 4), (x + 8, top + 12), colours[event["kind"]], cv2.FILLED)
        said = " ".join(event["text"].split())
        said = event["kind"] if said in ("", event["kind"]) else f"{event['kind']}: {said}"
        room = width - 14 - (_width(more, 13, 600) if more else 0)
        write(paper, (x + 14, top + 13), clipped(said, room, 13, 400), 13, 400, _INK)
        if more:
            write(paper, (x + width - _width(more, 13, 600), top + 13), more, 13, 600, _FAINT)


def colour_of(events: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int, int]]:
    """A colour for each kind, the most frequent first; the last one for all that are left over."""
    counts: dict[str, int] = {}
    for event in events:
        counts[event["kind"]] = counts.get(event["kind"], 0) + 1
    ordered = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return {kind: COLOURS[min(i, len(COLOURS) - 1)] for i, kind in enumerate(ordered)}


def write(paper: Picture, at: tuple[int, int], text: str, size: int, weight: int, colour: tuple[int, int, int]) -> None:
    """Text in the font that OpenCV carries (Latin, Greek, Cyrillic, Chinese); `at`: left end of its base line."""
    said = "".join(c if c.isprintable() else " " for c in text)
    cv2.putText(paper, said, at, colour, cv2.FontFace("sans"), size, weight)


def clipped(text: str, room: int, size: int, weight: int) -> str:
    """The text, or as much of it as fits into `room` px with an ellipsis."""
    text = text[:400]
    if _width(text, size, weight) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if _width(text[:middle].rstrip() + "…", size, weight) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def _width(text: str, size: int, weight: int) -> int:
    return int(cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, weight)[2]) if text else 0
