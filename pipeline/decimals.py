"""Numbers of single precision as a person wrote them."""

from __future__ import annotations

import struct

_SINGLE = struct.Struct("<f")


def as_written(value: float | None) -> float | None:
    """The shortest decimal that is the same number in single precision: 0.85 of 0.8500000238418579.

    What is no such number (of double precision, infinite, none) comes back as it is.
    """
    if value is None or not _same(value, value):
        return value
    return next(short for digits in range(1, 18) if _same(short := float(f"{value:.{digits}g}"), value))


def _same(short: float, value: float) -> bool:
    try:
        return bool(_SINGLE.unpack(_SINGLE.pack(short))[0] == value)
    except OverflowError:
        return False
