"""Whole videos' events in memory, so that a page can look at any part of them at once."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import pyarrow as pa

from pipeline.log.lookup import Filter
from pipeline.query import Match, Query, as_table


class Tables:
    """The events of the videos that were looked at last, whole, so that pages of them need no reading."""

    MOST_ROWS = 1_000_000

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, int], pa.Table] = OrderedDict()
        self._rows = 0
        self._lock = Lock()

    def get(self, query: Query, match: Match) -> pa.Table:
        entry = match.entry
        key = (entry.video_id, entry.run_id, entry.finished_at_us)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        table = as_table(query.overlapping(match, -(2**62), 2**62, Filter()))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = table
                self._rows += table.num_rows
            while self._rows > self.MOST_ROWS and len(self._kept) > 1:
                self._rows -= self._kept.popitem(last=False)[1].num_rows
        return table
