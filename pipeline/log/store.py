"""Where an event log lies: a local directory, or a prefix of an object store (through obstore, as delta-rs does it)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Protocol

from pipeline.errors import LogError
from pipeline.log.localstore import LocalStore

REMOTE = ("s3://", "s3a://", "gs://", "az://", "abfs://", "abfss://")


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
    """The store at a local path, a file:// URI or an object-store URI. Raises LogError for any other kind, and for a
    path that is no folder's."""
    if uri.startswith(REMOTE):
        from pipeline.log.objectstore import ObjectStore

        return ObjectStore(uri.rstrip("/"))
    if uri.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        return _local(unquote(urlsplit(uri).path))
    if "://" in uri:
        raise LogError(f"{uri}: an event log lies on a local path or at one of {', '.join(REMOTE)}")
    return _local(os.path.abspath(uri))


def _local(path: str) -> LocalStore:
    if "\0" in path:
        raise LogError(f"{path!r}: no path has a null character")
    if os.path.isfile(path):
        raise LogError(f"{path}: this is a file; an event log is a folder")
    return LocalStore(path)


def check_conditional_put(store: Store) -> None:
    """Raise LogError where the store writes over an object that it was asked to create only if absent.

    Without that, two committers could each believe to have written the same commit. The same for an object that it was
    asked to replace only in one version: the head of the index would go back.
    """
    probe = f"_index/probe-{fresh_name()}"
    try:
        held = store.create(probe, b"1") and not store.create(probe, b"2")
        seen = store.tagged(probe)
        held = held and seen is not None and store.swap(probe, b"2", seen[1]) is not None
        held = held and seen is not None and store.swap(probe, b"3", seen[1]) is None and store.read(probe) == b"2"
    except OSError as error:
        raise LogError(f"{store.uri}: cannot write: {error.strerror or error}; the log is as it was") from error
    finally:
        store.delete([probe])
    if not held:
        raise LogError(
            f"{store.uri}: this object store does not honour conditional puts (If-None-Match: *, If-Match), which"
            " concurrent writers need; use a store that does (S3, GCS, Azure, MinIO, Ceph) or a local path"
        )
