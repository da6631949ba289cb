"""Cursors: where the next page begins, opaque to clients. What comes back is checked as anything from outside is."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from jobs.serve.reply import Problem


def pack(kind: str, *values: Any) -> str:
    text = json.dumps([kind, *values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def unpack(cursor: str, kind: str, *types: type) -> list[Any]:
    """The values of a cursor that `pack` made for this kind of list. Raises Problem 422."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        named, *rest = values
        if named != kind or len(rest) != len(types) or any(type(v) is not t for v, t in zip(rest, types, strict=True)):
            raise ValueError("of another list")
        if any(type(v) is int and not -(2**62) <= v <= 2**62 for v in rest):
            raise ValueError("out of range")
        return rest
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise Problem(422, "bad_cursor", "this cursor is not one that this list has given: begin without one") from None
