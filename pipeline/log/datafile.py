"""Parquet data files: how they are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.log.protocol import DataFile
from pipeline.log.store import Store
from pipeline.log.thrift import footer_of

#: Rows per row group of `events`: the unit of reading for a lookup (about 80 KB of Parquet, decoded in 0.4 ms).
ROW_GROUP = 1536

#: Columns whose few values repeat within a row group.
DICTIONARY = ["video_id", "run_id", "kind", "model", "config_hash", "status", "codec", "replica", "weights_hash"]


#: Encodings that a sorted log profits from, where dictionaries do not apply.
ENCODING = {
    "start_us": "DELTA_BINARY_PACKED",
    "end_us": "DELTA_BINARY_PACKED",
    "window_first": "DELTA_BINARY_PACKED",
    "window_last": "DELTA_BINARY_PACKED",
    "evidence_us.list.element": "DELTA_BINARY_PACKED",
    "event_id": "DELTA_LENGTH_BYTE_ARRAY",
    "text": "DELTA_LENGTH_BYTE_ARRAY",
    "attributes": "DELTA_LENGTH_BYTE_ARRAY",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A data file that was written, and its Parquet footer."""

    file: DataFile
    footer: bytes


def write_data_file(store: Store, record: str, stem: str, schema: pa.Schema, batches: Iterable[Any]) -> Written | None:
    """Write one data file, a row group per batch, holding one batch at a time. None (and no file) without rows.

    Batches must be ordered by video_id where they have it. The file is invisible until it is committed.
    """
    path = f"record={record}/{stem}.parquet"
    rows, first, last = 0, "", ""
    sink: _Sink | None = None
    writer: pq.ParquetWriter | None = None
    try:
        for batch in batches:
            if not batch.num_rows:
                continue
            if writer is None:
                sink = _Sink(store.sink(path))
                writer = pq.ParquetWriter(
                    sink,
                    schema,
                    compression="snappy",
                    use_dictionary=[c for c in DICTIONARY if c in schema.names],
                    column_encoding={c: e for c, e in ENCODING.items() if c.split(".")[0] in schema.names},
                    store_schema=False,
                )
            writer.write_batch(batch, row_group_size=batch.num_rows)
            if "video_id" in schema.names:
                first = first or batch["video_id"][0].as_py()
                last = batch["video_id"][-1].as_py()
            rows += batch.num_rows
        if writer is None or sink is None:
            return None
        sink.keep = bytearray()
        writer.close()
        sink.close()
    except BaseException:
        if sink is not None:
            sink.discard()
        raise
    return Written(DataFile(path, record, sink.position, rows, first, last), footer_of(bytes(sink.keep)))


class _Sink:
    """What pyarrow needs of a file to write to, over a store's sink, which may know less."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.position = 0
        self.closed = False
        self.keep: bytearray | None = None  # what is written from here on

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        self._raw.write(view)
        if self.keep is not None:
            self.keep += view
        self.position += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        """Nothing is visible before close."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._raw.close()

    def discard(self) -> None:
        """Give up: no object appears, as far as the store can."""
        self.closed = True
        discard = getattr(self._raw, "discard", None)
        if discard is not None:
            discard()
