"""Finding a video's entries: through the index where the log has one, else by looking into the data files.

Imports neither Arrow for Python, numpy nor delta-rs: a cold lookup must not wait for them.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from pipeline.errors import LogError
from pipeline.log.entry import ENTRY, KEY, Entry, Templates, name_key, unpack_entry, unpack_names, video_key
from pipeline.log.head import Head, advance, index_path, load
from pipeline.log.index import IndexFile
from pipeline.log.keyfilter import NAME_PLACES, VIDEO_PLACES, may_hold
from pipeline.log.localstore import LocalStore
from pipeline.log.store import Store

if TYPE_CHECKING:
    from pipeline.log.scan import ScanFinder


T = TypeVar("T")

#: What reading a damaged index raises.
DAMAGE = (LogError, FileNotFoundError, ValueError, KeyError, IndexError, TypeError, struct.error, zlib.error)


class Finder(Protocol):
    """What a lookup asks first. `version`: the version of the log that the answers are of."""

    version: int

    def entries(self, video_id: str) -> list[Entry]:
        """What the log holds of a video, one entry per run; none if it does not know it."""

    def newest(self, video_id: str) -> list[Entry]:
        """Some of them: all, or at least the newest done one."""

    def named(self, name: str) -> list[tuple[str, str]]:
        """(video_id, uri) of the videos' names whose last part is that of `name`."""

    def prefixed(self, prefix: str) -> list[str]:
        """Ids of the videos whose id begins with `prefix` (hexadecimal)."""

    def all(self) -> Iterator[Entry]:
        """Every entry of the log, in no order."""

    def apart(self) -> Finder:
        """Another one over the same version, for another thread."""


def open_finder(store: Store) -> Finder:
    """The index of a log, or (slower) its data files where the index is missing or of no use.

    On a local path the newest commits are always seen; on an object store the answer is as of the last head that a
    committer has published (before its `commit` returned), which saves a request.
    """
    published = load(store)
    if published is None or published[0].stale:
        return scan_finder(store)
    head: Head | None = published[0]
    assert head is not None
    if isinstance(store, LocalStore):
        head = advance(head, store)
    if head is None or head.stale:
        return scan_finder(store)
    try:
        return Guarded(IndexFinder(store, head), store)
    except (LogError, FileNotFoundError):
        return scan_finder(store)


def scan_finder(store: Store, version: int | None = None) -> ScanFinder:
    """Lookups in the data files of a version (default: the newest)."""
    from pipeline.log.scan import ScanFinder

    return ScanFinder(store, version)


class Guarded:
    """An index, and the data files from the moment that it proves to be damaged."""

    def __init__(self, index: IndexFinder, store: Store) -> None:
        self._finder: Finder = index
        self._store = store
        self.version = index.version

    def _ask(self, ask: Callable[[Finder], list[T]]) -> list[T]:
        try:
            return ask(self._finder)
        except DAMAGE:
            if not isinstance(self._finder, IndexFinder):
                raise
            self._finder = scan_finder(self._store, self.version)
            return ask(self._finder)

    def entries(self, video_id: str) -> list[Entry]:
        return self._ask(lambda finder: finder.entries(video_id))

    def newest(self, video_id: str) -> list[Entry]:
        return self._ask(lambda finder: finder.newest(video_id))

    def named(self, name: str) -> list[tuple[str, str]]:
        return self._ask(lambda finder: finder.named(name))

    def prefixed(self, prefix: str) -> list[str]:
        return self._ask(lambda finder: finder.prefixed(prefix))

    def all(self) -> Iterator[Entry]:
        return iter(self._ask(lambda finder: list(finder.all())))

    def apart(self) -> Finder:
        finder = self._finder.apart()
        return Guarded(finder, self._store) if isinstance(finder, IndexFinder) else finder


