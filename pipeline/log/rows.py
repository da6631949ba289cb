"""From the records that the flow hands over to Arrow rows."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import isfinite
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.event import EVENT_ORDER, Event, event_ids
from pipeline.log.records import RunRecord, VideoResult
from pipeline.log.schema import EVENTS, NAMES, RUNS, VIDEOS, WINDOWS


def event_batches(results: Sequence[VideoResult], models: Mapping[str, str], rows: int) -> Iterator[pa.RecordBatch]:
    """The `events` rows of `results`, by video and start, in batches of exactly `rows` (the last may be shorter).

    `models` names the model of each run. Only one batch is held at a time.
    """
    for parts in _in_parts(sorted(results, key=attrgetter("video_id", "run_id")), rows):
        events = [e for _, of_one in parts for e in of_one]
        video = pa.array(np.repeat(np.arange(len(parts)), [len(of_one) for _, of_one in parts]))
        yield _batch(
            EVENTS,
            {
                "video_id": pa.array([r.video_id for r, _ in parts]).take(video),
                "run_id": pa.array([r.run_id for r, _ in parts]).take(video),
                "event_id": [name for r, of_one in parts for name in event_ids(r.video_id, r.run_id, of_one)],
                "start_us": [e.start_us for e in events],
                "end_us": [e.end_us for e in events],
                "kind": _texts([e.kind for e in events]),
                "text": _texts([e.text for e in events]),
                "confidence": [e.confidence if e.confidence == e.confidence else None for e in events],  # NaN: unknown
                "model": pa.array([models[r.run_id] for r, _ in parts]).take(video),
                "window_first": [e.window_first for e in events],
                "window_last": [e.window_last for e in events],
                "evidence_us": [e.evidence_us for e in events],
                "attributes": [as_json(e.attributes) if e.attributes else "{}" for e in events],
            },
        )


def _in_parts(results: Iterable[VideoResult], rows: int) -> Iterator[list[tuple[VideoResult, Sequence[Event]]]]:
    """Stretches of one result's events each, in order, together `rows` events (the last may be fewer)."""
    parts: list[tuple[VideoResult, Sequence[Event]]] = []
    room = rows
    for result in results:
        events = iter(_ordered(result.events))
        while part := list(islice(events, room)):
            parts.append((result, part))
            room -= len(part)
            if not room:
                yield parts
                parts, room = [], rows
    if parts:
        yield parts


def _ordered(events: Collection[Event]) -> Iterable[Event]:
    keys = iter(events)
    before = next(keys, None)
    for event in keys:
        if EVENT_ORDER(before) > EVENT_ORDER(event):
            return sorted(events, key=EVENT_ORDER)
        before = event
    return events


def window_batches(results: Sequence[VideoResult], models: Mapping[str, str], rows: int) -> Iterator[pa.RecordBatch]:
    """The `windows` rows of `results`, by video and window, in batches of `rows`."""
    pairs = ((r, w) for r in sorted(results, key=attrgetter("video_id", "run_id")) for w in r.windows)
    while chunk := list(islice(pairs, rows)):
        seen = [w for _, w in chunk]
        yield _batch(
            WINDOWS,
            {
                "video_id": [r.video_id for r, _ in chunk],
                "run_id": [r.run_id for r, _ in chunk],
                "window": [w.window.index for w in seen],
                "start_us": [w.window.start_us for w in seen],
                "end_us": [w.window.end_us for w in seen],
                "frame_us": [w.frame_us for w in seen],
                "model": [models[r.run_id] for r, _ in chunk],
                "attempt": [w.attempt for w in seen],
                "replica": [w.replica for w in seen],
                "decode_s": [w.decode_s for w in seen],
                "model_s": [w.model_s for w in seen],
                "input_tokens": [w.input_tokens for w in seen],
                "output_tokens": [w.output_tokens for w in seen],
                "truncated": [w.truncated for w in seen],
                "answer": [None if w.answer is None else _text(w.answer) for w in seen],
            },
        )


def video_batch(results: Sequence[VideoResult], finished_at_us: int) -> pa.RecordBatch:
    """The `videos` rows of `results`, by video."""
    rows = []
    for r in sorted(results, key=attrgetter("video_id", "run_id")):
        sums: dict[str, Any] = {"frames": 0, "decode_s": 0.0, "model_s": 0.0, "input_tokens": 0, "output_tokens": 0}
        for w in r.windows:
            sums["frames"] += len(w.frame_us)
            sums["decode_s"] += w.decode_s
            sums["model_s"] += w.model_s
            sums["input_tokens"] += w.input_tokens
            sums["output_tokens"] += w.output_tokens
        rows.append(
            {
                "video_id": r.video_id,
                "run_id": r.run_id,
                "config_hash": r.config_hash,
                "uris": [_text(u) for u in r.uris],
                "duration_us": r.duration_us,
                "offset_us": r.offset_us,
                "width": r.width,
                "height": r.height,
                "rotation": r.rotation,
                "codec": r.codec,
                "frame_rate": r.frame_rate,
                "size_bytes": r.size_bytes,
                "status": r.status,
                "reason": _text(r.reason),
                "windows": len(r.windows),
                "events": len(r.events),
                "lost_us": [{"start_us": a, "end_us": b} for a, b in r.lost_us],
                "finished_at_us": finished_at_us,
                **sums,
            }
        )
    return pa.RecordBatch.from_pylist(rows, schema=VIDEOS)


def run_batch(
    run: RunRecord, status: str, finished_at_us: int | None = None, totals: Mapping[str, Any] | None = None
) -> pa.RecordBatch:
    """The one row of a run."""
    row = {
        "run_id": run.run_id,
        "config_hash": run.config_hash,
        "config": as_json(run.config),
        "model": run.model,
        "weights_hash": run.weights_hash,
        "code_version": run.code_version,
        "host": as_json(run.host),
        "status": status,
        "started_at_us": run.started_us,
        "finished_at_us": finished_at_us,
        "forecast": as_json(run.forecast),
        "totals": as_json(totals or {}),
    }
    return pa.RecordBatch.from_pylist([row], schema=RUNS)


def name_batch(names: Sequence[tuple[str, str]]) -> pa.RecordBatch:
    """`names` rows from (video_id, uri) pairs."""
    return pa.RecordBatch.from_pylist([{"video_id": v, "uri": _text(u)} for v, u in names], schema=NAMES)


#: `json.dumps` would make this anew for every value, which takes longer than its work. Arguments: no look for circles
#: (they end in a RecursionError), what to do with unknown types, quoting in ASCII, no indent, separators, keys in their
#: order, no skipping of keys, no NaN.
_make = json.encoder.c_make_encoder  # type: ignore[attr-defined]  # what JSONEncoder.iterencode calls
_encode = _make(None, str, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False)


def as_json(value: Mapping[str, Any]) -> str:
    """JSON that every reader accepts: NaN and infinities become null, unknown types their text."""
    try:
        return "".join(_encode(value, 0))
    except ValueError:
        return "".join(_encode(_finite(value), 0))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _text(text: str) -> str:
    """Text that can be stored as UTF-8: lone surrogates (undecodable bytes of a file name) become "?"."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _texts(texts: list[str]) -> list[str]:
    return texts if all(map(str.isascii, texts)) else [_text(text) for text in texts]


def _batch(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.RecordBatch:
    given = ((columns[field.name], field.type) for field in schema)
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, kind) for c, kind in given]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
