"""A log on a local disk: a Store (store.py) over a directory."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, cast


class LocalStore:
    """A local (or shared POSIX) directory. Raises OSError where the disk does."""

    def __init__(self, root: str) -> None:
        self.uri = self.root = root
        self.requests = self.bytes_read = 0

    def path(self, path: str) -> str:
        return os.path.join(self.root, path)

    def options(self) -> dict[str, str]:
        return {}

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        self.requests += 1
        with open(self.path(path), "rb", buffering=0) as file:
            data = os.pread(file.fileno(), os.fstat(file.fileno()).st_size - start if length is None else length, start)
        self.bytes_read += len(data)
        return data

    def reader(self, path: str) -> Callable[[int, int], bytes]:
        with open(self.path(path), "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        def read(start: int, length: int) -> bytes:
            self.requests += 1
            self.bytes_read += length
            return mapped[start : start + length]

        return read

    def size(self, path: str) -> int:
        return os.stat(self.path(path)).st_size

    def tagged(self, path: str) -> tuple[bytes, str] | None:
        try:
            data = self.read(path)
        except FileNotFoundError:
            return None
        return data, _tag(data)

    def create(self, path: str, data: bytes) -> bool:
        temporary = self._write(path, data, durable=True)
        try:
            os.link(temporary, self.path(path))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def swap(self, path: str, data: bytes, tag: str | None) -> str | None:
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path) + ".lock", "ab") as lock:  # released by the kernel when its holder dies
            fcntl.flock(lock, fcntl.LOCK_EX)
            now = self.tagged(path)
            if (now and now[1]) != tag:
                return None
            os.replace(self._write(path, data), self.path(path))
            return _tag(data)

    def put(self, path: str, data: bytes) -> None:
        os.replace(self._write(path, data), self.path(path))

    def _write(self, path: str, data: bytes, durable: bool = False) -> str:
        """Write a hidden temporary file beside `path` (`durable`: to outlive a power cut); returns its full name."""
        with _HiddenFile(self.path(path)) as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        return file.temporary

    def sink(self, path: str) -> BinaryIO:
        return cast(BinaryIO, _HiddenFile(self.path(path), appear=True))

    def list(self, prefix: str, after: str = "") -> Iterator[tuple[str, int, float]]:
        self.requests += 1
        for folder, folders, files in os.walk(self.path(prefix)):
            folders.sort()
            relative = os.path.relpath(folder, self.root).replace(os.sep, "/")
            for name in sorted(files):
                path = name if relative == "." else f"{relative}/{name}"
                if path > after:
                    with contextlib.suppress(FileNotFoundError):
                        status = os.stat(os.path.join(folder, name))
                        yield path, status.st_size, status.st_mtime

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(path))

    def sync(self, paths: Sequence[str]) -> None:
        for path in {*paths, *map(os.path.dirname, paths)}:
            handle = os.open(self.path(path), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _tag(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class _HiddenFile:
    """A file that is written under a hidden temporary name; with `appear` it takes its own name when closed."""

    def __init__(self, name: str, appear: bool = False) -> None:
        self.name, self.appear = name, appear
        folder, base = os.path.split(name)
        self.temporary = os.path.join(folder, f".{base}.{os.urandom(4).hex()}.tmp")
        try:
            self._file = open(self.temporary, "xb")  # noqa: SIM115
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            self._file = open(self.temporary, "xb")  # noqa: SIM115
        self.write, self.flush, self.fileno = self._file.write, self._file.flush, self._file.fileno

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            if self.appear:
                os.replace(self.temporary, self.name)

    def discard(self) -> None:
        """Close without appearing."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)

    def __enter__(self) -> _HiddenFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
