"""Search: the index of words and, where there is an embedder, of meanings, over one log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tantivy import Occur
from tantivy import Query as Clause

from pipeline.clock import format_time
from pipeline.errors import LogError, UsageError, shortened
from pipeline.log.snapshot import Snapshot
from pipeline.log.store import Store, open_store
from pipeline.query import Query
from pipeline.query.names import LISTED
from pipeline.search.embed import Embedder, installed_embedder
from pipeline.search.fuse import Found, fuse
from pipeline.search.intake import log_mark, take_in
from pipeline.search.meaning import MeaningIndex
from pipeline.search.named import parts_of
from pipeline.search.owner import Owner, hashed, run_key
from pipeline.search.place import locked, place_of
from pipeline.search.terms import well_formed
from pipeline.search.wish import check_length, understand
from pipeline.search.words import View, WordIndex, reading, remove_index

Mode = Literal["auto", "words", "meaning", "both"]

#: Hits that can be paged through: who needs more wants `secondsight sql`.
MAX_HITS = 10_000

#: Events of each ranking that enter a fusion, at least.
FUSED = 200


@dataclass(frozen=True, slots=True)
class Hit:
    """An event that was found. `event`: its row of the `events` table; `score`: comparable within one answer only;
    `found_by`: "words", "spelling" (a word of the search is in no event: one letter was changed), "meaning";
    `name`: its video's."""

    event: dict[str, Any]
    score: float
    found_by: tuple[str, ...]
    name: str


class NotIndexed(LogError):
    """A video of the log is not in the index yet: the next update takes it in."""


