"""A large event log, made quickly: as a compaction leaves it, its rows made by numpy and not by Event objects."""

from __future__ import annotations

import binascii
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.bench.log_write import PER_VIDEO, RUN, VIDEO_US, WORDS
from pipeline.log import EventLog
from pipeline.log.datafile import ROW_GROUP, write_data_file
from pipeline.log.delta import Delta, create_table
from pipeline.log.entry import Entry, Templates
from pipeline.log.head import FILTERED, HEAD, SHARE, TAIL_KEYS, Head, write_catalog
from pipeline.log.index import IndexFile, bucket_count
from pipeline.log.indexing import Rows, index_file
from pipeline.log.keyfilter import NAME_PLACES, VIDEO_PLACES
from pipeline.log.schema import EVENTS, VIDEOS
from pipeline.log.store import fresh_name, open_store

FILE_ROWS = 1_000_000


def large_log(path: Path, size: int) -> tuple[list[str], dict[str, Any]]:
    """A compacted log of `size` events at `path`, made if absent. Returns its video ids and what it measures."""
    generator = np.random.default_rng(size)
    noted_at = path.with_suffix(".json")
    if noted_at.exists():
        return _ids(generator, size // PER_VIDEO), json.loads(noted_at.read_text())
    store = open_store(str(path))
    create_table(store)
    delta = Delta(store)
    videos = size // PER_VIDEO
    ids = _ids(generator, videos)
    sentences = pa.array([" ".join(generator.choice(WORDS, 8)) for _ in range(20_000)])
    entries: list[Entry] = []
    files = []
    per_file = FILE_ROWS // PER_VIDEO
    began = time.perf_counter()
    for at in range(0, videos, per_file):
        some = ids[at : at + per_file]
        stem, noted = fresh_name(), Rows()
        written = write_data_file(store, "events", stem, EVENTS, noted.of(_batches(some, generator, sentences)))
        assert written is not None
        files.append(written.file)
        spans = noted.spans(stem, written.footer)
        for v in some:
            entry_spans = tuple(spans[v, RUN])
            entries.append(Entry(v, RUN, "done", "", VIDEO_US, 1, PER_VIDEO, (f"/archive/{v[:8]}.mp4",), entry_spans))
    listed = [
        {"video_id": e.video_id, "run_id": RUN, "config_hash": "bench", "uris": e.uris, "duration_us": VIDEO_US}
        | {"status": "done", "reason": "", "events": PER_VIDEO, "finished_at_us": 1}
        for e in entries
    ]
    batches = pa.Table.from_pylist(listed, schema=VIDEOS).to_batches(max_chunksize=16_384)
    videos_file = write_data_file(store, "videos", fresh_name(), VIDEOS, batches)
    assert videos_file is not None
    assert delta.commit([*files, videos_file.file])
    whole = index_file(entries, (), Templates())[1]
    catalog = write_catalog(store, whole)
    head = Head(delta.version, (catalog,)).pack()
    store.swap(HEAD, head, None)
    data = sum(f.size_bytes for f in files)
    facts = {
        "bytes/event": data / size,
        "index bytes/event": len(whole) / size,
        "head KB": len(head) / 1e3,
        "made in s": time.perf_counter() - began,
        "keys": IndexFile.of(whole, catalog.path).header["keys"],
    }
    noted_at.write_text(json.dumps(facts))
    return ids, facts


def _ids(generator: np.random.Generator, videos: int) -> list[str]:
    return sorted(binascii.hexlify(generator.bytes(16)).decode() for _ in range(videos))


def _batches(ids: list[str], generator: np.random.Generator, sentences: pa.Array) -> Iterator[pa.RecordBatch]:
    n = len(ids) * PER_VIDEO
    starts = np.sort(generator.integers(0, VIDEO_US, (len(ids), PER_VIDEO)), axis=1).ravel()
    lengths = generator.lognormal(15.5, 1.2, n).astype(np.int64)  # median 5 s, some of minutes
    ends = np.minimum(starts + lengths, VIDEO_US)
    hexes = binascii.hexlify(generator.bytes(8 * n))
    offsets = pa.py_buffer(np.arange(0, 16 * (n + 1), 16, dtype=np.int32))
    evidence = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 2 * n + 1, 2, dtype=np.int32)), pa.array(np.stack([starts, starts + 500_000], 1).ravel())
    )
    levels = pa.array([json.dumps({"level": i}, separators=(",", ":")) for i in range(10)])
    kinds = pa.array(["shot", "text", "activity", "goal", "black"])
    columns = {
        "video_id": pa.array(np.repeat(np.array(ids, dtype=object), PER_VIDEO)),
        "run_id": pa.array([RUN]).take(pa.array(np.zeros(n, np.int32))),
        "event_id": pa.Array.from_buffers(pa.string(), n, [None, offsets, pa.py_buffer(hexes)]),
        "start_us": pa.array(starts),
        "end_us": pa.array(ends),
        "kind": kinds.take(pa.array(generator.integers(0, 5, n))),
        "text": sentences.take(pa.array(generator.integers(0, len(sentences), n))),
        "confidence": pa.array(generator.random(n, np.float32)),
        "model": pa.array(["bench"]).take(pa.array(np.zeros(n, np.int32))),
        "window_first": pa.array((starts // 15_000_000).astype(np.int32)),
        "window_last": pa.array((ends // 15_000_000).astype(np.int32)),
        "evidence_us": evidence.cast(pa.list_(pa.int64())),
        "attributes": levels.take(pa.array(generator.integers(0, 10, n))),
    }
    table = pa.table([columns[name] for name in EVENTS.names], schema=EVENTS)
    yield from table.to_batches(max_chunksize=ROW_GROUP)


def at_a_billion(keys: int, path: Path) -> dict[str, Any]:
    """Bytes of a cold lookup at 10^9 events: head, one bucket, one row group.

    The head: 0.85 bytes per bucket, and the filters and prefixes of all that is not merged yet, at their fullest.
    """
    store = open_store(str(path))
    catalog = max(Path(store.uri, "_index").glob("catalog-*"), key=lambda p: p.stat().st_size)
    billion = 10**9 / PER_VIDEO * 2  # an entry and a name each
    per_key = catalog.stat().st_size / keys
    buckets = bucket_count(int(billion))
    row_group = max(f.size_bytes / f.rows for f in EventLog.open(str(path)).snapshot().files("events")) * ROW_GROUP
    filtered = max(FILTERED, SHARE * billion) * (VIDEO_PLACES + NAME_PLACES) / 2 / math.log(2) / 8
    head, bucket = (0.85 * buckets + filtered + 4 * TAIL_KEYS) / 1e3, billion / buckets * per_key / 1e3
    return {"keys": billion, "head KB": head, "bucket KB": bucket, "row group KB": row_group / 1e3} | {
        "together KB": head + bucket + row_group / 1e3,
        "requests": 3,
        "index GB": billion * per_key / 1e9,
    }
