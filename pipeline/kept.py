"""Answers about single windows of videos that are not finished yet, kept beside the log so that a crash costs little.

`_windows/CONFIG_HASH/VIDEO_ID/NAME.jsonl.gz`: one JSON object per window, gzip with its checksum. These are no table:
readers of the log never see them, and whoever commits the video deletes them. A file that is damaged, of another
version or about other windows is as good as absent: its windows are watched again. Names are never used twice and
content never changes, so two runs at once may both write.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from typing import Any

from pipeline.errors import LogError
from pipeline.event import WindowEvent, WindowEvents
from pipeline.features.vectors import FrameFeatures
from pipeline.log.store import Store, fresh_name
from pipeline.plan import Window

FOLDER = "_windows"
VERSION = 1
MAX_BYTES = 1 << 28  # of one file, unpacked: more was not written by us
FORGET_S = 30 * 86400.0  # after which nobody will come back for them


@dataclass(frozen=True, slots=True)
class KeptWindow:
    """A window that was watched: what the decoder and the model said (`workers.work.Answer`, flat)."""

    window: Window
    frame_us: tuple[int, ...]
    lost_us: tuple[tuple[int, int], ...]
    decode_s: float
    frame_bytes: int
    events: WindowEvents
    attempt: int
    replica: str


def keep(store: Store, config_hash: str, video_id: str, windows: Sequence[KeptWindow]) -> str:
    """Write windows of one video; returns the path. Raises LogError, OSError where the store cannot be written."""
    return _put(store, config_hash, video_id, (json.dumps(_plain(w), default=_other) for w in windows))


def join(store: Store, config_hash: str, video_id: str, paths: Sequence[str]) -> tuple[str, list[str]]:
    """Write one file that holds what several of one video hold; returns its path, and the paths that it stands for: not
    those of another version, or damaged. Raises LogError, OSError where the store cannot be read or written."""
    held = {path: lines for path in paths if (lines := _lines(store, path))}
    return _put(store, config_hash, video_id, chain.from_iterable(held.values())), list(held)


def _put(store: Store, config_hash: str, video_id: str, lines: Iterable[str]) -> str:
    text = "\n".join([json.dumps({"version": VERSION}), *lines])
    path = f"{_folder(config_hash)}/{video_id}/{fresh_name()}.jsonl.gz"
    store.put(path, gzip.compress(text.encode(), compresslevel=1))
    return path


def kept_files(store: Store, config_hash: str) -> dict[str, list[str]]:
    """video_id -> paths of what is kept of it under a configuration; files too old to be wanted are deleted."""
    found: dict[str, list[str]] = {}
    old: list[str] = []
    for path, _, changed in store.list(_folder(config_hash)):
        parts = path.split("/")
        if len(parts) != 4 or not parts[3].endswith(".jsonl.gz") or parts[3].startswith("."):
            continue
        if changed < time.time() - FORGET_S:
            old.append(path)
        else:
            found.setdefault(parts[2], []).append(path)
    store.delete(old)
    return found


def forgotten_files(store: Store) -> list[str]:
    """What is kept under any configuration and too old to be wanted: nobody may ever run that configuration again."""
    return [path for path, _, changed in store.list(FOLDER) if changed < time.time() - FORGET_S]


def read_kept(store: Store, paths: Iterable[str], expected: Mapping[int, Window]) -> Iterator[KeptWindow]:
    """What files hold of the `expected` windows (by index), each once. What cannot be read is as good as absent."""
    seen: set[int] = set()
    for path in paths:
        try:
            lines = _lines(store, path)
        except (LogError, OSError):
            continue
        for line in lines:
            try:
                window = _parsed(json.loads(line), expected)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            if window is not None and window.window.index not in seen:
                seen.add(window.window.index)
                yield window


def _lines(store: Store, path: str) -> list[str]:
    """The lines of a file, one for each window; none where it is gone, damaged, or of another version."""
    try:
        first, *lines = _unpacked(store.read(path)).decode().split("\n")
        return lines if json.loads(first) == {"version": VERSION} else []
    except (FileNotFoundError, EOFError, zlib.error, ValueError, RecursionError):
        return []


def _folder(config_hash: str) -> str:
    return f"{FOLDER}/{config_hash}"


def _unpacked(data: bytes) -> bytes:
    """Bounded: what comes from outside may claim any size. Raises zlib.error, EOFError where damaged or cut."""
    unpacker = zlib.decompressobj(wbits=31)
    text = unpacker.decompress(data, MAX_BYTES)
    if not unpacker.eof:
        raise EOFError("cut off, or too large")
    return text


def _plain(kept: KeptWindow) -> dict[str, Any]:
    said = kept.events
    return {
        "window": [kept.window.index, kept.window.start_us, kept.window.end_us],
        "frame_us": kept.frame_us,
        "lost_us": kept.lost_us,
        "decode_s": kept.decode_s,
        "frame_bytes": kept.frame_bytes,
        "attempt": kept.attempt,
        "replica": kept.replica,
        "model_s": said.model_s,
        "input_tokens": said.input_tokens,
        "output_tokens": said.output_tokens,
        "truncated": said.truncated,
        "answer": said.answer,
        "features": None if said.features is None else _plain_features(said.features),
        "events": [
            [
                e.start_us,
                e.end_us,
                e.kind,
                e.text,
                e.confidence,
                e.evidence_us,
                dict(e.attributes) if _is_json(e.attributes) else {},  # as the log will hold them
                e.continues_before,
                e.continues_after,
            ]
            for e in said.events
        ],
    }


def _plain_features(features: FrameFeatures) -> list[Any]:
    return [features.made_by, features.at_us, base64.b64encode(features.data).decode()]


def _parsed_features(plain: Any) -> FrameFeatures | None:
    """Raises ValueError, TypeError for what is no features."""
    if plain is None:
        return None
    made_by, at_us, data = plain
    features = FrameFeatures(str(made_by), tuple(int(t) for t in at_us), base64.b64decode(data, validate=True))
    assert features.vectors is not None  # raises where the bytes are none
    return features


def _is_json(attributes: object) -> bool:
    try:
        return isinstance(attributes, Mapping) and bool(json.dumps(dict(attributes), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False


def _other(value: Any) -> Any:
    """Numbers of other libraries as plain ones. What a model had no business to say becomes null, which reducing drops
    as it would have dropped the value."""
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else None


def _parsed(plain: dict[str, Any], expected: Mapping[int, Window]) -> KeptWindow | None:
    """None for a window that is not expected; raises where it is not one of ours."""
    index, start_us, end_us = plain["window"]
    window = expected.get(index)
    if window is None or (window.start_us, window.end_us) != (start_us, end_us):
        return None
    events = tuple(
        WindowEvent(start, end, kind, text, confidence, tuple(evidence or ()), attributes, before, after)
        for start, end, kind, text, confidence, evidence, attributes, before, after in plain["events"]
    )
    answer = plain["answer"]
    said = WindowEvents(
        window,
        events,
        float(plain["model_s"]),
        int(plain["input_tokens"]),
        int(plain["output_tokens"]),
        bool(plain["truncated"]),
        None if answer is None else str(answer),
        _parsed_features(plain.get("features")),
    )
    return KeptWindow(
        window,
        tuple(int(t) for t in plain["frame_us"]),
        tuple((int(a), int(b)) for a, b in plain["lost_us"]),
        float(plain["decode_s"]),
        int(plain["frame_bytes"]),
        said,
        int(plain["attempt"]),
        str(plain["replica"]),
    )
