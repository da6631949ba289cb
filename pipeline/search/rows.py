"""Rows of events as the index keeps them: each a JSON list, put together column by column, faster than json.dumps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from json.encoder import encode_basestring
from math import isfinite
from typing import Any

from pipeline.log.schema import EVENTS

#: The columns of an event's row as they are kept; the video and the run are the owner's.
KEPT = [name for name in EVENTS.names if name not in ("video_id", "run_id")]


def packed(columns: Mapping[str, Sequence[Any]]) -> Iterator[bytes]:
    """The rows of some columns of equal length (all of KEPT), one after the other."""
    for parts in zip(*(_texts(columns[name]) for name in KEPT), strict=True):
        yield f"[{','.join(parts)}]".encode("utf-8", "replace")


def unpacked(row: bytes) -> dict[str, Any]:
    """The row by column names."""
    return dict(zip(KEPT, json.loads(row.decode()), strict=True))


def _texts(column: Sequence[Any]) -> Iterator[str]:
    """The values of a column in JSON."""
    kinds = {type(value) for value in column}
    if kinds <= {str}:
        return map(encode_basestring, column)
    if kinds <= {int} or (kinds <= {float} and all(map(isfinite, column))):
        return map(repr, column)
    if kinds <= {list} and not any(None in values for values in column):  # of whole numbers: the times of the evidence
        return map(repr, column)
    return map(json.dumps, column)
