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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import LogError
from pipeline.log.index import IndexFile, Templates
from pipeline.log.merge import bloom_filter, write_merged
from pipeline.log.protocol import Commit, DataFile, is_ours, read_commit
from pipeline.log.store import Store, fresh_name

HEAD = "_index/head"
MAGIC = b"SSHEAD02"

#: The tail is merged into a catalog when it holds this many videos or commits: it is read whole by every cold lookup.
TAIL_VIDEOS, TAIL_COMMITS = 2048, 256

#: A catalog has at least so many times the videos of the next.
RATIO = 8

#: Catalogs of up to so many keys have a filter in the head, which spares most lookups a request.
FILTERED = 2 * RATIO * TAIL_VIDEOS

#: While it is younger than this, a merge that another committer has begun is left to it.
CLAIM = "_index/merging"
CLAIM_S = 60.0

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
                    head = replace(head, tail=(*head.tail, tail_of(stem, _index(store, stem, own))))
        return head
    if any(not path.startswith("record=runs/") for path in commit.removed):
        head = replace(head, stale=True)
    for stem, of_stem in files.items():
        try:
            head = replace(head, tail=(*head.tail, tail_of(stem, _index(store, stem, own))))
        except (FileNotFoundError, LogError):
            head = replace(head, unindexed=(*head.unindexed, *(f.path for f in of_stem if f.record != "windows")))
    return head


def _index(store: Store, stem: str, own: Mapping[str, bytes]) -> bytes:
    return own[stem] if stem in own else store.read(index_path(stem))


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
            head = self.head()
            if head is not None and _long(head):
                self.merge()

    def head(self) -> Head | None:
        """The head as last seen here."""
        return self._known[0] if self._known is not None else None

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
            known = self._swapped(ahead, tag)
            if known is not None:
                break
            known = load(self.store)
        self._known = known
        if known is not None:
            listed = {t.stem for t in known[0].tail}
            self.own = {stem: data for stem, data in self.own.items() if stem in listed}

    def _swapped(self, head: Head, tag: str | None) -> tuple[Head, str] | None:
        new_tag = self.store.swap(HEAD, head.pack(), tag)
        return None if new_tag is None else (head, new_tag)

    def merge(self, everything: bool = False) -> None:
        """Merge the tail into a catalog, with the catalogs that are not much larger (`everything`: with all).

        Committers may publish meanwhile: in their head, what was merged gives way to the merger. Where another one has
        merged it, the work was in vain (`everything`: and is done again); where another one is at it, it is left to it.
        """
        if self._known is None:
            self._known = load(self.store)
        if self._known is None or self._known[0] is DAMAGED or not self._claimed(everything):
            return
        try:
            for _ in range(3 if everything else 1):
                if self._known is None or self._merged_in(*_due(self._known[0], everything)):
                    break
        finally:
            self.store.delete([CLAIM])

    def _claimed(self, everything: bool) -> bool:
        """Whether the merge is ours to do. A claim is advice: two merges at a time cost time, not answers."""
        there = self.store.tagged(CLAIM)
        if there is not None and not everything:
            with contextlib.suppress(ValueError):
                if time.time() - float(there[0]) < CLAIM_S:
                    return False
        claimed = self.store.swap(CLAIM, str(time.time()).encode(), there[1] if there else None) is not None
        return claimed or everything

    def _merged_in(self, old: Sequence[Catalog], tail: Sequence[Tail]) -> bool:
        """Merge and publish; False where others have merged the same meanwhile."""
        if not tail and len(old) < 2:
            return True
        new, lost = self._merged(old, tail)
        while self._known is not None:
            if any(c.path == new.path for c in self._known[0].catalogs):
                return True  # the answer to our own swap was lost
            head = _exchanged(self._known[0], old, tail, new, lost)
            if head is None:
                break
            swapped = self._swapped(head, self._known[1])
            self._known = swapped or load(self.store)
            if swapped:
                return True
        self.store.delete([new.path])
        return False

    def _merged(self, old: Sequence[Catalog], tail: Sequence[Tail]) -> tuple[Catalog, tuple[str, ...]]:
        """The merger of index files, and the data files whose index is lost."""
        catalogs = [IndexFile.parse(c.start, self.store.reader(c.path), c.path) for c in old]
        recent, lost = [], list[str]()
        for t in tail:
            try:
                recent.append(IndexFile.of(_index(self.store, t.stem, self.own), index_path(t.stem)))
            except (FileNotFoundError, LogError):
                lost += [f"record={record}/{t.stem}.parquet" for record in ("events", "videos", "names")]
        return catalog_of(self.store, *write_merged(self.store, catalogs, recent)), tuple(lost)


def _long(head: Head) -> bool:
    return sum(t.videos for t in head.tail) > TAIL_VIDEOS or len(head.tail) > TAIL_COMMITS


def _due(head: Head, everything: bool) -> tuple[tuple[Catalog, ...], tuple[Tail, ...]]:
    """The catalogs and the tail to be merged."""
    at, videos = len(head.catalogs), sum(t.videos for t in head.tail)
    while at and (everything or head.catalogs[at - 1].videos < RATIO * videos):
        at -= 1
        videos += head.catalogs[at].videos
    return head.catalogs[at:], head.tail


def _exchanged(
    head: Head, old: Sequence[Catalog], tail: Sequence[Tail], new: Catalog, lost: Sequence[str]
) -> Head | None:
    """`head` with the merger in the place of what was merged; None where that is no longer there."""
    kept = head.catalogs[: len(head.catalogs) - len(old)]
    if [c.path for c in head.catalogs[len(kept) :]] != [c.path for c in old]:
        return None
    if [t.stem for t in head.tail[: len(tail)]] != [t.stem for t in tail]:
        return None
    unindexed = (*head.unindexed, *lost)
    return replace(head, catalogs=(*kept, new), tail=head.tail[len(tail) :], unindexed=unindexed)


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
