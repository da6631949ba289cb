"""The head of the index: one small object that tells a reader, in one request, where everything else is.

`_index/head` covers the log up to a version: the big index file (the catalog; its header and directory are inside the
head) and the index files of the commits since (the tail; of each, the first four bytes of its keys). Committers publish
it after their commit by compare-and-swap, so its version only grows. It is derived from the Delta log: a reader that
finds newer commits catches up from them, and a head that is lost or late costs time, not answers.

Compactions change no row, so the index of the files they replace stays right as long as those files exist.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pipeline.errors import LogError
from pipeline.log.index import IndexFile, Templates, build, merged
from pipeline.log.protocol import Commit, DataFile, read_commit
from pipeline.log.store import Store, fresh_name

HEAD = "_index/head"
MAGIC = b"SSHEAD01"

#: The tail is merged into the catalog when it holds this many videos or commits: it is read whole by every cold lookup.
TAIL_VIDEOS, TAIL_COMMITS = 4096, 256

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
class Head:
    """What the index covers: the log up to `version`.

    `catalog`: (path, header and directory) of the big index file. `unindexed`: data files without an index (written by
    others, or whose index is lost). `stale`: rows were deleted by others, so that the index says too much.
    """

    version: int
    catalog: tuple[str, bytes] | None = None
    tail: tuple[Tail, ...] = ()
    unindexed: tuple[str, ...] = ()
    stale: bool = False

    def pack(self) -> bytes:
        said = {
            "version": self.version,
            "catalog": self.catalog and [self.catalog[0], len(self.catalog[1])],
            "tail": [[t.stem, t.videos, None if t.prefixes is None else len(t.prefixes)] for t in self.tail],
            "unindexed": self.unindexed,
            "stale": self.stale,
        }
        text = json.dumps(said, separators=(",", ":")).encode()
        catalog = self.catalog[1] if self.catalog else b""
        keys = (t.prefixes for t in self.tail if t.prefixes is not None)
        return b"".join((MAGIC, struct.pack("<I", len(text)), text, catalog, *keys))

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Head:
        try:
            if data[:8] != MAGIC:
                raise ValueError("it does not begin as one")
            at = 12 + struct.unpack_from("<I", data, 8)[0]
            said = json.loads(data[12:at])
            catalog = None
            if said["catalog"]:
                path, length = said["catalog"]
                catalog = (path, data[at : at + length])
                at += length
            tail = []
            for stem, videos, length in said["tail"]:
                tail.append(Tail(stem, videos, None if length is None else data[at : at + length]))
                at += length or 0
            if at != len(data):
                raise ValueError("it is cut short")
            return cls(said["version"], catalog, tuple(tail), tuple(said["unindexed"]), said["stale"])
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
    if not commit.data_change:
        return head
    files: dict[str, list[DataFile]] = {}
    for file in commit.added:
        if file.record != "runs":
            files.setdefault(stem_of(file.path), []).append(file)
    if any(not path.startswith("record=runs/") for path in commit.removed):
        head = replace(head, stale=True)
    for stem, of_stem in files.items():
        data = own.get(stem)
        try:
            data = store.read(index_path(stem)) if data is None else data
            head = replace(head, tail=(*head.tail, tail_of(stem, data)))
        except (FileNotFoundError, LogError):
            head = replace(head, unindexed=(*head.unindexed, *(f.path for f in of_stem if f.record != "windows")))
    return head


def stem_of(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".parquet")


def tail_of(stem: str, data: bytes) -> Tail:
    index = IndexFile.of(data, index_path(stem))
    count, videos = index.header["keys"], index.header["videos"]
    return Tail(stem, videos, b"".join(k[:4] for k, _ in index.items()) if count <= LISTED else None)


@dataclass(slots=True)
class Publisher:
    """Keeps the head up with this committer's commits. `own`: index files of the tail written here, by stem."""

    store: Store
    own: dict[str, bytes] = field(default_factory=dict)
    _known: tuple[Head, str] | None = None

    def publish(self, version: int) -> None:
        """Make the head cover at least `version`.

        What goes wrong here is no fault of the commit before it: the head stays late until the next one.
        """
        with contextlib.suppress(LogError, OSError):
            self._publish(version)

    def _publish(self, version: int) -> None:
        known = self._known or load(self.store)
        self._known = None
        while True:
            head, tag = known if known is not None else (DAMAGED, None)
            if head.version >= version:
                break
            ahead = advance(Head(-1) if head is DAMAGED else head, self.store, version, self.own)
            if ahead is None:  # commits in between are gone: only a compaction can make the index again
                return
            if sum(t.videos for t in ahead.tail) > TAIL_VIDEOS or len(ahead.tail) > TAIL_COMMITS:
                ahead = self._rolled(ahead)
            new_tag = self.store.swap(HEAD, ahead.pack(), tag)
            if new_tag is not None:
                known = ahead, new_tag
                break
            known = load(self.store)
        self._known = known
        if known is not None:
            listed = {t.stem for t in known[0].tail}
            self.own = {stem: data for stem, data in self.own.items() if stem in listed}

    def _rolled(self, head: Head) -> Head:
        """With the tail merged into the catalog."""
        files, lost = [], []
        for t in head.tail:
            try:
                files.append(IndexFile.of(self._index(t.stem), index_path(t.stem)))
            except (FileNotFoundError, LogError):
                lost += [f"record={record}/{t.stem}.parquet" for record in ("events", "videos", "names")]
        if head.catalog is not None:
            path = head.catalog[0]
            files.insert(0, IndexFile.of(self.store.read(path), path))
        catalog = write_catalog(self.store, files)
        return replace(head, catalog=catalog, tail=(), unindexed=(*head.unindexed, *lost))

    def _index(self, stem: str) -> bytes:
        return self.own[stem] if stem in self.own else self.store.read(index_path(stem))


def write_catalog(store: Store, files: Iterable[IndexFile]) -> tuple[str, bytes]:
    """Write the merger of index files as a new catalog; returns (path, header and directory)."""
    files = list(files)
    templates = Templates(t for f in files for t in f.templates.all())
    videos = sum(f.header["videos"] for f in files)
    pairs = merged(pair for f in files for pair in f.items())
    start, whole = build(pairs, templates, videos)
    path = f"_index/catalog-{fresh_name()}.idx"
    if not store.create(path, whole):
        raise LogError(f"{store.uri}/{path}: already there")
    return path, start