class IndexFinder:
    """Lookups in the catalog and in the tail of one head."""

    def __init__(self, store: Store, head: Head) -> None:
        self._store, self._head = store, head
        self.version = head.version
        self._catalogs = [  # the newest first
            (IndexFile.parse(c.start, store.reader(c.path), f"{store.uri}/{c.path}"), c.filter)
            for c in reversed(head.catalogs)
        ]
        self._recent = head.tail
        self._tail: dict[int, IndexFile] = {}
        self._everywhere = [i for i, t in enumerate(head.tail) if t.prefixes is None]
        self._by_prefix: dict[bytes, list[int]] = {}
        self._sorted_prefixes: list[bytes] | None = None
        for i, t in enumerate(head.tail):
            prefixes = t.prefixes or b""
            for at in range(0, len(prefixes), 4):
                self._by_prefix.setdefault(prefixes[at : at + 4], []).append(i)
        self._unindexed = scan_finder(store).only(head.unindexed) if head.unindexed else None

    def _files(self, key: bytes, places: int) -> Iterator[IndexFile]:
        """The files that a key may be in, the newest first: of a video in one run, the newest entry counts."""
        for i in sorted({*self._by_prefix.get(key[:4], ()), *self._everywhere}, reverse=True):
            yield self._index(i)
        for catalog, bits in self._catalogs:
            if bits is None or may_hold(bits, key, places):
                yield catalog

    def _index(self, i: int) -> IndexFile:
        """The index file of a commit in the tail."""
        if i not in self._tail:
            path, start = index_path(self._recent[i].stem), self._recent[i].start
            name = f"{self._store.uri}/{path}"
            try:
                if start is None:
                    self._tail[i] = IndexFile.of(self._store.read(path), name)
                else:
                    self._tail[i] = IndexFile.parse(start, self._store.reader(path), name)
            except FileNotFoundError as error:
                raise LogError(
                    f"{name}: an index file is missing; `secondsight log --compact` makes it again"
                ) from error
        return self._tail[i]

    def entries(self, video_id: str) -> list[Entry]:
        return self._entries(video_id, lambda file, found: True)

    def newest(self, video_id: str) -> list[Entry]:
        def may_have_a_newer(file: IndexFile, found: Iterable[Entry]) -> bool:
            return max((e.finished_at_us for e in found if e.status == "done"), default=0) <= file.last_us

        return self._entries(video_id, may_have_a_newer)

    def _entries(self, video_id: str, wanted: Callable[[IndexFile, Iterable[Entry]], bool]) -> list[Entry]:
        """What the files hold that are wanted after what was found before, and the data files without an index."""
        found: dict[str, Entry] = {}
        key = video_key(video_id)
        for file in self._files(key, VIDEO_PLACES):
            if wanted(file, found.values()):
                for blob in file.find(key):
                    entry = unpack_entry(blob, file.templates)
                    if entry.video_id == video_id:
                        found.setdefault(entry.run_id, entry)
        if self._unindexed is not None:
            for entry in self._unindexed.entries(video_id):
                found.setdefault(entry.run_id, entry)
        return list(found.values())

    def named(self, name: str) -> list[tuple[str, str]]:
        key = name_key(name)
        blobs = [blob for file in self._files(key, NAME_PLACES) for blob in file.find(key)]
        found = {pair for blob in blobs for pair in unpack_names(blob)}
        if self._unindexed is not None:
            found.update(self._unindexed.named(name))
        return sorted(found)

    def prefixed(self, prefix: str) -> list[str]:
        first, last = key_range(prefix)
        blobs: list[tuple[bytes, Templates]] = []
        for i in self._tail_between(first, last):
            index = self._index(i)
            blobs += [(blob, index.templates) for blob in index.prefixed(first, last)]
        for catalog, _ in self._catalogs:
            blobs += [(blob, catalog.templates) for blob in catalog.prefixed(first, last)]
        found = {unpack_entry(blob, templates).video_id for blob, templates in blobs if blob[:1] == ENTRY}
        if self._unindexed is not None:
            found.update(self._unindexed.prefixed(prefix))
        return sorted(video_id for video_id in found if video_id.startswith(prefix))

    def all(self) -> Iterator[Entry]:
        seen: set[tuple[str, str]] = set()
        recent = [self._index(i) for i in reversed(range(len(self._recent)))]
        for index in [*recent, *(catalog for catalog, _ in self._catalogs)]:
            for _, blob in index.items():
                if blob[:1] == ENTRY:
                    entry = unpack_entry(blob, index.templates)
                    if (entry.video_id, entry.run_id) not in seen:
                        seen.add((entry.video_id, entry.run_id))
                        yield entry
        if self._unindexed is not None:
            yield from (e for e in self._unindexed.all() if (e.video_id, e.run_id) not in seen)

    def apart(self) -> IndexFinder:
        return IndexFinder(self._store, self._head)

    def _tail_between(self, first: bytes, last: bytes) -> Iterable[int]:
        if self._sorted_prefixes is None:
            self._sorted_prefixes = sorted(self._by_prefix)
        found = set(self._everywhere)
        for prefix in self._sorted_prefixes[bisect_left(self._sorted_prefixes, first[:4]) :]:
            if prefix > last[:4]:
                break
            found.update(self._by_prefix[prefix])
        return found


def key_range(prefix: str) -> tuple[bytes, bytes]:
    """The first and last key of the video ids that begin with hexadecimal digits."""
    digits = 2 * KEY
    return bytes.fromhex(prefix[:digits].ljust(digits, "0")), bytes.fromhex(prefix[:digits].ljust(digits, "f"))
