"""The bytes of a checkpoint's files, by range: a local directory, or any fsspec URI."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.errors import ModelError, VideoError
from pipeline.storage import filesystem, local_path, video_error

#: What a hub snapshot is asked for: never code, never pickles.
HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
READ_AT_ONCE = 256 << 20  # one pread; Linux gives at most 2 GiB
FETCH = 16 << 20  # one remote request
FETCHES = 8  # remote requests in flight
TRIES = 6  # of a remote request that fails in a way that may pass,
BACK_OFF_S = 0.5  # with such a pause before the second; doubled before each further one

_T = TypeVar("_T")


class Source(Protocol):
    """Where a checkpoint's files lie. File names are plain names within one directory."""

    path: str

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file."""
        ...

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `start` on. Raises ModelError where the file ends before or fails."""
        ...

    def read_blocks(self, name: str, blocks: list[tuple[int, int]]) -> list[bytes]:
        """The bytes of many small spans (start, end) of one file."""
        ...


def read(source: Source, name: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file."""
    data = bytearray(end - start)
    source.read_into(name, start, memoryview(data))
    return bytes(data)


def open_source(spec: str) -> Source:
    """The files behind a local directory, an fsspec URI, or a hub id (`org/name`, downloaded or from its cache).

    Raises ModelError where nothing is there, UsageError for a kind of URI that no library can read.
    """
    path = local_path(spec)
    if path is None:
        return RemoteSource(spec)
    if os.path.isdir(path):
        return LocalSource(path)
    if os.path.exists(path):
        raise ModelError(f"{spec}: a checkpoint is a directory with config.json and safetensors, this is a file")
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", spec):
        return LocalSource(_hub_snapshot(spec))
    raise ModelError(f"{spec}: no such directory, and not a hub id (org/name)")


def _hub_snapshot(repo: str) -> str:
    """The local folder of a hub repository. HF_HOME, HF_HUB_OFFLINE and tokens are huggingface_hub's own business."""
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(repo, allow_patterns=HUB_PATTERNS))
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{repo}: no such directory here, and the hub does not give it ({type(error).__name__}: {said}): "
            "give the path of a checkpoint, or download it where there is a network"
        ) from error


class LocalSource:
    """A directory. Reads go by pread straight into the caller's memory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._handles: dict[str, int] = {}

    def size(self, name: str) -> int | None:
        file = Path(self.path) / name
        try:
            return file.stat().st_size if file.is_file() else None
        except OSError as error:
            raise ModelError(f"{file}: {error.strerror}") from error

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        handle, done, view = self._open(name), 0, buffer.cast("B")
        while done < len(view):
            try:
                got = os.preadv(handle, [view[done : done + READ_AT_ONCE]], start + done)
            except OSError as error:
                raise ModelError(f"{self.path}/{name}: {error.strerror}") from error
            if got == 0:
                raise ModelError(f"{self.path}/{name}: ends at byte {start + done}: cut off while it was read")
            done += got

    def read_blocks(self, name: str, blocks: list[tuple[int, int]]) -> list[bytes]:
        return [read(self, name, start, end) for start, end in blocks]

    def _open(self, name: str) -> int:
        if name not in self._handles:
            try:
                self._handles[name] = os.open(os.path.join(self.path, name), os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ModelError(f"{self.path}/{name}: {error.strerror}") from error
        return self._handles[name]

    def __del__(self) -> None:
        for handle in self._handles.values():
            os.close(handle)


class RemoteSource:
    """A prefix of an object store. Large reads are several ranges in flight."""

    def __init__(self, uri: str) -> None:
        self.path = uri.rstrip("/")
        self._fs, self._root = filesystem(self.path)
        self._pool = ThreadPoolExecutor(FETCHES)

    def names(self) -> list[str]:
        """The names of the files there."""
        try:
            found = _patiently(self.path, lambda: self._fs.ls(self._root, detail=False))
        except VideoError as failure:
            raise _model_error(failure) from failure.__cause__
        return sorted(str(name).rpartition("/")[2] for name in found)

    def size(self, name: str) -> int | None:
        try:
            return int(_patiently(f"{self.path}/{name}", lambda: self._fs.info(f"{self._root}/{name}")["size"]))
        except VideoError as failure:
            if failure.reason == "vanished":
                return None
            raise _model_error(failure) from failure.__cause__

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        view = buffer.cast("B")

        def fetch(offset: int) -> None:
            wanted = min(FETCH, len(view) - offset)
            view[offset : offset + wanted] = self._range(name, start + offset, start + offset + wanted)

        list(self._pool.map(fetch, range(0, len(view), FETCH)))

    def read_blocks(self, name: str, blocks: list[tuple[int, int]]) -> list[bytes]:
        return list(self._pool.map(lambda span: self._range(name, *span), blocks))

    def _range(self, name: str, start: int, end: int) -> bytes:
        uri = f"{self.path}/{name}"
        try:
            data: Any = _patiently(uri, lambda: self._fs.cat_file(f"{self._root}/{name}", start=start, end=end))
        except VideoError as failure:
            raise _model_error(failure) from failure.__cause__
        if len(data) != end - start:
            raise ModelError(
                f"{uri}: bytes {start}-{end} came back as {len(data)} bytes: cut off, or changed meanwhile"
            )
        return bytes(data)


def _patiently(uri: str, request: Callable[[], _T]) -> _T:
    """What the store answers; one that fails or is busy is asked again. Raises VideoError."""
    for tries in range(1, TRIES + 1):
        try:
            return request()
        except Exception as error:
            failure = video_error(uri, error)
            if failure.reason != "storage" or tries == TRIES:
                raise failure from error
        # At random, so that the requests of many replicas do not come back together.
        time.sleep(BACK_OFF_S * 2 ** (tries - 1) * random.uniform(0.5, 1.0))
    raise AssertionError


def _model_error(error: VideoError) -> ModelError:
    return ModelError(f"{error.uri}: {error.detail}")
