"""A data file of any store as a Parquet file that is read piece by piece, not fetched whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.log.localstore import LocalStore
from pipeline.log.protocol import DataFile
from pipeline.log.reader import damaged
from pipeline.log.store import Store


def open_parquet(store: Store, file: DataFile) -> pq.ParquetFile:
    """Raises LogError naming a file that is missing or damaged (reading on may raise what pyarrow raises)."""
    try:
        if isinstance(store, LocalStore):
            return pq.ParquetFile(store.path(file.path), memory_map=True)
        return pq.ParquetFile(pa.PythonFile(Ranges(partial(store.read, file.path), file.size_bytes), mode="r"))
    except (pa.ArrowException, OSError) as error:
        raise damaged(store, file, error) from error


class Ranges(io.RawIOBase):
    """An object of `size` bytes as a file, each read one call of `fetch` (start, length)."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._fetch, self._size = fetch, size
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self._size}[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        length = self._size - self.at if size < 0 else min(size, self._size - self.at)
        data = self._fetch(self.at, length) if length > 0 else b""
        self.at += len(data)
        return data
