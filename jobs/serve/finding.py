"""Search and questions over the served log: `pipeline.search`, kept up with the log while it grows."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from jobs.serve.archive import Archive, as_event
from jobs.serve.reply import Problem
from pipeline.errors import ModelError, SecondsightError, UsageError

if TYPE_CHECKING:
    from pipeline.search import Hit, Search
    from pipeline.search.ask import Found

T = TypeVar("T")

#: How long the index may lag behind the log.
UPDATE_S = 5.0

#: How long a search waits for the index: for the very first one, for the newest commits, and for those with a video
#: that it is put to.
FIRST_S, SOON_S, NEEDED_S = 10.0, 0.5, 3.0

#: How long many videos are looked through for what goes on at the time that a question asks about.
LOOK_THROUGH_S = 10.0

Mode = Literal["auto", "words", "meaning", "both"]


class Finding:
    """`model`: who answers questions, as openai:URL#NAME; None: nobody, questions get their evidence. Thread-safe."""

    def __init__(self, archive: Archive, model: str | None) -> None:
        self._archive, self.model = archive, model
        self._lock = threading.Lock()
        self._search: Search | None = None
        self._updating: threading.Thread | None = None
        self._looked_at = 0.0
        self._version = -1
        self._failed: Exception | None = None

    def _index(self, needed: bool = False) -> Search:
        """The index, at most a moment behind the log; `needed`: the newest commits are. Raises Problem where the
        libraries for it are missing, and while it is made for the first time."""
        with self._lock:
            if self._search is None:
                try:
                    from pipeline.search import Search
                except ImportError as error:
                    raise Problem(501, "not_installed", f"there is no search here: {error}") from error
                self._search = Search(self._archive.uri)
            version = self._archive.version
            due = needed or time.monotonic() - self._looked_at > UPDATE_S
            if self._updating is None and version != self._version and (due or self._version < 0):
                self._updating = threading.Thread(target=self._update, args=(version,), daemon=True, name="serve-index")
                self._updating.start()
            updating = self._updating
        if updating is not None:  # what is committed a moment ago is worth a moment; a large log is searched meanwhile
            updating.join(FIRST_S if self._version < 0 else NEEDED_S if needed else SOON_S)
            if self._failed is not None:
                raise self._failed
            if self._search.version < 0:
                raise Problem(503, "indexing", "the index for searching is being made: ask again soon", retry_s=10)
        return self._search

    def _asked(self, question: Callable[[Search], T]) -> T:
        """What the index says. Raises Problem 503 where it lacks a video that the log holds already."""
        search = self._index()
        from pipeline.search import NotIndexed

        try:
            return question(search)
        except NotIndexed:  # a video that the log has held for a moment
            try:
                return question(self._index(needed=True))
            except NotIndexed as error:
                raise Problem(503, "indexing", str(error), retry_s=5) from error

    def _update(self, version: int) -> None:
        assert self._search is not None
        try:
            with contextlib.suppress(OSError, AttributeError):  # on Linux, of this thread alone
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            self._search.update()
            self._version, self._failed = version, None
        except SecondsightError as error:
            self._failed = error
        finally:
            self._looked_at = time.monotonic()
            self._updating = None

    def find(
        self, text: str, *, mode: Mode, video: Sequence[str] | None, run: str | None, **only: Any
    ) -> dict[str, Any]:
        """A page of hits, and how they were found. Raises Problem 404 for an unknown video or run."""
        entries = None if video is None else [self._archive.find(name, run).entry for name in video]
        owners = None if entries is None else [(e.video_id, e.run_id) for e in entries]
        run_id = None if run is None else self._archive.run(run)["run_id"]
        hits = self._asked(lambda search: search.find(text, mode=mode, owners=owners, run=run_id, **only))
        return {"hits": [_said(hit) for hit in hits], "mode": self.mode() if mode == "auto" else mode}

    def ask(
        self, question: str, *, until: float, video: Sequence[str] | None, run: str | None, **only: Any
    ) -> dict[str, Any]:
        """The events that answer a question, put into words where there is a model that does it before `until`
        (monotonic). Raises Problem 404 for an unknown video or run."""
        for name in video or ():
            self._archive.find(name, run)
        run_id = None if run is None else self._archive.run(run)["run_id"]
        within_s = min(LOOK_THROUGH_S, (until - time.monotonic()) / 2)

        def look(search: Search) -> Found:
            from pipeline.search.ask import ask

            return ask(search, self._archive.query, question, video=video, run=run_id, within_s=within_s, **only)

        found = self._asked(look)
        said, note = None, ""
        if self.model is not None and found.evidence:
            from model.chat import ChatEndpoint
            from pipeline.search.answer import answer

            try:
                said = answer(found, ChatEndpoint(self.model, max(0.1, until - time.monotonic())))
            except (ModelError, UsageError) as error:  # also of a replica whose environment is another
                note = f"There is no answer in words, only what was found: {error}."
        if said is not None and not said.text:
            note = f"{self.model} gave no answer that the events support."
        evidence = [
            {"number": e.number, "role": e.role, "of": e.of, "event": _event(e.name, e.event)} for e in found.evidence
        ]
        return {
            "question": question,
            "videos": found.question.videos,
            "topic": found.question.topic,
            "answer": said.text if said is not None and said.text else None,
            "supported": bool(found.evidence) and found.fits if said is None else bool(said.text),
            "exact": found.exact,
            "total": found.total,
            "left": found.left,
            "note": " ".join(part for part in (_note(found), note) if part),
            "evidence": evidence,
        }

    def mode(self) -> str:
        """What search goes by: words, both (words and meaning), none; auto: nobody has searched yet. Opens nothing."""
        if self._search is not None:
            return "words" if self._search.embedder is None else "both"
        return "auto" if find_spec("tantivy") is not None else "none"


def _note(found: Found) -> str:
    """What a person should know of what was found."""
    if found.left:
        return f"{found.left} videos were not looked at, which would take too long: name one, or ask for less."
    if not found.evidence:
        return "No event of the log supports an answer."
    if not found.fits:
        return "No event has these words; this is what goes on at that time."
    return "" if found.exact else "No event has all of these words; these are the nearest."


def _said(hit: Hit) -> dict[str, Any]:
    return {"event": _event(hit.name, hit.event), "score": float(hit.score), "found_by": list(hit.found_by)}


def _event(name: str, event: dict[str, Any]) -> dict[str, Any]:
    """An event of the index, which holds what is searched and shown of it and not where it comes from."""
    known = dict.fromkeys(("confidence", "model", "window_first", "window_last", "evidence_us", "attributes"))
    return as_event({**known, **event}, name)
