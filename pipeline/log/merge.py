"""Merging index files: as one stream in order of their keys, however large they are."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

from pipeline.errors import LogError
from pipeline.log.entry import ENTRY, KEY, Templates, pack_entry, pack_names, unpack_entry, unpack_names
from pipeline.log.index import Builder, IndexFile
from pipeline.log.store import Store, fresh_name

#: Template footers of a merged file at most: each run brings its own, and a cold lookup reads them all.
TEMPLATES = 16

Pair = tuple[bytes, bytes]


def write_merged(store: Store, catalogs: Sequence[IndexFile], tail: Sequence[IndexFile]) -> tuple[str, bytes]:
    """Write the merger of index files as a new one; returns (path, start).

    Both sequences are in order of age, the newest last, and the tail is newer than the catalogs: of a video in one run
    the newest entry counts. The tail is held in memory, the catalogs are streamed.
    """
    templates = Templates()
    for file in (*catalogs, *reversed(tail)):
        for footer in file.templates.all()[: max(0, TEMPLATES - len(templates.all()))]:
            templates.add(footer)
    recent = [pair for file in reversed(tail) for pair in _pairs(file, templates)]
    recent.sort(key=itemgetter(0))  # stable: the newest first among equals
    streams = [recent, *(_pairs(file, templates) for file in reversed(catalogs))]
    pairs = newest(heapq.merge(*streams, key=itemgetter(0)) if catalogs else recent)
    path = f"_index/catalog-{fresh_name()}.idx"
    sink = store.sink(path)
    try:
        builder = Builder(sink.write, sum(file.header["keys"] for file in (*catalogs, *tail)))
        start = builder.run(pairs, templates)
        sink.close()
    except BaseException:
        getattr(sink, "discard", lambda: None)()
        raise
    store.sync([path])
    return path, start


def _pairs(file: IndexFile, templates: Templates) -> Iterable[Pair]:
    """The pairs of a file, footers packed against `templates`."""
    if {*file.templates.all()} <= {*templates.all()}:
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


# -- which files a key may be in

#: Bits per key of a filter, and places of a key in it: 2 % of the keys that are not there seem to be.
BITS, PLACES = 8, 5


def bloom_filter(file: IndexFile) -> bytes:
    """A Bloom filter of a file's keys (places by double hashing: Kirsch and Mitzenmacher, 2006)."""
    bits = bytearray(max(1, file.header["keys"] * BITS // 8))
    for key, _ in file.items():
        for place in _places(key, len(bits)):
            bits[place >> 3] |= 1 << (place & 7)
    return bytes(bits)


def may_hold(bits: bytes, key: bytes) -> bool:
    """Whether the file of a Bloom filter may have a key."""
    return all(bits[place >> 3] >> (place & 7) & 1 for place in _places(key, len(bits)))


def _places(key: bytes, size: int) -> list[int]:
    if len(key) != KEY:
        raise LogError(f"a key of {len(key)} bytes")
    first, step = int.from_bytes(key[4:8], "big"), int.from_bytes(key[8:12], "big") | 1
    return [(first + i * step) % (8 * size) for i in range(PLACES)]
