"""The head of the index: one small object that tells a reader, in one request, where everything else is.

`_index/head` covers the log up to a version: the large index files (the catalogs; the start of each is inside the head)
and the index files of the commits since (the tail; of each, the first four bytes of its keys). Committers publish it
after their commit by compare-and-swap, so its version only grows. It is derived from the Delta log: a reader that
finds newer commits catches up from them, and a head that is lost or late costs time, not answers.

When the tail is long it is merged into a catalog, together with the catalogs that are not much larger: each is at least
RATIO times as large as the next. So a video is rewritten a few times per level, and there are few levels (levelled
merging, as in log-structured merge trees). A compaction merges all catalogs into one.

Compactions change no row, so the index of the files they replace stays right as long as those files exist; ours bring
an index file of the new ones, whose entries count as the newer.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.errors import LogError
from pipeline.log.entry import Templates
from pipeline.log.index import IndexFile
from pipeline.log.merge import bloom_filter
from pipeline.log.protocol import Commit, DataFile, is_ours, read_commit
from pipeline.log.store import Store, fresh_name

HEAD = "_index/head"
MAGIC = b"SSHEAD02"

#: The tail is merged into a catalog when it holds more videos than this: it is read whole by every cold lookup.
TAIL_VIDEOS = 2048

#: A catalog has at least so many times the videos of the next.
RATIO = 8

#: Catalogs of up to so many keys have a filter in the head, which spares most lookups a request.
FILTERED = 2 * RATIO * TAIL_VIDEOS

#: A commit of more videos than this is listed without its keys: every lookup looks into its index file.
LISTED = 2 * TAIL_VIDEOS


def index_path(stem: str) -> str:
    return f"_index/{stem}.idx"


@dataclass(frozen=True, slots=True)
class Tail:
    """The index file of one commit. `prefixes`: the first four bytes of its keys, ascending; None: look into it."""

    stem: str
    videos: int
    prefixes: bytes | None


@dataclass(frozen=True, slots=True)
class Catalog:
    """A large index file. `start`: of the file, as in it; `filter`: a Bloom filter of its keys; None: look into it."""

    path: str
    videos: int
    start: bytes
    filter: bytes | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """What the index covers: the log up to `version`.

    `catalogs`, `tail`: in order of age, the newest last, the tail newer than the catalogs. `unindexed`: data files
    without an index (written by others, or whose index is lost). `stale`: rows were deleted by others, so that the
    index says too much.
    """

    version: int
    catalogs: tuple[Catalog, ...] = ()
    tail: tuple[Tail, ...] = ()
    unindexed: tuple[str, ...] = ()
    stale: bool = False

    def pack(self) -> bytes:
        said = {
            "version": self.version,
            "catalogs": [
                [c.path, c.videos, len(c.start), None if c.filter is None else len(c.filter)] for c in self.catalogs
            ],
            "tail": [[t.stem, t.videos, None if t.prefixes is None else len(t.prefixes)] for t in self.tail],
            "unindexed": self.unindexed,
            "stale": self.stale,
        }
        text = json.dumps(said, separators=(",", ":")).encode()
        parts = [part for c in self.catalogs for part in (c.start, c.filter or b"")]
        parts += [t.prefixes or b"" for t in self.tail]
        return b"".join((MAGIC, struct.pack("<I", len(text)), text, *parts))

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Head:
        try:
            if data[:8] != MAGIC:
                raise ValueError("it does not begin as one")
            at = 12 + struct.unpack_from("<I", data, 8)[0]
            said = json.loads(data[12:at])

            def take(length: int | None) -> bytes:
                nonlocal at
                at += length or 0
                return data[at - (length or 0) : at]

            catalogs = []
            for path, videos, length, bits in said["catalogs"]:
                start = take(length)
                catalogs.append(Catalog(path, videos, start, None if bits is None else take(bits)))
            tail = []
            for stem, videos, length in said["tail"]:
                tail.append(Tail(stem, videos, None if length is None else take(length)))
            if at != len(data):
                raise ValueError("it is cut short")
            return cls(said["version"], tuple(catalogs), tuple(tail), tuple(said["unindexed"]), said["stale"])
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise LogError(f"{name}: not the head of an event log's index: {error}") from error


#: Stands for a head that cannot be read: nothing is known.
DAMAGED = Head(-1, stale=True)


def load(store: Store) -> tuple[Head, str] | None:
    """The published head and the tag of this version of it; None where there is none, DAMAGED where it is."""
    found = store.tagged(HEAD)
    if found is None:
        return None
    try:
        return Head.unpack(found[0], f"{store.uri}/{HEAD}"), found[1]
    except LogError:
        return DAMAGED, found[1]


def advance(head: Head, store: Store, until: int | None = None, own: Mapping[str, bytes] | None = None) -> Head | None:
    """The head brought up to version `until` (default: the newest) from the commits in between.

    `own`: index files at hand, by stem. None where a commit in between has been cleaned up.
    """
    while until is None or head.version < until:
        commit = read_commit(store, head.version + 1)
        if commit is None:
            return head if until is None else None
        head = _after(head, commit, store, own or {})
    return head


def _after(head: Head, commit: Commit, store: Store, own: Mapping[str, bytes]) -> Head:
    head = replace(head, version=head.version + 1)
    files: dict[str, list[DataFile]] = {}
    for file in commit.added:
        if file.record != "runs":
            files.setdefault(stem_of(file.path), []).append(file)
    if not commit.data_change:  # rows are in other files now: where those have no index, the one there is still right
        for stem, of_stem in files.items():
            if of_stem[0].record == "events" and is_ours(of_stem[0].path):
                with contextlib.suppress(FileNotFoundError, LogError):
                    head = replace(head, tail=(*head.tail, tail_of(stem, read_index(store, stem, own))))
        return head
    if any(not path.startswith("record=runs/") for path in commit.removed):
        head = replace(head, stale=True)
    for stem, of_stem in files.items():
        try:
            head = replace(head, tail=(*head.tail, tail_of(stem, read_index(store, stem, own))))
        except (FileNotFoundError, LogError):
            head = replace(head, unindexed=(*head.unindexed, *(f.path for f in of_stem if f.record != "windows")))
    return head


def read_index(store: Store, stem: str, own: Mapping[str, bytes]) -> bytes:
    """An index file of a commit; `own`: those at hand."""
    return own[stem] if stem in own else store.read(index_path(stem))


def stem_of(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".parquet")


def tail_of(stem: str, data: bytes) -> Tail:
    index = IndexFile.of(data, index_path(stem))
    count, videos = index.header["keys"], index.header["videos"]
    return Tail(stem, videos, b"".join(k[:4] for k, _ in index.items()) if count <= LISTED else None)


def catalog_of(store: Store, path: str, start: bytes) -> Catalog:
    """A catalog from its file's path and start."""
    file = IndexFile.parse(start, store.reader(path), path)
    small = file.header["keys"] <= FILTERED
    return Catalog(path, file.header["videos"], start, bloom_filter(file) if small else None)


def write_catalog(store: Store, whole: bytes) -> Catalog:
    """A new catalog from a whole index file."""
    path = f"_index/catalog-{fresh_name()}.idx"
    store.create(path, whole)
    return catalog_of(store, path, IndexFile.of(whole, path).start)


def templates_of(store: Store) -> Templates:
    """The template that the log's largest catalog uses: new index files that use it too merge without repacking."""
    published = load(store)
    if published is None or not published[0].catalogs:
        return Templates()
    c = published[0].catalogs[0]
    return Templates(IndexFile.parse(c.start, store.reader(c.path), c.path).templates.all()[:1])
