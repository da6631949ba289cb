"""Which video is meant by a name, and which of its runs answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from pipeline.errors import UsageError, shortened
from pipeline.log.entry import Entry
from pipeline.log.finder import Finder

#: Names listed in an error message at most.
LISTED = 10

#: Of so many videos the list is kept (about a kilobyte each), of so many runs.
KEPT, KEPT_RUNS = 250_000, 4

#: Videos whose names are looked through for one that a person may have meant.
SUGGESTED_FROM = 20_000


@dataclass(frozen=True, slots=True)
class Match:
    """A video of the log in the run that a question is answered from."""

    name: str  # the uri that it was asked for by, or its first; the id where it has none
    entry: Entry

    @classmethod
    def of(cls, name: str, entry: Entry) -> Match:
        """Where `name` is but the id, it is called by its uri."""
        return cls(entry.uris[0] if name == entry.video_id and entry.uris else name, entry)


class Names:
    """The videos of one version of a log. Safe to use from several threads: the finder is asked by one at a time."""

    def __init__(self, finder: Finder, uri: str) -> None:
        self._finder, self._uri = finder, uri
        self._lock, self._listing = threading.Lock(), threading.RLock()
        self._listed: dict[str | None, tuple[Match, ...]] = {}
        self.version = finder.version

    def resolve(self, name: str) -> tuple[str, str]:
        """(video_id, name) of the video meant by a whole uri or path, the end of one, or the beginning of an id.

        A path that was found with new content later means the content found last. Raises UsageError where no video is
        meant (with the nearest names) or more than one (with their names).
        """
        with self._lock:
            pairs = self._finder.named(name) if name else []
        absolute = os.path.abspath(name)
        for whole in (name, absolute):
            exact = {video_id for video_id, uri in pairs if uri == whole}
            if exact:
                return self._newest(exact), whole
        ending = {video_id: uri for video_id, uri in pairs if uri.endswith("/" + name.lstrip("/"))}
        if not ending and is_id(name):
            with self._lock:
                ending = {video_id: video_id for video_id in self._finder.prefixed(name.lower())}
        if len(ending) == 1:
            return next(iter(ending.items()))
        if ending:
            listed = sorted((uri, video_id) for video_id, uri in ending.items())[:LISTED]
            shown = "\n  ".join(f"{uri}  ({video_id})" for uri, video_id in listed)
            more = f"\n  and {len(ending) - LISTED} more" if len(ending) > LISTED else ""
            raise UsageError(f"{name!r} is the name of {len(ending)} videos; say more of it:\n  {shown}{more}")
        raise UsageError(f"no video {shortened(name)!r} in {self._uri}{self._suggestion(name)}")

    def _newest(self, video_ids: Iterable[str]) -> str:
        candidates = sorted(video_ids)
        if len(candidates) == 1:
            return candidates[0]
        return max(candidates, key=lambda v: max((e.finished_at_us for e in self.runs_of(v)), default=0))

    def _suggestion(self, name: str) -> str:
        import difflib

        if not self._known:
            return ": the log holds no videos yet"
        last = shortened(name.rstrip("/").rsplit("/", 1)[-1].casefold())
        near = difflib.get_close_matches(last, self._known, n=3, cutoff=0.5)
        near += [k for k in self._known if last and last in k and k not in near]
        if not near:
            return "; `secondsight log LOG` lists them"
        return "; did you mean " + " or ".join(self._known[k] for k in near[:3]) + "?"

    @cached_property
    def _known(self) -> dict[str, str]:
        """Last parts of the videos' names, as they are, by what they are without case."""
        with self._listing:
            found = {uri.rsplit("/", 1)[-1] for e in islice(self._lister.all(), SUGGESTED_FROM) for uri in e.uris}
        return {name.casefold(): name for name in sorted(found)}

    def runs_of(self, video_id: str) -> list[Entry]:
        """What the log holds of a video: one entry per run, in the order in which they finished it."""
        with self._lock:
            entries = self._finder.entries(video_id)
        return _by_time(entries)

    def _newest_runs(self, video_id: str) -> list[Entry]:
        """The last of them, with the newest done one: on an object store, without looking where only older ones are."""
        with self._lock:
            entries = self._finder.newest(video_id)
        return _by_time(entries)

    def find(self, name: str, run: str | None = None) -> Match:
        """The video meant by `name`, in its newest done run, or in `run` (a run id or the beginning of one).

        Raises UsageError: see `resolve`; not in that run; watched in no run to the end (with the reason).
        """
        runs = self.runs_of if run is not None else self._newest_runs
        video_id, shown = name.lower(), name
        entries = runs(video_id) if len(name) == 32 and is_id(name) else []
        if not entries:
            video_id, shown = self.resolve(name)
            entries = runs(video_id)
        if not entries:
            raise UsageError(f"{shown} is a name in {self._uri}, but no run has put its video there")
        if run is not None:
            chosen = [e for e in entries if e.run_id == run] or [e for e in entries if e.run_id.startswith(run)]
            if len({e.run_id for e in chosen}) != 1:
                which = ", ".join(e.run_id for e in entries)
                raise UsageError(f"{shown} is not in a run {shortened(run)!r} of its own; its runs are: {which}")
            return Match.of(shown, chosen[-1])
        done = [e for e in entries if e.status == "done"] or [e for e in entries if e.events]
        if not done:
            last = entries[-1]
            raise UsageError(f"{shown} could not be watched ({last.status} in run {last.run_id}): {last.reason}")
        return Match.of(shown, done[-1])

    def all(self, run: str | None = None) -> tuple[Match, ...]:
        """Every video in its newest done run (in `run`: its id, or the beginning of one), in the order of their names.

        Videos that were never done are left out. Raises UsageError where no run, or more than one, is meant.
        """
        with self._listing:  # which takes long in a large log: lookups do not wait for it
            if run not in self._listed:
                found = [Match(e.uris[0] if e.uris else e.video_id, e) for e in self._all(run)]
                found.sort(key=lambda m: (m.name, m.entry.video_id))
                if len(found) > KEPT:
                    return tuple(found)
                if len(self._listed) >= KEPT_RUNS:
                    self._listed.clear()
                self._listed[run] = tuple(found)
            return self._listed[run]

    @cached_property
    def _lister(self) -> Finder:
        with self._lock:
            return self._finder.apart()

    def _all(self, run: str | None) -> Iterable[Entry]:
        entries = list(self._lister.all())
        if run is not None:
            ids = {e.run_id for e in entries}
            meant = [i for i in ids if i == run] or [i for i in ids if i.startswith(run)]
            if len(meant) != 1:
                what = "no videos of a run" if not meant else f"{len(meant)} runs that begin with"
                known = ", ".join(sorted(meant or ids)[:LISTED]) or "none"
                raise UsageError(f"{self._uri} holds {what} {shortened(run)!r}; runs with videos: {known}")
            run = meant[0]
        chosen: dict[str, Entry] = {}
        for entry in entries:
            if (run is None and entry.status == "done") or (run is not None and entry.run_id == run):
                other = chosen.get(entry.video_id)
                if other is None or (entry.finished_at_us, entry.run_id) > (other.finished_at_us, other.run_id):
                    chosen[entry.video_id] = entry
        return chosen.values()


def _by_time(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (e.finished_at_us, e.run_id))


def is_id(name: str) -> bool:
    """Whether a name may be the beginning of a video's id."""
    return len(name) >= 4 and all(c in "0123456789abcdefABCDEF" for c in name)
