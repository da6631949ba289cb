"""The head of the index: one small object that tells a reader, in one request, where everything else is.

`_index/head` covers the log up to a version: the large index files (the catalogs; the start of each is inside the head)
and the index files of the commits since (the tail; of each, the first four bytes of its keys). Committers publish it
after their commit by compare-and-swap, so its version only grows. It is derived from the Delta log: a reader that
finds newer commits catches up from them, and a head that is lost or late costs time, not answers.

When the tail is long it is merged into a catalog, together with the catalogs that are not much larger: each is at least
RATIO times as large as the next. So a video is rewritten a few times per level, and there are few levels (levelled
merging, as in log-structured merge trees). A compaction merges all catalogs into one.

A cold lookup shall read one bucket of one index file. So all catalogs but the first have a filter in the head. Filters
must be small, so those catalogs are: together a share of the first, of which they become part when they are more. The
first is then written anew more often than its size alone would ask for; that is copying, hardly any computing
(merge.py), and up to some millions of videos less than what the videos' own rows take.

Compactions change no row, so the index of the files they replace stays right as long as those files exist; ours bring
an index file of the new ones, whose entries count as the newer.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.errors import LogError
from pipeline.log.entry import Templates
from pipeline.log.index import IndexFile
from pipeline.log.keyfilter import key_filter
from pipeline.log.protocol import Commit, DataFile, is_ours, read_commit
from pipeline.log.store import Store, fresh_name

HEAD = "_index/head"
MAGIC = b"SSHEAD03"  # then, by zlib: the length of what it says as JSON, that, and the bytes it gives lengths of

#: No head is larger, unpacked.
MAX_BYTES = 1 << 28

#: The tail is merged into a catalog when it holds more keys than this (a video has two, its own and its name's): every
#: cold lookup reads their first bytes.
TAIL_KEYS = 2048

#: A catalog has at least so many times the keys of the next.
RATIO = 8

#: The keys of all catalogs but the first are at most so many, or this share of those of the first.
FILTERED = 24_576
SHARE = 1 / 192

#: A commit of more keys than this is listed without them: every lookup looks into its index file until it is merged.
LISTED = 4 * TAIL_KEYS

#: An index file of a commit is read whole up to this size; the head has the start of a larger one.
WHOLE_BYTES = 32_768


def index_path(stem: str) -> str:
    return f"_index/{stem}.idx"


@dataclass(frozen=True, slots=True)
class Tail:
    """The index file of one commit. `prefixes`: the first four bytes of its keys, ascending; None: look into it.
    `start`: of the file, as in it; None: read it whole."""

    stem: str
    keys: int
    prefixes: bytes | None
    start: bytes | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """A large index file. `start`: of the file, as in it; `filter`: of its keys (keyfilter.py); None: look into it."""

    path: str
    keys: int
    start: bytes
    filter: bytes | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """What the index covers: the log up to `version`.

    `catalogs`, `tail`: in order of age, the newest last, the tail newer than the catalogs. `unindexed`: data files
    without an index (written by others, or whose index is lost). `stale`: rows were deleted by others, so that the
    index says too much. `retired`: catalogs that were merged into others, and when (Unix time): who reads an earlier
    head still needs them for a while.
    """

    version: int
    catalogs: tuple[Catalog, ...] = ()
    tail: tuple[Tail, ...] = ()
    unindexed: tuple[str, ...] = ()
    stale: bool = False
    retired: tuple[tuple[str, int], ...] = ()

    def pack(self) -> bytes:
        def lengths(*parts: bytes | None) -> list[int | None]:
            return [None if part is None else len(part) for part in parts]

        said = {
            "version": self.version,
            "catalogs": [[c.path, c.keys, *lengths(c.start, c.filter)] for c in self.catalogs],
            "tail": [[t.stem, t.keys, *lengths(t.prefixes, t.start)] for t in self.tail],
            "unindexed": self.unindexed,
            "stale": self.stale,
            "retired": self.retired,
        }
        text = json.dumps(said, separators=(",", ":")).encode()
        parts = [part or b"" for c in self.catalogs for part in (c.start, c.filter)]
        parts += [part or b"" for t in self.tail for part in (t.prefixes, t.start)]
        return MAGIC + zlib.compress(b"".join((struct.pack("<I", len(text)), text, *parts)), 1)

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Head:
        try:
            if data[:8] != MAGIC:
                raise ValueError("it does not begin as one")
            inflate = zlib.decompressobj()
            data = inflate.decompress(data[8:], MAX_BYTES)
            if not inflate.eof:
                raise ValueError("it is cut short, or too large")
            at = 4 + struct.unpack_from("<I", data)[0]
            said = json.loads(data[4:at])

            def take(length: int | None) -> bytes | None:
                nonlocal at
                at += length or 0
                return None if length is None else data[at - length : at]

            catalogs = tuple(Catalog(c[0], c[1], take(c[2]) or b"", take(c[3])) for c in said["catalogs"])
            tail = tuple(Tail(t[0], t[1], take(t[2]), take(t[3])) for t in said["tail"])
            if at != len(data):
                raise ValueError("it is cut short")
            retired = tuple((path, at_s) for path, at_s in said["retired"])
            return cls(said["version"], catalogs, tail, tuple(said["unindexed"]), said["stale"], retired)
        except (ValueError, KeyError, IndexError, TypeError, struct.error, zlib.error) as error:
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
    keys = index.header["keys"]
    prefixes = b"".join(k[:4] for k, _ in index.items()) if keys <= LISTED else None
    return Tail(stem, keys, prefixes, index.start if len(data) > WHOLE_BYTES else None)


def catalog_of(store: Store, path: str, start: bytes, first: bool) -> Catalog:
    """A catalog from its file's path and start; `first`: it is to be the first of a head."""
    file = IndexFile.parse(start, store.reader(path), path)
    return Catalog(path, file.header["keys"], start, None if first else key_filter(file.items()))


def write_catalog(store: Store, whole: bytes) -> Catalog:
    """A new catalog, the first of its head, from a whole index file."""
    path = f"_index/catalog-{fresh_name()}.idx"
    store.create(path, whole)
    return catalog_of(store, path, IndexFile.of(whole, path).start, first=True)


def templates_of(store: Store) -> Templates:
    """The template that the log's largest catalog uses: new index files that use it too merge without repacking."""
    published = load(store)
    if published is None or not published[0].catalogs:
        return Templates()
    c = published[0].catalogs[0]
    return Templates(IndexFile.parse(c.start, store.reader(c.path), c.path).templates.all()[:1])