class Search:
    """Events of a log by what they say. Thread-safe, and safe beside other processes on the same log.

    The index is made from the log and holds nothing else; `update` takes in what was committed since, `rebuild` makes
    it anew. `find` answers as of the last update by any process (the very first one updates by itself).
    """

    def __init__(
        self, log: str, index: str | Path | None = None, embedder: Embedder | Literal["installed"] | None = "installed"
    ) -> None:
        """`index`: folder of the index (default: `_search` beside a log that can be written to, else in the user's
        cache). `embedder`: None for words only. Raises LogError where there is no log."""
        self._store: Store = open_store(log)
        self._query = Query(log)
        self.folder = place_of(self._store, index)
        self._guard = threading.Lock()
        self._owners: dict[int, Owner | None] = {}  # of an index at one commit; None: not its video's newest run
        self._owners_of: object = None
        self.embedder = installed_embedder() if embedder == "installed" else embedder

    # -- the index

    @property
    def notice(self) -> str:
        """What a person should know of how this searches: "" where it knows words and meaning."""
        if self.embedder is None:
            return "words only: no embedder is installed (README, Searching)"
        return ""

    @property
    def version(self) -> int:
        """The version of the log that is searched; -1 before the first update."""
        state = self._words.state()
        return -1 if state is None else state.version

    def update(self, progress: Callable[[str], None] = lambda _: None) -> int:
        """Take in what was committed to the log since; returns how many events came new. Processes take turns.

        Raises LogError: no log any more, a damaged data file, no place to write. An index that proves to be damaged
        is made anew.
        """
        with locked(self.folder):
            try:
                self._words.state()
            except LogError:
                self._discard()
            with reading(self.folder):
                count = take_in(self._store, self._words, progress)
            if self._meaning is not None:
                self._meaning.take_in(self._store, log_mark(self._store), progress)
        self._query.refresh()
        return count

    def rebuild(self, progress: Callable[[str], None] = lambda _: None) -> int:
        """Make the index anew from the log; returns how many events are in it."""
        with locked(self.folder):
            self._discard()
            if self._meaning is not None:
                self._meaning.clear()
        return self.update(progress)

    @cached_property
    def _words(self) -> WordIndex:
        try:
            return WordIndex(self.folder)
        except LogError:
            with locked(self.folder):
                remove_index(self.folder)
                return WordIndex(self.folder)

    @cached_property
    def _meaning(self) -> MeaningIndex | None:
        return None if self.embedder is None else MeaningIndex(self.folder, self.embedder)

    def _discard(self) -> None:
        remove_index(self.folder)
        self.__dict__.pop("_words", None)

    # -- asking

    def called(self, parts: Collection[str]) -> dict[str, set[tuple[str, str]]]:
        """(whole name, video_id) of the videos that are called so: by what the last part of one of their names is
        (named.py), in any case."""
        view = self._searched()
        found: dict[str, set[tuple[str, str]]] = {}
        with reading(self.folder):
            for name, video_id in view.named(parts):
                for part in parts_of(name):
                    found.setdefault(part, set()).add((name, video_id))
        return found

    def is_said(self, words: str) -> bool:
        """Whether the kind or text of an event has these words side by side."""
        try:
            hits = self.find(f'"{words.replace(chr(34), " ")}"', limit=1, mode="words")
        except UsageError:  # no words at all
            return False
        return any(h.found_by == ("words",) for h in hits)

    def find(
        self,
        text: str,
        *,
        limit: int = 20,
        offset: int = 0,
        video: str | Sequence[str] | None = None,
        owners: Collection[tuple[str, str]] | None = None,
        kinds: Collection[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        run: str | None = None,
        min_confidence: float | None = None,
        mode: Mode = "auto",
    ) -> list[Hit]:
        """The events that fit `text` best, the best first; of equal ones those that came into the log first.

        `text` is read as wish.py says. `video`: only of this one, or of these; `owners`: in their place, (video_id,
        run_id) of those that a query found in a log that may be newer; `kinds`: only of these kinds;
        `start_us`, `end_us`: only what goes on at any moment of that span of its video; `run`: as this run saw it (its
        id or the beginning of one) instead of each video's newest done run; `min_confidence`: events without one are
        left out.
        `mode`: by words, by meaning, or both put together by reciprocal rank; "auto" is both where there is an
        embedder, else words.

        Raises UsageError: nothing to search for, a text far too long, an empty span, unknown video or run, meaning
        without an embedder; LogError: a damaged index; NotIndexed: some of `owners` came after the last update.
        """
        if limit < 1 or offset < 0 or limit + offset > MAX_HITS:
            raise UsageError(f"hits {offset} to {offset + limit}: ask for one at least, and for {MAX_HITS} at most")
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise UsageError(f"a confidence of {min_confidence}: it lies between 0 and 1")
        if start_us is not None and end_us is not None and end_us <= start_us:
            raise UsageError(f"the span from {format_time(start_us)} to {format_time(end_us)} is empty")
        if mode in ("meaning", "both") and self._meaning is None:
            raise UsageError(f"cannot search by meaning: {self.notice}")
        view = self._searched()
        with reading(self.folder):
            asked = _Asked(
                view,
                self._filters(view, video, owners, kinds, start_us, end_us, run, min_confidence),
                newest=run is None and video is None and owners is None,
            )
            if mode == "words" or self._meaning is None:
                found = self._by_words(asked, text, limit + offset)
            elif mode == "meaning":
                found = self._by_meaning(asked, text, limit + offset)
            else:
                enough = max(FUSED, 2 * (limit + offset))
                found = fuse(self._by_words(asked, text, enough), self._by_meaning(asked, text, enough))
            return self._hits(view, found[offset : offset + limit])

    def _searched(self) -> View:
        """The index as of the last update; of a log that was never searched, the first."""
        view = self._words.view()
        if view.state is None:
            self.update()
            view = self._words.view()
        return view

    def _filters(
        self,
        view: View,
        video: str | Sequence[str] | None,
        owners: Collection[tuple[str, str]] | None,
        kinds: Collection[str] | None,
        start_us: int | None,
        end_us: int | None,
        run: str | None,
        min_confidence: float | None,
    ) -> list[Clause]:
        words = self._words
        filters: list[Clause] = []
        if owners is None and video is not None:
            owners = [(m.entry.video_id, m.entry.run_id) for m in self._query.matches(video, run)]
        if owners is not None:
            keys = [hashed(*owner) for owner in owners]
            if not view.has(keys):
                raise NotIndexed(f"{self._store.uri}: the search index has not taken in its newest videos: ask again")
            filters.append(words.any_of("owner", keys))
        elif run is not None:
            filters.append(words.any_of("run", [run_key(self._run(run))]))
        if kinds is not None:
            filters.append(words.any_kind([well_formed(kind) for kind in kinds]))
        if start_us is not None:
            filters.append(words.range("until_us", low=start_us + 1))
        if end_us is not None:
            filters.append(words.range("start_us", below=end_us))
        if min_confidence is not None:
            filters.append(words.range("confidence", low=min_confidence))
        return filters

    def _run(self, run: str) -> str:
        """The run that is meant by its id or the beginning of one."""
        runs = Snapshot(self._store).table("runs", ["run_id"])["run_id"].to_pylist()
        meant = [r for r in runs if r == run] or sorted(r for r in runs if r.startswith(run))
        if len(meant) != 1:
            known = ", ".join(sorted(meant or runs)[:LISTED]) or "none"
            raise UsageError(f"{self._store.uri}: {shortened(run)!r} is not one run; its runs are: {known}")
        return str(meant[0])

    # -- rankings

    def _by_words(self, asked: _Asked, text: str, limit: int) -> list[Found]:
        wish = understand(text, self._words.schema, asked.view.searcher)
        how = ("spelling",) if wish.unknown else ("words",)
        return [Found(address, score, how) for score, address in self._ranked(asked, wish.query, limit)]

    def _by_meaning(self, asked: _Asked, text: str, limit: int) -> list[Found]:
        """Texts in order of nearness, and the events that say them."""
        assert self._meaning is not None
        check_length(text)
        found: list[Found] = []
        for group in self._meaning.nearest(text):
            texts = [
                (Occur.Should, Clause.const_score_query(Clause.term_query(self._words.schema, "text", key), nearness))
                for key, nearness in group
            ]
            ranked = self._ranked(asked, Clause.boolean_query(texts), limit - len(found))
            found += [Found(address, score, ("meaning",)) for score, address in ranked]
            if len(found) >= limit:
                break
        return found

    def _ranked(self, asked: _Asked, clause: Clause, limit: int) -> list[tuple[float, Any]]:
        """(score, address) of the `limit` best events of a clause under the filters."""
        query = Clause.boolean_query([(Occur.Must, c) for c in (clause, *asked.filters)]) if asked.filters else clause
        searcher, state = asked.view.searcher, asked.view.state
        if not asked.newest or state is None or not state.several:
            return list(searcher.search(query, limit, count=False).hits)
        fetch = 2 * limit
        while True:  # hits of older runs are left out: look further until enough are left
            hits = searcher.search(query, fetch, count=False).hits
            owners = searcher.fast_field_values("owner", [address for _, address in hits])
            self._learn({int(o) for o in owners if o is not None}, asked.view)
            kept = [h for h, o in zip(hits, owners, strict=True) if self._owners.get(int(o or 0)) is not None]
            if len(kept) >= limit or len(hits) < fetch:
                return kept[:limit]
            fetch *= 4

    def _learn(self, keys: set[int], view: View) -> None:
        """Find out which of the owners are the run that speaks for its video."""
        with self._guard:
            if self._owners_of != view.state:
                self._owners, self._owners_of = {}, view.state
            missing = [key for key in keys if key not in self._owners]
            if not missing:
                return
            videos = {hashed(owner.video_id) for owner in view.owners(missing).values()}
            runs: dict[str, list[Owner]] = {}
            for owner in view.owners_of(list(videos)):
                runs.setdefault(owner.video_id, []).append(owner)
            for of_video in runs.values():
                speaks = [o for o in of_video if o.status == "done"] or [o for o in of_video if o.events]
                newest = max(speaks, key=lambda o: (o.finished_at_us, o.run_id), default=None)
                self._owners.update({o.key: o if o is newest else None for o in of_video})

    def _hits(self, view: View, found: Sequence[Found]) -> list[Hit]:
        addresses = [f.address for f in found]
        keys = [int(key or 0) for key in view.searcher.fast_field_values("owner", addresses)] if addresses else []
        owners = view.owners(sorted(set(keys)))
        hits = []
        for one, key, row in zip(found, keys, view.events(addresses), strict=True):
            owner = owners[key]
            event = {"video_id": owner.video_id, "run_id": owner.run_id, **row}
            hits.append(Hit(event, one.score, one.found_by, owner.name))
        return hits


@dataclass(frozen=True, slots=True)
class _Asked:
    """What stays the same through one search. `newest`: only events of each video's newest done run."""

    view: View
    filters: list[Clause]
    newest: bool
