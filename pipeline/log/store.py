"""Where an event log lies: a local directory, or a prefix of an object store (through obstore, as delta-rs does it)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol, cast

from pipeline.errors import LogError

REMOTE = ("s3://", "s3a://", "gs://", "az://", "abfs://", "abfss://")


#: How requests to an object store are repeated (obstore's RetryConfig); then it is an error.
RETRIES: Any = {"max_retries": 6}


class Store(Protocol):
    """Named byte strings under one root. Paths are relative, with "/" between parts. Counts requests and bytes read."""

    uri: str  #: for messages, and for delta-rs
    requests: int
    bytes_read: int

    def options(self) -> dict[str, str]:
        """Storage options for delta-rs."""

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes of an object, or `length` of them from `start`. Raises FileNotFoundError."""

    def reader(self, path: str) -> Callable[[int, int], bytes]:
        """`read(start, length)` of one immutable object, for reading it often. Raises FileNotFoundError."""

    def size(self, path: str) -> int:
        """Bytes of an object. Raises FileNotFoundError."""

    def tagged(self, path: str) -> tuple[bytes, str] | None:
        """The bytes of an object with the tag of this version of it; None where it is absent."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object, whole or not at all; False (and nothing written) where it exists."""

    def swap(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Replace the version that has `tag` (None: absent); returns the new tag, None where it has changed since."""

    def put(self, path: str, data: bytes) -> None:
        """Write an object whole, over what is there. For what one process alone writes."""

    def sink(self, path: str) -> BinaryIO:
        """A new object to write bit by bit, which appears when closed."""

    def list(self, prefix: str, after: str = "") -> Iterator[tuple[str, int, float]]:
        """(path, bytes, Unix time of last change) of the objects under a folder, those behind `after` in path order."""

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; absent ones are fine."""

    def sync(self, paths: Sequence[str]) -> None:
        """Make written objects outlive a power cut."""


def fresh_name() -> str:
    """32 hexadecimal digits, never used before."""
    return os.urandom(16).hex()


def open_store(uri: str) -> Store:
    """The store at a local path, a file:// URI or an object-store URI. Raises LogError for any other kind."""
    if uri.startswith(REMOTE):
        return ObjectStore(uri.rstrip("/"))
    if uri.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        return LocalStore(unquote(urlsplit(uri).path))
    if "://" in uri:
        raise LogError(f"{uri}: an event log lies on a local path or at one of {', '.join(REMOTE)}")
    return LocalStore(os.path.abspath(uri))


class LocalStore:
    """A local (or shared POSIX) directory."""

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
        self.temporary = os.path.join(folder, f".{base}.{fresh_name()[:8]}.tmp")
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


class ObjectStore:
    """A prefix of S3, Google Cloud Storage or Azure; credentials and endpoint from the usual environment variables."""

    def __init__(self, uri: str) -> None:
        import obstore
        import obstore.store
        from obstore import exceptions

        self.uri = uri
        self.requests = self.bytes_read = 0
        self._obstore: Any = obstore
        self._absent = (exceptions.NotFoundError, FileNotFoundError)
        self._exists = (exceptions.AlreadyExistsError, exceptions.PreconditionError, FileExistsError)
        try:
            self._store: Any = obstore.store.from_url(uri, client_options=self.client_options(), retry_config=RETRIES)
        except Exception as error:
            raise LogError(f"{uri}: not a usable object-store URI: {error}") from error

    def options(self) -> dict[str, str]:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        return {"AWS_ALLOW_HTTP": "true"} if self.uri.startswith("s3") and endpoint.startswith("http://") else {}

    def client_options(self) -> Any:
        """The same for obstore."""
        return {"allow_http": True} if self.options() else None

    @contextlib.contextmanager
    def request(self, path: str) -> Iterator[None]:
        """Around one request for an object: counts it, and raises LogError where the store fails."""
        self.requests += 1
        try:
            yield
        except self._absent as error:
            raise FileNotFoundError(f"{self.uri}/{path}") from error
        except self._exists:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise LogError(f"{self.uri}/{path}: the object store failed: {said}") from error

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        with self.request(path):
            if length is None and start == 0:
                data = self._obstore.get(self._store, path).bytes()
            elif length is None:
                data = self._obstore.get(self._store, path, options={"range": {"offset": start}}).bytes()
            else:
                data = self._obstore.get_range(self._store, path, start=start, length=length)
        self.bytes_read += len(data)
        return data.to_bytes()

    def reader(self, path: str) -> Callable[[int, int], bytes]:
        return lambda start, length: self.read(path, start, length)

    def size(self, path: str) -> int:
        with self.request(path):
            return int(self._obstore.head(self._store, path)["size"])

    def tagged(self, path: str) -> tuple[bytes, str] | None:
        try:
            with self.request(path):
                got = self._obstore.get(self._store, path)
                data = got.bytes().to_bytes()
        except FileNotFoundError:
            return None
        self.bytes_read += len(data)
        return data, got.meta["e_tag"] or ""

    def create(self, path: str, data: bytes) -> bool:
        return self._conditional(path, data, "create") is not None

    def swap(self, path: str, data: bytes, tag: str | None) -> str | None:
        return self._conditional(path, data, "create" if tag is None else {"e_tag": tag})

    def put(self, path: str, data: bytes) -> None:
        with self.request(path):
            self._obstore.put(self._store, path, data, use_multipart=False)

    def _conditional(self, path: str, data: bytes, mode: Any) -> str | None:
        try:
            with self.request(path):
                return self._obstore.put(self._store, path, data, mode=mode, use_multipart=False)["e_tag"] or ""
        except self._exists:
            return None

    def sink(self, path: str) -> BinaryIO:
        with self.request(path):
            return cast(BinaryIO, _Upload(self, path, self._obstore.open_writer(self._store, path)))

    def list(self, prefix: str, after: str = "") -> Iterator[tuple[str, int, float]]:
        with self.request(prefix):
            for chunk in self._obstore.list(self._store, prefix or None, offset=after or None):
                for meta in chunk:
                    yield meta["path"], meta["size"], meta["last_modified"].timestamp()

    def delete(self, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), 1000):
            with self.request(paths[start]), contextlib.suppress(*self._absent):
                self._obstore.delete(self._store, list(paths[start : start + 1000]))

    def sync(self, paths: Sequence[str]) -> None:
        """An object store has stored what it has acknowledged."""


class _Upload:
    """An object being uploaded, with the store's errors as ours."""

    def __init__(self, store: ObjectStore, path: str, writer: Any) -> None:
        self._store, self._path, self._writer = store, path, writer

    def write(self, data: bytes) -> None:
        with self._store.request(self._path):
            self._writer.write(data)

    def close(self) -> None:
        with self._store.request(self._path):
            self._writer.close()


def check_conditional_put(store: Store) -> None:
    """Raise LogError where the store writes over an object that it was asked to create only if absent.

    Without that, two committers could each believe to have written the same commit.
    """
    probe = f"_index/probe-{fresh_name()}"
    try:
        held = store.create(probe, b"1") and not store.create(probe, b"2") and store.read(probe) == b"1"
    finally:
        store.delete([probe])
    if not held:
        raise LogError(
            f"{store.uri}: this object store does not honour conditional puts (If-None-Match: *), which concurrent"
            " writers need; use a store that does (S3, GCS, Azure, MinIO, Ceph) or a local path"
        )
