"""The features of a log ready for searching: one array per model that made them, on this machine's disk.

In the folder of the log's search index (`pipeline.search.place`), which can be deleted at any time: parts that only
ever come in addition, memory-mapped, and `state.json`, replaced last, which lists them. What is near a picture is found
by comparing with all vectors: exact, and one pass over the bytes (`python -m jobs.bench.pictures` says how long it
takes). Vectors are compared after their common mean is taken away, which all pictures have and none is told apart by
(Mu and Viswanath, All-but-the-Top, ICLR 2018).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import LogError
from pipeline.features.kept import FeatureFile, feature_files, read_features
from pipeline.log.store import Store, fresh_name

FORMAT = "features-1"

#: Rows of a part: small files of many commits are put together until they are so many.
PART = 262_144

#: Rows that are compared at a time: their float32 copies stay within some ten MB.
BLOCK = 16_384

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """`owners` (video_id, run_id), `owner` [N] whose each row is, `span_us` int64 [N, 2], `vectors` float16 [N, D]."""

    owners: list[tuple[str, str]]
    owner: npt.NDArray[np.int32]
    span_us: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]


class FeatureIndex:
    """Reading is thread-safe; writing is for one at a time (`pipeline.search.place.locked`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FORMAT
        self._loaded: dict[str, Part] = {}

    # -- reading

    def makers(self) -> dict[str, int]:
        """How many vectors there are of each `made_by`."""
        return {made_by: sum(p["rows"] for p in parts) for made_by, parts in self._state()["parts"].items()}

    def damaged(self) -> int:
        """How many files beside the log could not be read, or are of another format."""
        return int(self._state().get("damaged", 0))

    def parts(self, made_by: str) -> list[Part]:
        """All vectors of one maker. Raises LogError where files of the index are damaged."""
        return [self._part(part["name"]) for part in self._state()["parts"].get(made_by, [])]

    def mean(self, made_by: str) -> Floats:
        """float32 [D]."""
        parts = self._state()["parts"][made_by]
        total = np.sum([part["sum"] for part in parts], axis=0)
        return (total / sum(part["rows"] for part in parts)).astype(np.float32)

    def _part(self, name: str) -> Part:
        if name not in self._loaded:
            try:
                owners = json.loads((self.folder / f"{name}.owners.json").read_text())
                owner, span_us, vectors = (
                    np.load(self.folder / f"{name}.{what}.npy", mmap_mode="r", allow_pickle=False)
                    for what in ("owner", "span", "vectors")
                )
            except (OSError, ValueError) as error:
                raise LogError(
                    f"{self.folder}: the index of pictures is damaged ({error}); `secondsight search LOG --rebuild`"
                ) from error
            self._loaded[name] = Part([(v, r) for v, r in owners], owner, span_us, vectors)
        return self._loaded[name]

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / "state.json").read_text())
            if isinstance(state, dict) and {"log", "files", "parts"} <= state.keys():
                return state
        except (OSError, ValueError):
            pass
        return {"log": "", "files": [], "parts": {}}

    # -- writing

    def take_in(self, store: Store, log: str, progress: Callable[[str], None] = lambda _: None) -> int:
        """Take in the files that came beside the log since; returns how many vectors were new. Raises LogError."""
        state = self._state()
        if state["log"] != log:
            self.clear()
            state = {"log": log, "files": [], "parts": {}}
        known = set(state["files"])
        fresh = [path for path in feature_files(store) if path not in known]
        count, waiting = 0, list[FeatureFile]()
        for number, path in enumerate(fresh, 1):
            found = read_features(store, path)
            if found is None:
                state["damaged"] = state.get("damaged", 0) + 1
            elif len(found.owner):
                waiting.append(found)
                count += len(found.owner)
            state["files"].append(path)
            if sum(len(f.owner) for f in waiting) >= PART:
                self._add(state, waiting)
                waiting = []
                progress(f"pictures of {number} of {len(fresh)} files")
        if fresh or state != self._state():
            self._add(state, waiting)
        return count

    def _add(self, state: dict[str, Any], files: list[FeatureFile]) -> None:
        """Files become parts; a small part before them is made anew with them in it."""
        old: list[str] = []
        by_maker: dict[tuple[str, int], list[FeatureFile]] = {}
        for file in files:
            by_maker.setdefault((file.made_by, file.vectors.shape[1]), []).append(file)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for (made_by, dimensions), together in by_maker.items():
                parts = state["parts"].setdefault(made_by, [])
                if parts and len(parts[0]["sum"]) != dimensions:  # not what its maker made before: not to be believed
                    continue
                if parts and parts[-1]["rows"] + sum(len(f.owner) for f in together) <= PART:
                    last = parts.pop()
                    part = self._part(last["name"])
                    span_us = part.span_us
                    together.insert(
                        0, FeatureFile(made_by, part.owners, part.owner, span_us[:, 0], span_us[:, 1], part.vectors)
                    )
                    old.append(last["name"])
                parts.append(self._write(together))
            temporary = self.folder / f".state.{os.getpid()}.tmp"
            temporary.write_text(json.dumps(state))
            os.replace(temporary, self.folder / "state.json")
        except OSError as error:
            raise LogError(f"{self.folder}: cannot write the index of pictures: {error.strerror}") from error
        for name in old:
            self._loaded.pop(name, None)
            for path in self.folder.glob(f"{name}.*"):
                path.unlink(missing_ok=True)

    def _write(self, files: list[FeatureFile]) -> dict[str, Any]:
        name = fresh_name()
        owners = {pair: number for number, pair in enumerate(dict.fromkeys(pair for f in files for pair in f.owners))}
        numbers = [np.array([owners[pair] for pair in f.owners], np.int32)[f.owner] for f in files]
        vectors = np.concatenate([f.vectors for f in files])
        (self.folder / f"{name}.owners.json").write_text(json.dumps(list(owners)))
        np.save(self.folder / f"{name}.owner.npy", np.concatenate(numbers))
        np.save(
            self.folder / f"{name}.span.npy",
            np.stack([np.concatenate([f.start_us for f in files]), np.concatenate([f.end_us for f in files])], 1),
        )
        np.save(self.folder / f"{name}.vectors.npy", vectors)
        return {"name": name, "rows": len(vectors), "sum": vectors.sum(0, dtype=np.float64).tolist()}

    def clear(self) -> None:
        """Forget all of it."""
        self._loaded.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def nearness(part: Part, mean: Floats, vector: Floats) -> Floats:
    """Cosine [N] of a part's vectors with `vector` [D], both without the mean."""
    wanted = vector - mean
    wanted /= max(float(np.linalg.norm(wanted)), 1e-12)
    found = np.empty(len(part.owner), np.float32)
    for first, block in _blocks(part.vectors):
        centred = block - mean
        length = np.sqrt(np.einsum("nd,nd->n", centred, centred))
        found[first : first + len(block)] = centred @ wanted / np.maximum(length, 1e-12)
    return found


def _blocks(vectors: npt.NDArray[np.float16]) -> Iterator[tuple[int, Floats]]:
    for first in range(0, len(vectors), BLOCK):
        yield first, vectors[first : first + BLOCK].astype(np.float32)


def log_identity(store: Store) -> str:
    """What tells a log from another one that takes its place."""
    from pipeline.search.intake import log_mark

    return hashlib.blake2b(f"{store.uri} {log_mark(store)}".encode(), digest_size=16).hexdigest()
