"""Opening one object of the archive: a local file by its path, anything else by ranges through fsspec.

libav reads local files itself. A remote object becomes a seekable binary file that fetches only the byte ranges asked
for, through a small cache made for demuxing: a look at the start, a look at the index (often at the end), then long
sequential reads, perhaps in two places at once (sound and picture far apart).
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import UsageError, VideoError, VideoReason

# Chosen by `python -m jobs.bench.storage` among blocks of 256 KiB to 2 MiB, growth of 2 to 8, and at most 8 or 16 MiB.
BLOCK = 512 * 1024  # what a read anywhere new fetches
GROWTH = 8  # a read that goes on where a fetch ended fetches this many times as much ...
LONGEST_FETCH = 16 * BLOCK  # ... up to 8 MiB
KEPT_BLOCKS = 64  # 32 MiB: the most that one open object holds in memory
ATTEMPTS = 3
PAUSE_S = 0.2


def open_object(uri: str) -> str | BinaryIO:
    """What a demuxer can read `uri` from: the absolute path of a local file, or a file that reads by range.

    Raises VideoError (vanished, denied, not_a_file, empty, unreadable: its server cannot read by range, changed,
    storage), UsageError for a kind of URI that is unknown or whose library is not installed. Reading the returned
    file raises VideoError too.
    """
    path = local_path(uri)
    if path is not None:
        status = stat_local(uri, path)
        if status.st_size == 0:
            raise VideoError(uri, "empty", "the file has no bytes")
        return path
    return cast(BinaryIO, RangeFile(uri))


def local_path(uri: str) -> str | None:
    """The absolute path that `uri` names on this machine, or None where it names an object elsewhere."""
    if uri.startswith("file://"):
        parts = urlsplit(uri)
        # "?" and "#" are ordinary in file names: cut only the scheme, and unquote as RFC 8089 writes paths.
        return os.path.abspath(unquote(uri[len("file://") + len(parts.netloc) :], errors="surrogateescape"))
    if "://" in uri or "::" in uri:
        return None
    return os.path.abspath(uri)


def stat_local(uri: str, path: str) -> os.stat_result:
    """The status of a readable regular file. Opens nothing: opening a FIFO or a device can hang or act."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise video_error(uri, error) from error
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "a FIFO, socket or device"
        raise VideoError(uri, "not_a_file", f"it is {what}, not a regular file")
    if not os.access(path, os.R_OK):
        raise VideoError(uri, "denied", "no permission to read it")
    return status


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of `uri` and the path within it. Raises UsageError where no library can read it."""
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        hint = "pip install 'secondsight[s3]'" if uri.startswith(("s3:", "s3a:")) else str(error)
        raise UsageError(f"{uri}: the library for this kind of URI is not installed: {hint}") from error
    except ValueError as error:
        raise UsageError(f"{uri}: not a kind of URI that fsspec knows: {error}") from error
    return fs, path


class RangeFile(io.RawIOBase):
    """A remote object as a seekable, read-only file. `requests` and `fetched_bytes` count what was asked for.

    Not thread-safe: one demuxer reads it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.requests = 0
        self.fetched_bytes = 0
        self._get, self.size = _ranged(uri)
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()  # least recently used first
        self._next: OrderedDict[int, int] = OrderedDict()  # block after a fetch -> how many blocks that fetch took

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, f"seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._position < self.size:
            number, within = divmod(self._position, BLOCK)
            piece = memoryview(self._block(number))[within : within + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._position += len(piece)
        return done

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        # A fetch that goes on where an earlier one ended takes more, any other a single block.
        count = min(GROWTH * self._next.pop(number, 0) or 1, LONGEST_FETCH // BLOCK, -(-self.size // BLOCK) - number)
        count = next((n for n in range(1, count) if number + n in self._blocks), count)
        start, end = number * BLOCK, min((number + count) * BLOCK, self.size)
        data = self.fetch(start, end)
        for n in range(count):
            self._blocks[number + n] = data[n * BLOCK : (n + 1) * BLOCK]
        while len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        self._next[number + count] = count
        while len(self._next) > 8:
            self._next.popitem(last=False)
        return self._blocks[number]

    def fetch(self, start: int, end: int) -> bytes:
        """Bytes [start, end) in one request, past the cache; a passing failure of the storage is tried again."""
        for attempt in range(ATTEMPTS):
            try:
                self.requests += 1
                data = self._get(start, end)
                break
            except Exception as error:
                failure = video_error(self.uri, error)
                if failure.reason != "storage" or attempt + 1 == ATTEMPTS:
                    raise failure from error
                time.sleep(PAUSE_S * 4**attempt)
        self.fetched_bytes += len(data)
        if len(data) != end - start:
            raise VideoError(self.uri, "changed", f"bytes {start}-{end} came back as {len(data)} bytes: read it again")
        return data


def _ranged(uri: str) -> tuple[Callable[[int, int], bytes], int]:
    """A function that fetches bytes [start, end) of a remote object, and the object's size."""
    fs, path = filesystem(uri)
    info = object_info(uri, fs, path)
    size = info.get("size")
    if size == 0:
        raise VideoError(uri, "empty", "the object has no bytes")
    if isinstance(fs, MemoryFileSystem):  # its open() hands one shared file to every reader
        return lambda start, end: fs.cat_file(path, start, end), int(info["size"])
    options: dict[str, Any] = {"block_size": BLOCK, "cache_type": "none"}
    tag = info.get("ETag", "")
    if uri.startswith(("http://", "https://")) and tag.startswith('"'):  # s3fs sends If-Match by itself
        options["headers"] = {"If-Match": tag}
    try:
        handle = fs.open(path, "rb", **options)
    except Exception as error:
        raise video_error(uri, error) from error
    if size is None or not handle.seekable():
        raise _no_ranges(uri)

    def fetch(start: int, end: int, fs: Any = fs) -> bytes:  # holds the filesystem too: a zip closes with it
        handle.seek(start)
        return cast(bytes, handle.read(end - start))

    return fetch, int(size)


def object_info(uri: str, fs: Any, path: str) -> dict[str, Any]:
    """fsspec's facts about one remote object, fresh. Raises VideoError (vanished, denied, not_a_file, storage)."""
    for attempt in range(ATTEMPTS):
        try:
            fs.invalidate_cache(path)
            info = cast(dict[str, Any], fs.info(path))
            break
        except Exception as error:
            failure = video_error(uri, error)
            if failure.reason != "storage" or attempt + 1 == ATTEMPTS:
                raise failure from error
            time.sleep(PAUSE_S * 4**attempt)
    if info.get("type") == "directory":
        raise VideoError(uri, "not_a_file", "it is a directory or prefix, not an object")
    return info


def _no_ranges(uri: str) -> VideoError:
    return VideoError(
        uri, "unreadable", "its server cannot read by range: put the file on one that can, or copy it to a local disk"
    )


_STATUS: dict[int, VideoReason] = {401: "denied", 403: "denied", 404: "vanished", 410: "vanished", 412: "changed"}


def video_error(uri: str, error: BaseException) -> VideoError:
    """What an exception of the operating system or of a storage library says about `uri`."""
    if isinstance(error, VideoError):
        return error
    status = _http_status(error)
    if status is not None:
        reason = _STATUS.get(status, "storage")
        detail = {
            "denied": f"the server refuses to give it (HTTP {status}): check the credentials",
            "vanished": f"the server does not have it (HTTP {status})",
            "changed": "it was replaced while being read: read it again",
        }.get(reason, f"the server failed (HTTP {status}): try again later")
        return VideoError(uri, reason, detail)
    if isinstance(error, FileNotFoundError) and not _unreachable(error.__cause__):
        return VideoError(uri, "vanished", "it does not exist (any more)")
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return VideoError(uri, "denied", "no permission to read it: check the credentials or the file's mode")
    if isinstance(error, IsADirectoryError):
        return VideoError(uri, "not_a_file", "it is a directory")
    if isinstance(error, NotADirectoryError):
        return VideoError(uri, "vanished", "it does not exist (any more)")
    if isinstance(error, OSError) and error.errno == errno.EBUSY and type(error).__name__ == "FileExpired":
        return VideoError(uri, "changed", "it was replaced while being read: read it again")
    if isinstance(error, ValueError) and "range requests" in str(error):
        return _no_ranges(uri)
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return VideoError(uri, "storage", f"reading failed ({type(error).__name__}: {said}): try again later")


def _unreachable(cause: BaseException | None) -> bool:
    """Whether fsspec's "not found" over HTTP only means that no answer came."""
    return isinstance(cause, OSError | TimeoutError) or type(cause).__module__.startswith("aiohttp")


def _http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an exception, where there is one (fsspec hides it in the cause of a FileNotFoundError)."""
    while error is not None:
        response = getattr(error, "response", None)  # botocore
        found = (
            response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(response, dict)
            else getattr(error, "status", None)  # aiohttp
        )
        if isinstance(found, int) and found >= 400:
            return found
        error = error.__cause__
    return None
