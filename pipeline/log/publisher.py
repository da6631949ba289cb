"""Keeping the head of the index up with commits, and its levels merged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import LogError
from pipeline.log.finder import DAMAGE
from pipeline.log.head import (
    DAMAGED,
    FILTERED,
    HEAD,
    RATIO,
    SHARE,
    TAIL_KEYS,
    Catalog,
    Head,
    Tail,
    advance,
    catalog_of,
    index_path,
    load,
    read_index,
)
from pipeline.log.index import IndexFile
from pipeline.log.merge import write_merged
from pipeline.log.store import Store

#: While it is younger than this, a merge that another committer has begun is left to it.
CLAIM = "_index/merging"
CLAIM_S = 60.0

#: So long after it was merged into another, a catalog is deleted by the next merge.
RETIRED_S = 3600

#: So many commits in the tail, or TAIL_KEYS keys, are merged into a catalog.
TAIL_COMMITS = 256


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
        with contextlib.suppress(OSError, *DAMAGE):
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
                if self._known is None or self._merged_in(self._known[0], everything):
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

    def _merged_in(self, seen: Head, everything: bool) -> bool:
        """Merge what is due in a head, and publish; False where others have merged the same meanwhile."""
        old, tail = _due(seen, everything)
        if not tail and len(old) < 2:
            return True
        new, lost = self._merged(old, tail, first=len(old) == len(seen.catalogs))
        while self._known is not None:
            if any(c.path == new.path for c in self._known[0].catalogs):
                return True  # the answer to our own swap was lost
            before = self._known[0]
            head = _exchanged(before, old, tail, new, lost)
            if head is None:
                break
            swapped = self._swapped(head, self._known[1])
            self._known = swapped or load(self.store)
            if swapped:
                self.store.delete([path for path, _ in {*before.retired} - {*head.retired}])
                return True
        self.store.delete([new.path])
        return False

    def _merged(self, old: Sequence[Catalog], tail: Sequence[Tail], first: bool) -> tuple[Catalog, tuple[str, ...]]:
        """The merger of index files (`first`: to be the first catalog), and the data files whose index is lost."""
        catalogs = [IndexFile.parse(c.start, self.store.reader(c.path), c.path) for c in old]
        recent, lost = [], list[str]()
        for t in tail:
            try:
                recent.append(IndexFile.of(read_index(self.store, t.stem, self.own), index_path(t.stem)))
            except (FileNotFoundError, LogError):
                lost += [f"record={record}/{t.stem}.parquet" for record in ("events", "videos", "names")]
        path, start = write_merged(self.store, catalogs, recent)
        return catalog_of(self.store, path, start, first), tuple(lost)


def _long(head: Head) -> bool:
    return sum(t.keys for t in head.tail) > TAIL_KEYS or len(head.tail) > TAIL_COMMITS


def _due(head: Head, everything: bool) -> tuple[tuple[Catalog, ...], tuple[Tail, ...]]:
    """The catalogs and the tail to be merged."""
    at, keys = len(head.catalogs), sum(t.keys for t in head.tail)
    if head.catalogs:
        others = keys + sum(c.keys for c in head.catalogs[1:])
        everything |= others > max(FILTERED, SHARE * head.catalogs[0].keys)
    while at and (everything or head.catalogs[at - 1].keys < RATIO * keys):
        at -= 1
        keys += head.catalogs[at].keys
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
    now = int(time.time())
    retired = *(r for r in head.retired if r[1] > now - RETIRED_S), *((c.path, now) for c in old)
    return replace(head, catalogs=(*kept, new), tail=head.tail[len(tail) :], unindexed=unindexed, retired=retired)
