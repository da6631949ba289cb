"""Making the side index: while data files are written, or again from the files themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipeline.log.entry import Entry, Span, Templates, name_key, pack_entry, pack_names, video_key
from pipeline.log.index import build
from pipeline.log.records import VideoResult
from pipeline.log.thrift import row_groups

#: (video_id, run_id), the identity of what an entry stands for.
Owner = tuple[str, str]


class Rows:
    """Notes whose rows the batches of `events` hold that pass through `of`, one row group per batch."""

    def __init__(self) -> None:
        self.groups: list[list[tuple[Owner, int, int, int, int]]] = []

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.groups.append(list(owned_rows(batch)))
            yield batch

    def spans(self, stem: str, footer: bytes) -> dict[Owner, list[Span]]:
        """The spans of every owner in the data file that the batches became."""
        found: dict[Owner, list[Span]] = {}
        for (offset, length, _, alone), group in zip(row_groups(footer), self.groups, strict=True):
            for owner, row, rows, start_us, end_us in group:
                found.setdefault(owner, []).append(Span(stem, offset, length, row, rows, start_us, end_us, alone))
        return found


def owned_rows(batch: Any) -> Iterator[tuple[Owner, int, int, int, int]]:
    """(owner, first row, rows, smallest start, largest end) of each owner's rows in a batch, in row order."""
    starts, ends = batch["start_us"].to_pylist(), batch["end_us"].to_pylist()
    owners = zip(batch["video_id"].to_pylist(), batch["run_id"].to_pylist(), strict=True)
    row = 0
    for owner, same in groupby(owners):
        rows = sum(1 for _ in same)
        pairs = zip(starts[row : row + rows], ends[row : row + rows], strict=True)
        yield owner, row, rows, min(starts[row : row + rows]), max(max(end, start + 1) for start, end in pairs)
        row += rows


def entries_of(
    group: Sequence[VideoResult], spans: Mapping[Owner, Sequence[Span]], finished_at_us: int
) -> Iterator[Entry]:
    """The index entries of the videos that one commit adds."""
    for r in group:
        yield Entry(
            r.video_id,
            r.run_id,
            r.status,
            r.reason,
            r.duration_us,
            finished_at_us,
            len(r.events),
            tuple(r.uris),
            tuple(spans.get((r.video_id, r.run_id), ())),
        )


def index_file(entries: Iterable[Entry], names: Iterable[tuple[str, str]], templates: Templates) -> tuple[bytes, bytes]:
    """(start, whole) of an index file of entries and of further (video_id, uri) names."""
    blobs: list[tuple[bytes, bytes]] = []
    named: dict[bytes, list[tuple[str, str]]] = {}
    last_us = 0
    for entry in entries:
        last_us = max(last_us, entry.finished_at_us)
        blobs.append((video_key(entry.video_id), pack_entry(entry, templates)))
        for uri in entry.uris:
            named.setdefault(name_key(uri), []).append((entry.video_id, uri))
    for video_id, uri in names:
        named.setdefault(name_key(uri), []).append((video_id, uri))
    blobs += [(key, pack_names(pairs)) for key, pairs in named.items()]
    return build(blobs, templates, last_us)
