"""Reading just the rows of one video that a question needs, row group by row group.

Rows of a video and run lie in one data file in order of start, so those of a later span begin no earlier. That is how
this code writes them; a foreign compaction that bin-packs whole files keeps it.

Imports neither pyarrow, numpy nor delta-rs; rows come as arro3 tables, which any Arrow library takes without a copy.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import LogError
from pipeline.log.entry import Entry, Span
from pipeline.log.protocol import is_ours
from pipeline.log.store import Store
from pipeline.log.thrift import alone

if TYPE_CHECKING:
    from arro3.core import RecordBatch

OPEN_FILES = 64

#: After the start of every event.
LATEST = 2**63


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted: of these kinds (None: all), with this text in them (case does not matter)."""

    kinds: Collection[str] | None = None
    text: str | None = None


class Lookup:
    """Reads spans of entries. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._readers: OrderedDict[str, Callable[[int, int], bytes]] = OrderedDict()

    def overlapping(self, entry: Entry, start_us: int, end_us: int, wanted: Filter) -> list[RecordBatch]:
        """The events of which any moment lies in [start_us, end_us); one without length is at its start."""
        return [
            batch
            for span in _in_order(entry.spans)
            if span.start_us < end_us and span.end_us > start_us
            for batch in self._rows(span, wanted, end_us, lambda s, e: e > start_us or s >= start_us)
        ]

    def before(self, entry: Entry, us: int, count: int, wanted: Filter) -> list[RecordBatch]:
        """The last `count` events that begin before `us`."""
        found: list[RecordBatch] = []
        left = count
        for span in reversed(_in_order(entry.spans)):
            if span.start_us < us and left > 0:
                for batch in self._rows(span, wanted, us, lambda s, e: True):
                    found.insert(0, batch.slice(max(0, batch.num_rows - left)))
                    left -= found[0].num_rows
        return found

    def after(self, entry: Entry, us: int, count: int, wanted: Filter) -> list[RecordBatch]:
        """The first `count` events that begin at or after `us`."""
        found: list[RecordBatch] = []
        left = count
        for span in _in_order(entry.spans):
            if span.end_us > us and left > 0:
                for batch in self._rows(span, wanted, LATEST, lambda s, e: s >= us):
                    found.append(batch.slice(0, min(left, batch.num_rows)))
                    left -= found[-1].num_rows
        return found

    def _rows(
        self, span: Span, wanted: Filter, until_us: int, within: Callable[[int, int], bool]
    ) -> Iterable[RecordBatch]:
        """The wanted rows of a span that begin before `until_us` and for whose (start, end) `within` holds."""
        batch = self._read(span).slice(span.row, span.rows)
        starts, ends = batch.column("start_us").to_pylist(), batch.column("end_us").to_pylist()
        if is_ours(span.path):  # in order of start
            last = bisect_left(starts, until_us)
            rows = [i for i, (s, e) in enumerate(zip(starts[:last], ends[:last], strict=True)) if within(s, e)]
        else:
            rows = [i for i, (s, e) in enumerate(zip(starts, ends, strict=True)) if s < until_us and within(s, e)]
        if rows and wanted.kinds is not None:
            kinds = batch.column("kind").to_pylist()
            rows = [i for i in rows if kinds[i] in wanted.kinds]
        if rows and wanted.text is not None:
            texts, text = batch.column("text").to_pylist(), wanted.text.casefold()
            rows = [i for i in rows if text in texts[i].casefold()]
        if not rows:
            return ()
        if rows[-1] - rows[0] + 1 == len(rows):
            return (batch.slice(rows[0], len(rows)),)
        from arro3.core import Array, DataType

        return (batch.take(Array(rows, DataType.uint32())),)

    def _read(self, span: Span) -> RecordBatch:
        """The row group of a span."""
        import arro3.io

        try:
            with self._lock:
                reader = self._readers.get(span.path)
                if reader is None:
                    reader = self._readers[span.path] = self._store.reader(span.path)
                    if len(self._readers) > OPEN_FILES:
                        self._readers.popitem(last=False)
            body = reader(span.offset, span.length)
            if len(body) != span.length:
                raise ValueError("it is cut short")
            stream = arro3.io.read_parquet(alone(body, span.footer), batch_size=1 << 31)
            return stream.read_next_batch()
        except (LogError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust over damaged bytes is no Exception
            missing = isinstance(error, FileNotFoundError)
            what = "is missing" if missing else f"is damaged ({' '.join(str(error).split())[:200]})"
            raise LogError(
                f"{self._store.uri}/{span.path}: this data file {what}; `secondsight log LOG --check` says which"
                " videos to run again"
            ) from error


def _in_order(spans: tuple[Span, ...]) -> list[Span]:
    return sorted(spans, key=lambda s: (s.start_us, s.offset, s.row))
