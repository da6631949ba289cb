"""Merging index files: as one stream in order of their keys, however large they are."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

from pipeline.log.entry import ENTRY, Templates, pack_entry, pack_names, unpack_entry, unpack_names
from pipeline.log.index import Bucket, Builder, IndexFile, Pair, bucket_count, by_bucket, pack_bucket
from pipeline.log.store import Store, fresh_name

#: Template footers of a merged file at most: each run brings its own, and a cold lookup reads them all.
TEMPLATES = 16


def write_merged(store: Store, catalogs: Sequence[IndexFile], tail: Sequence[IndexFile]) -> tuple[str, bytes]:
    """Write the merger of index files as a new one; returns (path, start).

    Both sequences are in order of age, the newest last, and the tail is newer than the catalogs: of a video in one run
    the newest entry counts. The tail is held in memory, the catalogs are streamed.
    """
    files = (*catalogs, *reversed(tail))
    templates = Templates()
    for file in files:
        for footer in file.templates.all()[: max(0, TEMPLATES - len(templates.all()))]:
            templates.add(footer)
    recent = [pair for file in reversed(tail) for pair in _pairs(file, templates)]
    recent.sort(key=itemgetter(0))  # stable: the newest first among equals
    streams = [recent, *(_pairs(file, templates) for file in reversed(catalogs[1:]))]
    newer = newest(heapq.merge(*streams, key=itemgetter(0)) if len(streams) > 1 else recent)
    path = f"_index/catalog-{fresh_name()}.idx"
    sink = store.sink(path)
    try:
        builder = Builder(sink.write, bucket_count(sum(file.header["keys"] for file in files)))
        if not catalogs:
            builder.add_all(newer)
        elif catalogs[0].header["buckets"] == builder.buckets and _fits(catalogs[0], templates):
            _add_into(builder, catalogs[0], newer)
        else:
            oldest = _pairs(catalogs[0], templates)
            builder.add_all(newest(heapq.merge(newer, oldest, key=itemgetter(0))))
        start = builder.end(templates, max((file.last_us for file in files), default=0))
        sink.close()
    except BaseException:
        getattr(sink, "discard", lambda: None)()
        raise
    store.sync([path])
    return path, start


def _add_into(builder: Builder, base: IndexFile, pairs: Iterable[Pair]) -> None:
    """Write all buckets: those of `base`, most of them copied as bytes, with newer pairs in order of their keys."""
    for body, new in zip(base.bodies(), by_bucket(pairs, builder.buckets), strict=True):
        builder.add(*_bucket_with(body, new))


def _bucket_with(body: bytes, new: Sequence[Pair]) -> tuple[bytes, int]:
    """(bucket, how many keys it has)."""
    bucket = Bucket(body)
    if not new:
        return body, bucket.count
    if (spliced := bucket.with_new(new)) is not None:
        return spliced, bucket.count + len(new)
    merged = list(newest(heapq.merge(new, bucket, key=itemgetter(0))))
    return pack_bucket(merged), len(merged)


def _fits(file: IndexFile, templates: Templates) -> bool:
    """Whether the footers in a file are packed against these templates already."""
    return {*file.templates.all()} <= {*templates.all()}


def _pairs(file: IndexFile, templates: Templates) -> Iterable[Pair]:
    """The pairs of a file, footers packed against `templates`."""
    if _fits(file, templates):
        return file.items()
    return (
        (key, pack_entry(unpack_entry(blob, file.templates), templates) if blob[:1] == ENTRY else blob)
        for key, blob in file.items()
    )


def newest(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Of pairs in order of their keys, the newest first among equals: one per key of a name, with all its videos, and
    the first per video and run."""
    waiting: list[bytes] = []
    at = b""
    for key, blob in pairs:
        if key != at:
            yield from _distinct(at, waiting)
            at, waiting = key, []
        waiting.append(blob)
    yield from _distinct(at, waiting)


def _distinct(key: bytes, blobs: Sequence[bytes]) -> Iterable[Pair]:
    if len(blobs) == 1:
        return ((key, blobs[0]),)
    entries: dict[tuple[str, str], bytes] = {}
    names: list[tuple[str, str]] = []
    for blob in blobs:
        if blob[:1] == ENTRY:
            video_id, run_id = json.loads(blob[5 : 5 + int.from_bytes(blob[1:5], "little")])[:2]
            entries.setdefault((video_id, run_id), blob)
        else:
            names += unpack_names(blob)
    found = [(key, blob) for blob in entries.values()]
    return [(key, pack_names(names)), *found] if names else found
