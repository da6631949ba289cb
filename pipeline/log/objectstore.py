"""A log in an object store: a Store (store.py) through obstore, as delta-rs does it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from pipeline.errors import LogError

#: How requests to an object store are repeated (obstore's RetryConfig); then it is an error.
RETRIES: Any = {"max_retries": 6}


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
            said = str(error).partition("\n")[0].strip(" {")
            raise LogError(f"{uri}: not a usable object-store URI, such as s3://bucket/log ({said})") from error

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
        return data, _tag(got.meta)

    def create(self, path: str, data: bytes) -> bool:
        return self._conditional(path, data, "create") is not None

    def swap(self, path: str, data: bytes, tag: str | None) -> str | None:
        return self._conditional(path, data, "create" if tag is None else _version_of(tag))

    def put(self, path: str, data: bytes) -> None:
        with self.request(path):
            self._obstore.put(self._store, path, data, use_multipart=False)

    def _conditional(self, path: str, data: bytes, mode: Any) -> str | None:
        try:
            with self.request(path):
                return _tag(self._obstore.put(self._store, path, data, mode=mode, use_multipart=False))
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


def _tag(said: Any) -> str:
    """What tells this version of an object from others: S3 and Azure go by its ETag, Google by its generation."""
    return f"{said.get('version') or ''} {said.get('e_tag') or ''}"


def _version_of(tag: str) -> Any:
    """The same as obstore's UpdateVersion."""
    version, e_tag = tag.split(" ", 1)
    return {name: value for name, value in (("version", version), ("e_tag", e_tag)) if value}


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
