"""The side index: for each video and run, what a lookup must know and which bytes of which data file it must read.

An index file is a hash map on 16-byte keys, laid out so that one small ranged read answers a key:

    "SSINDEX1", length of the header (uint32), header (JSON: buckets, videos, templates)
    directory: zlib of uint32 lengths of the buckets
    buckets: count (uint32), keys (16 bytes each, ascending), ends of the blobs (uint32 each), the blobs

A key's bucket is given by its leading bits. Two kinds of keys: a video (video_id), whose blobs are `Entry`s, one per
run, and the last part of a name (a hash of "clip.mp4"), whose blob lists the (video_id, uri) pairs that end so. A
blob's first byte says which (V, N).

Index files merge without unpacking entries. Row-group footers in them are deflated against a template footer (kept in
the header), from which they differ by little.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import LogError

MAGIC = b"SSINDEX1"
ENTRY, NAMES = b"V", b"N"
KEY = 16
_SPAN = struct.Struct("<16sQIIIqqIH")  # file, offset, length, row, rows, start_us, end_us, template, footer bytes


def bucket_keys(keys: int) -> int:
    """Keys per bucket at most, on average: a cold lookup reads the directory (2 bytes a bucket) and one bucket."""
    return 64 if keys < 1 << 20 else 256


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one video and run in one row group.

    `file`: stem of the data file, or the path of one that others wrote; `offset`, `length`: the row group's bytes;
    `row`, `rows`: the video's rows within it; `start_us`: smallest start; `end_us`: largest end (at least start + 1);
    `footer`: the row group's own footer (thrift.py), deflated against `template` where there is one.
    """

    file: str
    offset: int
    length: int
    row: int
    rows: int
    start_us: int
    end_us: int
    packed: bytes
    template: bytes | None = None

    @property
    def path(self) -> str:
        return self.file if "/" in self.file else f"record=events/{self.file}.parquet"

    @property
    def footer(self) -> bytes:
        if self.template is None:
            return self.packed
        inflate = zlib.decompressobj(-15, self.template)
        return inflate.decompress(self.packed) + inflate.flush()


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index holds of one video in one run."""

    video_id: str
    run_id: str
    status: str
    reason: str
    duration_us: int | None
    finished_at_us: int
    events: int
    uris: tuple[str, ...]
    spans: tuple[Span, ...] = ()


def video_key(video_id: str) -> bytes:
    """The key of a video: its id where that is 32 hex digits, else a hash of it."""
    if len(video_id) == 2 * KEY:
        try:
            return bytes.fromhex(video_id)
        except ValueError:
            pass
    return hashlib.blake2b(video_id.encode(), digest_size=KEY).digest()


def name_key(name: str) -> bytes:
    """The key of a name: a hash of its last part."""
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return hashlib.blake2b(b"name\0" + last.encode("utf-8", "replace"), digest_size=KEY).digest()


class Templates:
    """Template footers by id; a footer is packed against one with the same columns."""

    def __init__(self, footers: Iterable[bytes] = ()) -> None:
        self._by_id: dict[int, bytes] = {}
        self._by_shape: dict[bytes, int] = {}
        for footer in footers:
            self.add(footer)

    def add(self, footer: bytes) -> int:
        number = zlib.crc32(footer)
        self._by_id[number] = footer
        self._by_shape.setdefault(_shape(footer), number)
        return number

    def all(self) -> list[bytes]:
        return list(self._by_id.values())

    def pack(self, footer: bytes) -> tuple[int, bytes]:
        number = self._by_shape.get(_shape(footer))
        if number is None:
            number = self.add(footer)
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, self._by_id[number])
        return number, deflate.compress(footer) + deflate.flush()

    def __getitem__(self, number: int) -> bytes:
        return self._by_id[number]


def _shape(footer: bytes) -> bytes:
    """What footers of the same columns have in common: their beginning (version and first schema elements)."""
    return footer[:256]


def pack_entry(entry: Entry, templates: Templates) -> bytes:
    said = [
        entry.video_id,
        entry.run_id,
        entry.status,
        entry.reason,
        entry.duration_us,
        entry.finished_at_us,
        entry.events,
        entry.uris,
    ]
    head = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    parts = [ENTRY, len(head).to_bytes(4, "little"), head]
    for s in entry.spans:
        number, packed = templates.pack(s.footer)
        values = (bytes.fromhex(s.file), s.offset, s.length, s.row, s.rows, s.start_us, s.end_us, number, len(packed))
        parts += [_SPAN.pack(*values), packed]
    return b"".join(parts)


def unpack_entry(blob: bytes, templates: Templates) -> Entry:
    at = 5 + int.from_bytes(blob[1:5], "little")
    video_id, run_id, status, reason, duration_us, finished_at_us, events, uris = json.loads(blob[5:at])
    spans = []
    while at < len(blob):
        file, offset, length, row, rows, start_us, end_us, number, size = _SPAN.unpack_from(blob, at)
        at += _SPAN.size + size
        packed = blob[at - size : at]
        spans.append(Span(file.hex(), offset, length, row, rows, start_us, end_us, packed, templates[number]))
    return Entry(video_id, run_id, status, reason, duration_us, finished_at_us, events, tuple(uris), tuple(spans))


def pack_names(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Of (video_id, uri) pairs."""
    return NAMES + json.dumps(sorted(set(pairs)), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def unpack_names(blob: bytes) -> list[tuple[str, str]]:
    return [(video_id, uri) for video_id, uri in json.loads(blob[1:])]


def merged(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of several index files as those of one: equal names list all their videos, equal entries are one."""
    names: dict[bytes, bytes] = {}
    entries: set[tuple[bytes, bytes]] = set()
    for key, blob in pairs:
        if blob[:1] == ENTRY:
            entries.add((key, blob))
        elif key not in names:
            names[key] = blob
        elif names[key] != blob:
            names[key] = pack_names([*unpack_names(names[key]), *unpack_names(blob)])
    yield from names.items()
    yield from entries


def build(blobs: Iterable[tuple[bytes, bytes]], templates: Templates, videos: int) -> tuple[bytes, bytes]:
    """(header with directory, whole index file) of (key, blob) pairs in any order."""
    pairs = sorted(blobs, key=lambda pair: pair[0])
    buckets = 1
    while buckets * bucket_keys(len(pairs)) < len(pairs):
        buckets *= 2
    bodies, lengths = [], []
    at = 0
    for number in range(buckets):
        end = at
        while end < len(pairs) and bucket_of(pairs[end][0], buckets) == number:
            end += 1
        bodies.append(_pack_bucket(pairs[at:end]))
        lengths.append(len(bodies[-1]))
        at = end
    said = {
        "buckets": buckets,
        "keys": len(pairs),
        "videos": videos,
        "templates": [binascii.b2a_base64(t, newline=False).decode() for t in templates.all()],
    }
    header = json.dumps(said, separators=(",", ":")).encode()
    directory = zlib.compress(struct.pack(f"<{buckets}I", *lengths))
    head = b"".join((MAGIC, struct.pack("<II", len(header), len(directory)), header, directory))
    return head, b"".join((head, *bodies))


def bucket_of(key: bytes, buckets: int) -> int:
    return int.from_bytes(key[:4], "big") * buckets >> 32


def _pack_bucket(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    ends, total = [], 0
    for _, blob in pairs:
        total += len(blob)
        ends.append(total)
    parts = [struct.pack("<I", len(pairs)), *(k for k, _ in pairs), struct.pack(f"<{len(pairs)}I", *ends)]
    return b"".join((*parts, *(blob for _, blob in pairs)))


class Bucket:
    """The keys and blobs of one bucket."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.count = int.from_bytes(data[:4], "little")
        self._ends = 4 + KEY * self.count
        self._blobs = self._ends + 4 * self.count

    def key(self, i: int) -> bytes:
        return self._data[4 + KEY * i : 4 + KEY * (i + 1)]

    def blob(self, i: int) -> bytes:
        start = 0 if i == 0 else struct.unpack_from("<I", self._data, self._ends + 4 * (i - 1))[0]
        (end,) = struct.unpack_from("<I", self._data, self._ends + 4 * i)
        return self._data[self._blobs + start : self._blobs + end]

    def find(self, key: bytes) -> list[bytes]:
        i = bisect_left(range(self.count), key, key=self.key)
        found = []
        while i < self.count and self.key(i) == key:
            found.append(self.blob(i))
            i += 1
        return found

    def prefixed(self, first: bytes, last: bytes) -> list[bytes]:
        """Blobs of the keys in [first, last]."""
        i = bisect_left(range(self.count), first, key=self.key)
        found = []
        while i < self.count and self.key(i) <= last:
            found.append(self.blob(i))
            i += 1
        return found

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return ((self.key(i), self.blob(i)) for i in range(self.count))


@dataclass(slots=True)
class IndexFile:
    """An index file, its header in memory, its buckets fetched by `read(start, length)` when asked for."""

    header: dict[str, Any]
    starts: Sequence[int]  # of each bucket, and the end of the last
    read: Callable[[int, int], bytes]
    templates: Templates = field(default_factory=Templates)

    @classmethod
    def parse(cls, head: bytes, read: Callable[[int, int], bytes], name: str) -> IndexFile:
        """From its first bytes (at least header and directory)."""
        try:
            if head[:8] != MAGIC:
                raise ValueError("it does not begin as one")
            header_bytes, directory_bytes = struct.unpack_from("<II", head, 8)
            at = 16 + header_bytes
            header = json.loads(head[16:at])
            packed = zlib.decompress(head[at : at + directory_bytes])
            lengths = struct.unpack(f"<{header['buckets']}I", packed)
            templates = Templates(binascii.a2b_base64(t) for t in header["templates"])
        except (ValueError, KeyError, struct.error, zlib.error) as error:
            raise LogError(f"{name}: not an index of an event log: {error}") from error
        starts = [at + directory_bytes]
        for length in lengths:
            starts.append(starts[-1] + length)
        return cls(header, starts, read, templates)

    @classmethod
    def of(cls, data: bytes, name: str) -> IndexFile:
        """From all its bytes."""
        return cls.parse(data, lambda start, length: data[start : start + length], name)

    def bucket(self, number: int) -> Bucket:
        start, end = self.starts[number], self.starts[number + 1]
        data = self.read(start, end - start)
        if len(data) != end - start:
            raise LogError("an index file of the event log is cut short; run `secondsight log LOG --compact`")
        return Bucket(data)

    def find(self, key: bytes) -> list[bytes]:
        """The blobs of a key."""
        return self.bucket(bucket_of(key, self.header["buckets"])).find(key)

    def prefixed(self, first: bytes, last: bytes) -> list[bytes]:
        """The blobs of the keys in [first, last]."""
        buckets = self.header["buckets"]
        numbers = range(bucket_of(first, buckets), bucket_of(last, buckets) + 1)
        return [blob for number in numbers for blob in self.bucket(number).prefixed(first, last)]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for number in range(self.header["buckets"]):
            yield from self.bucket(number)
