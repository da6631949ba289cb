"""Finding a video's entries without the index: in the `videos` rows and the footers of the data files. Slower."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.log.delta import Delta
from pipeline.log.entry import Entry, Span
from pipeline.log.head import stem_of
from pipeline.log.indexing import Owner, owned_rows
from pipeline.log.protocol import DataFile, is_ours
from pipeline.log.reader import damaged, read_rows
from pipeline.log.store import Store
from pipeline.log.thrift import footer_of, row_groups

VIDEO_COLUMNS = ["video_id", "run_id", "status", "reason", "duration_us", "finished_at_us", "events", "uris"]


class ScanFinder:
    """A Finder (pipeline/log/finder.py) over the newest version of the Delta log, or over some of its files."""

    def __init__(self, store: Store, version: int | None = None) -> None:
        self._store = store
        delta = Delta(store, version)
        self.version = delta.version
        self._files = delta.files()
        self._rows: dict[str, list[dict[str, Any]]] | None = None
        self._names: dict[str, list[str]] = {}

    def only(self, paths: Iterable[str]) -> ScanFinder:
        """Narrowed to some data files."""
        wanted = set(paths)
        self._files = [f for f in self._files if f.path in wanted]
        return self

    def _videos(self) -> dict[str, list[dict[str, Any]]]:
        if self._rows is None:
            self._rows = {}
            for row in read_rows(self._store, self._of("videos"), VIDEO_COLUMNS):
                self._rows.setdefault(row["video_id"], []).append(row)
            for row in read_rows(self._store, self._of("names"), ["video_id", "uri"]):
                self._names.setdefault(row["video_id"], []).append(row["uri"])
        return self._rows

    def _of(self, record: str) -> list[DataFile]:
        return [f for f in self._files if f.record == record]

    def entries(self, video_id: str) -> list[Entry]:
        rows = self._videos().get(video_id, [])
        spans: dict[Owner, list[Span]] = {}
        if any(row["events"] for row in rows):
            for file in self._of("events"):
                if not file.first_video or file.first_video <= video_id <= file.last_video:
                    for owner, found in file_spans(self._store, file, video_id).items():
                        spans.setdefault(owner, []).extend(found)
        return [entry_of(row, self._names.get(video_id, ()), spans) for row in rows]

    newest = entries

    def named(self, name: str) -> list[tuple[str, str]]:
        last = _last(name)
        found = []
        for video_id, rows in self._videos().items():
            uris = {uri for row in rows for uri in row["uris"]} | set(self._names.get(video_id, ()))
            found += [(video_id, uri) for uri in sorted(uris) if _last(uri) == last]
        return found

    def prefixed(self, prefix: str) -> list[str]:
        return sorted(video_id for video_id in self._videos() if video_id.startswith(prefix))

    def apart(self) -> ScanFinder:
        return ScanFinder(self._store, self.version)

    def all(self) -> Iterator[Entry]:
        spans = all_spans(self._store, self._of("events"))
        for video_id, rows in self._videos().items():
            yield from (entry_of(row, self._names.get(video_id, ()), spans) for row in rows)


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]


def entry_of(row: dict[str, Any], names: Iterable[str], spans: dict[Owner, list[Span]]) -> Entry:
    """The entry of a row of the videos table (VIDEO_COLUMNS)."""
    return Entry(
        row["video_id"],
        row["run_id"],
        row["status"],
        row["reason"],
        row["duration_us"],
        row["finished_at_us"],
        row["events"],
        tuple(dict.fromkeys([*row["uris"], *names])),
        tuple(spans.get((row["video_id"], row["run_id"]), ())),
    )


def file_spans(store: Store, file: DataFile, video_id: str | None = None) -> dict[Owner, list[Span]]:
    """The spans of all owners (of one video) in a data file of events, from its footer and its first columns.

    Within a row group an owner's rows must be together, as everything that we write has them; rows of other writers
    may lie anywhere: then there is one span per stretch.
    """
    found: dict[Owner, list[Span]] = {}
    name = stem_of(file.path) if is_ours(file.path) else file.path
    try:
        data = store.read(file.path)
        source = pq.ParquetFile(pa.BufferReader(data))
        groups = row_groups(footer_of(data))
        for number, (offset, length, _, alone) in enumerate(groups):
            statistics = _video_bounds(source.metadata.row_group(number))
            if video_id is not None and statistics is not None and not statistics[0] <= video_id <= statistics[1]:
                continue
            columns = ["video_id", "run_id", "start_us", "end_us"]
            batch = source.read_row_group(number, columns=columns, use_threads=False)
            for owner, row, rows, start_us, end_us in owned_rows(batch):
                if video_id is None or owner[0] == video_id:
                    span = Span(name, offset, length, row, rows, start_us, end_us, alone)
                    found.setdefault(owner, []).append(span)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(store, file, error) from error
    return found


def _video_bounds(group: Any) -> tuple[str, str] | None:
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == "video_id" and column.statistics is not None and column.statistics.has_min_max:
            return column.statistics.min, column.statistics.max
    return None


def all_spans(store: Store, files: Sequence[DataFile]) -> dict[Owner, list[Span]]:
    """The spans of every owner in several data files of events."""
    found: dict[Owner, list[Span]] = {}
    for file in files:
        for owner, spans in file_spans(store, file).items():
            found.setdefault(owner, []).extend(spans)
    return found
