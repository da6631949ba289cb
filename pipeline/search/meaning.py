"""The index of meanings: one vector for each text that events say, however many say it.

Files in a folder named after the embedder: parts of vectors (float16 [N, D]) with the numbers of their texts, which
only ever come in addition, and `state.json`, replaced last, which lists them. A text that no event says any more stays
and finds nothing. Compared with all of them for every search: exact, and fast enough for some hundred thousand texts
(jobs/bench/search.py says how fast).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import LogError
from pipeline.log.delta import Delta
from pipeline.log.protocol import DataFile
from pipeline.log.ranged import open_parquet
from pipeline.log.reader import damaged
from pipeline.log.store import Store, fresh_name
from pipeline.search.embed import Embedder
from pipeline.search.intake import commits_since
from pipeline.search.terms import normal
from pipeline.search.words import text_key

FORMAT = "meaning-1"

#: Texts in a part: so many are embedded before they are durable.
PART = 8192

#: Texts whose nearness is handed on at a time.
GROUP = 256


class MeaningIndex:
    """The vectors of one embedder in a folder. Reading is thread-safe; writing is for one at a time."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self.folder = folder / f"{FORMAT}-{embedder.identity}"
        self._embedder = embedder
        self._loaded: tuple[list[str], np.ndarray, np.ndarray] = ([], np.empty(0, np.int64), np.empty((0, 0)))

    # -- reading

    def nearest(self, text: str) -> Iterator[list[tuple[int, float]]]:
        """(number of a text, nearness) in groups, the nearest first, down to the embedder's floor."""
        keys, vectors = self._vectors()
        if not len(keys):
            return
        nearness = vectors @ self._embedder.embed([normal(text)])[0]
        above = np.flatnonzero(nearness >= self._embedder.floor)
        order = above[np.argsort(-nearness[above], kind="stable")]
        for at in range(0, len(order), GROUP):
            yield [(int(keys[i]), float(nearness[i])) for i in order[at : at + GROUP]]

    def _vectors(self) -> tuple[np.ndarray, np.ndarray]:
        parts: list[str] = self._state()["parts"]
        if parts != self._loaded[0]:
            try:
                keys = [np.load(self.folder / f"{p}.keys.npy", allow_pickle=False) for p in parts]
                vectors = [np.load(self.folder / f"{p}.npy", allow_pickle=False) for p in parts]
                self._loaded = (
                    parts,
                    np.concatenate(keys) if keys else np.empty(0, np.int64),
                    np.concatenate(vectors).astype(np.float32) if vectors else np.empty((0, 0), np.float32),
                )
            except (OSError, ValueError) as error:
                raise LogError(
                    f"{self.folder}: the index of meanings is damaged ({error}); `secondsight search LOG --rebuild`"
                ) from error
        return self._loaded[1], self._loaded[2]

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / "state.json").read_text())
            if isinstance(state, dict) and {"version", "log", "parts"} <= state.keys():
                return state
        except (OSError, ValueError):
            pass
        return {"version": -1, "log": "", "parts": []}

    # -- writing

    def take_in(self, store: Store, log: str, progress: Callable[[str], None] = lambda _: None) -> int:
        """Embed the texts that came into the log since; returns how many were new."""
        state = self._state()
        version = int(state["version"])
        commits = commits_since(store, version) if version >= 0 and state["log"] == log else None
        if commits is not None:
            files = [f for commit in commits if commit.data_change for f in commit.added]
            version += len(commits)
        else:
            delta = Delta(store)
            files, version = delta.files("events"), delta.version
        known = set(self._vectors()[0].tolist())
        count = 0
        waiting: dict[int, str] = {}
        for text in _texts(store, [f for f in files if f.record == "events"]):
            said = normal(text)
            key = text_key(said)
            if said.strip() and key not in known:
                known.add(key)
                waiting[key] = said
            if len(waiting) >= PART:
                count += len(waiting)
                self.add(waiting)
                waiting = {}
                progress(f"{count} texts embedded")
        if waiting:
            count += len(waiting)
            self.add(waiting)
        if version != state["version"] or log != state["log"]:
            self._save(self._state() | {"version": version, "log": log})
        return count

    def add(self, texts: dict[int, str]) -> None:
        """Embed texts, by their numbers, that are not in the index yet."""
        state = self._state()
        self._save(state | {"parts": [*state["parts"], self._part(texts)]})

    def clear(self) -> None:
        """Forget all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _part(self, texts: dict[int, str]) -> str:
        name = fresh_name()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(self.folder / f"{name}.keys.npy", np.array(list(texts), np.int64))
            np.save(self.folder / f"{name}.npy", self._embedder.embed(list(texts.values())).astype(np.float16))
        except OSError as error:
            raise LogError(f"{self.folder}: cannot write the index of meanings: {error.strerror}") from error
        return name

    def _save(self, state: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".state.{os.getpid()}.tmp"
            temporary.write_text(json.dumps(state))
            os.replace(temporary, self.folder / "state.json")
        except OSError as error:
            raise LogError(f"{self.folder}: cannot write the index of meanings: {error.strerror}") from error


def _texts(store: Store, files: list[DataFile]) -> Iterator[str]:
    """The different texts of each row group of data files of events."""
    for file in files:
        try:
            source = open_parquet(store, file)
            for group in range(source.num_row_groups):
                column = source.read_row_group(group, columns=["text"], use_threads=False)["text"]
                yield from (text for text in pc.unique(column).to_pylist() if text)
        except (pa.ArrowException, OSError) as error:
            raise damaged(store, file, error) from error
