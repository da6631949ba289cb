"""Data files read ahead, many at once: DuckDB opens the files of a view one after the other, each a request's time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.errors import LogError
from pipeline.log.protocol import DataFile
from pipeline.log.reader import THREADS
from pipeline.log.store import Store

#: Bytes of a file that are read ahead: all of a small one, of others the end, where the footer lies.
PIECE = 64 << 10


class Ahead:
    """Reads data files of a store, from memory what was fetched before; of `most` bytes at most. Thread-safe."""

    def __init__(self, store: Store, most: int = 64 << 20) -> None:
        self._store, self._most = store, most
        self._kept: dict[str, tuple[int, bytes]] = {}

    def fetch(self, files: Sequence[DataFile]) -> None:
        """Have the ends of these files in memory, the small ones first, and let go of all others.

        What cannot be read is left to whoever reads it, who will say so.
        """
        kept: dict[str, tuple[int, bytes]] = {}
        missing: list[DataFile] = []
        room = self._most
        for file in sorted(files, key=lambda f: f.size_bytes):
            room -= min(file.size_bytes, PIECE)
            if room < 0:
                break
            if file.path in self._kept:
                kept[file.path] = self._kept[file.path]
            else:
                missing.append(file)
        if missing:
            kept |= self._ends(missing)
        self._kept = kept

    def _ends(self, files: Sequence[DataFile]) -> dict[str, tuple[int, bytes]]:
        failed = threading.Event()
        futures: dict[str, Future[tuple[int, bytes] | None]] = {}
        with ThreadPoolExecutor(min(THREADS, len(files)), "ahead") as pool:
            try:
                with contextlib.suppress(RuntimeError):  # no memory for one more thread: it goes without
                    for file in files:
                        futures[file.path] = pool.submit(self._end, file, failed)
                found = ((path, future.result()) for path, future in futures.items())
                return {path: end for path, end in found if end is not None}
            finally:
                pool.shutdown(cancel_futures=True)

    def _end(self, file: DataFile, failed: threading.Event) -> tuple[int, bytes] | None:
        if failed.is_set():
            return None
        start = max(0, file.size_bytes - PIECE)
        try:
            data = self._store.read(file.path, start, file.size_bytes - start)
        except FileNotFoundError:
            return None
        except (OSError, LogError):  # a store that fails is not asked for all the others
            failed.set()
            return None
        return (start, data) if len(data) == file.size_bytes - start else None

    def read(self, path: str, start: int, length: int) -> bytes:
        """Bytes of a file. Raises what the store does."""
        begins, data = self._kept.get(path, (0, b""))
        if begins <= start and start + length <= begins + len(data):
            return data[start - begins : start - begins + length]
        return self._store.read(path, start, length)
