"""Making the side index: while data files are written, or again from the files themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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


def owned_rows(batch: pa.RecordBatch | pa.Table) -> Iterator[tuple[Owner, int, int, int, int]]:
    """(owner, first row, rows, smallest start, largest end) of each owner's rows in a batch, in row order."""
    if not batch.num_rows:
        return
    ids, runs = batch["video_id"], batch["run_id"]
    new = [pc.not_equal(column[1:], column[:-1]) for column in (ids, runs)]
    firsts = np.concatenate(([0], 1 + np.flatnonzero(pc.or_(*new))))
    starts, ends = batch["start_us"].to_numpy(), batch["end_us"].to_numpy()
    yield from zip(
        zip(ids.take(firsts).to_pylist(), runs.take(firsts).to_pylist(), strict=True),
        firsts.tolist(),
        np.diff(firsts, append=batch.num_rows).tolist(),
        np.minimum.reduceat(starts, firsts).tolist(),
        np.maximum.reduceat(np.maximum(ends, starts + 1), firsts).tolist(),
        strict=True,
    )


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
