"""EAN-13 bar codes, drawn upright or turned (ISO/IEC 15420)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

MODULES = 95
QUIET = 9  # modules of white on both sides
_LEFT = (
    "0001101", "0011001", "0010011", "0111101", "0100011", "0110001", "0101111", "0111011", "0110111", "0001011",
)  # fmt: skip
_MIRRORED = ("", "245", "235", "234", "145", "125", "124", "135", "134", "123")  # of the left six, by the first digit
_FLIP = str.maketrans("01", "10")


def with_check(digits: str) -> str:
    """Twelve digits and the thirteenth that checks them."""
    return digits + str(-sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(digits)) % 10)


def bars(code: str) -> str:
    """The 95 modules of thirteen digits, 1 for dark."""
    left = [_LEFT[int(d)] for d in code[1:7]]
    mirrored = [int(i) for i in _MIRRORED[int(code[0])]]
    left = [m.translate(_FLIP)[::-1] if i in mirrored else m for i, m in enumerate(left)]
    right = [_LEFT[int(d)].translate(_FLIP) for d in code[7:]]
    return f"101{''.join(left)}01010{''.join(right)}101"


def draw(
    picture: Picture, code: str, wide: float, high: float, x: float, y: float, degrees: float = 0
) -> npt.NDArray[np.bool_]:
    """Draw the bars of `code`, `wide` x `high` px and turned, around (x, y) on a white label into a picture, uint8
    [H, W] or [H, W, 3]. Where they are: bool [H, W]."""
    fine = 6  # drawn so many times larger: edges fall between pixels as they do in a photograph
    module = fine * wide / MODULES
    inside = np.array([[20 if c == "1" else 245 for c in bars(code)]], np.uint8)
    size = round(fine * wide), max(1, round(fine * high))
    inside = np.asarray(cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    label = _framed(inside, 4 * fine, round(QUIET * module), 245)
    ink = _framed(np.full_like(inside, 255), 4 * fine, round(QUIET * module), 0)
    # Of the picture, what is around it.
    reach = int(np.hypot(*label.shape) / fine / 2) + 2
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    part = picture[top : int(y) + reach, left : int(x) + reach]
    small = part.shape[1], part.shape[0]
    turn = cv2.getRotationMatrix2D((label.shape[1] / 2, label.shape[0] / 2), degrees, 1)
    turn[:, 2] += np.array([fine * (x - left) - label.shape[1] / 2, fine * (y - top) - label.shape[0] / 2])
    turned, there, dark = (
        cv2.resize(cv2.warpAffine(p, turn, (fine * small[0], fine * small[1])), small, interpolation=cv2.INTER_AREA)
        for p in (label, np.full_like(label, 255), ink)
    )
    part[there > 250] = turned[there > 250] if picture.ndim == 2 else turned[there > 250][:, None]
    where = np.zeros(picture.shape[:2], bool)
    where[top : top + small[1], left : left + small[0]] = dark > 127
    return where


def _framed(picture: Picture, edge: int, side: int, value: int) -> Picture:
    return np.pad(picture, ((edge, edge), (side, side)), constant_values=value)
