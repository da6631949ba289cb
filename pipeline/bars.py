"""How far a bar code reaches, of which OpenCV's detector found a part: often a third of its height or of its bars.

All rows of a bar code are alike, so that one row that stays open tells the whole number.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Grey = npt.NDArray[np.uint8]
Span = tuple[int, int]

_GAP = 4.0  # mean widths of bars and spaces: EAN-13's widest are 2.5 (95 modules make 59), its quiet zones 4.3 and more
_MOST = 200.0  # mean widths of bars and spaces: thirty letters of Code 128
_PAD_ACROSS = 0.1  # of the code's width: the guards' feet, what growing missed
_PAD_ALONG = 0.3  # of its height: the digits below


def whole(grey: Grey, corners: Floats) -> Floats:
    """Points [n, 2] around the bar code, with some room, of which a detector has found `corners` [4, 2] (px) in a grey
    picture."""
    (x, y), (wide, high), angle = cv2.minAreaRect(corners.astype(np.float32))
    side = int(np.hypot(*grey.shape)) + 2
    turn = cv2.getRotationMatrix2D((x, y), angle, 1)
    turn[:, 2] += np.array([side / 2 - x, side / 2 - y])
    straight = np.asarray(cv2.warpAffine(grey, turn, (side, side), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    wide, high = (min(side, max(2.0, length)) for length in (wide, high))
    columns, rows = ((round((side - length) / 2), round((side + length) / 2)) for length in (wide, high))
    part = straight[slice(*rows), slice(*columns)].astype(np.float32)
    upright = np.abs(np.diff(part, axis=1)).sum() >= np.abs(np.diff(part, axis=0)).sum()
    if upright:
        across, along = _grown(straight, columns, rows)
    else:
        across, along = _grown(straight.T, rows, columns)
    found = _padded(across, _PAD_ACROSS), _padded(along, _PAD_ALONG)
    (left, right), (top, bottom) = found if upright else found[::-1]
    box = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    back = cv2.invertAffineTransform(turn)
    return np.concatenate([box @ back[:, :2].T + back[:, 2], corners])


def _grown(picture: Grey, columns: Span, rows: Span) -> tuple[Span, Span]:
    """The columns and rows of a code with upright bars that has some in these."""
    quarter = (rows[1] - rows[0]) // 4
    inner = slice(rows[0] + quarter, max(rows[0] + quarter + 1, rows[1] - quarter))
    columns = _across(picture[inner].mean(0), columns)
    return columns, _along(picture[:, slice(*columns)], rows)


def _across(profile: Floats, span: Span) -> Span:
    """As far as one bar follows the other, as close as those in `span` do. `profile`: brightness by column."""
    dark, light = np.percentile(profile[slice(*span)], [10, 90])
    edges = np.flatnonzero(np.diff(profile > (dark + light) / 2))
    inside = edges[(edges >= span[0]) & (edges < span[1])]
    if len(inside) < 4:
        return span
    first, last = int(inside[0]), int(inside[-1])
    run = (last - first) / (len(inside) - 1)
    for edge in edges[edges < first][::-1].tolist():
        if first - edge > _GAP * run or last - edge > _MOST * run:
            break
        first = edge
    for edge in edges[edges > last].tolist():
        if edge - last > _GAP * run or edge - first > _MOST * run:
            break
        last = edge
    return min(span[0], first), max(span[1], last + 1)


def _along(code: Grey, span: Span) -> Span:
    """As far as the rows of `code` are alike: each is compared with those before it, as a code may lean a little."""
    contrast = float(code[slice(*span)].mean(0).std())
    most = 1.2 * code.shape[1]

    def reach(rows: list[int]) -> int:
        """The last of `rows` that belongs to it; rows[0] does."""
        known = code[rows[:4]].mean(0)
        last = rows[0]
        for row in rows[1:]:
            if abs(row - last) > 3 or abs(row - rows[0]) > most:
                break
            if _alike(line := code[row].astype(np.float64), known, contrast):
                known, last = 0.7 * known + 0.3 * line, row
        return last

    middle = min((span[0] + span[1]) // 2, len(code) - 1)
    upper, lower = min(span[0], middle), max(middle, min(span[1], len(code)) - 1)
    top, bottom = reach(list(range(upper, -1, -1))), reach(list(range(lower, len(code))))
    return min(span[0], top), max(span[1], bottom + 1)


def _alike(line: Floats, known: Floats, contrast: float) -> bool:
    a, b = line - line.mean(), known - known.mean()
    return bool(line.std() > 0.3 * contrast and a @ b > 0.5 * np.sqrt((a @ a) * (b @ b)))


def _padded(span: Span, share: float) -> tuple[float, float]:
    pad = max(2.0, share * (span[1] - span[0]))
    return span[0] - pad, span[1] + pad
