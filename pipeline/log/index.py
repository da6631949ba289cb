"""The side index: for each video and run, what a lookup must know and which bytes of which data file it must read.

An index file is a hash map on 16-byte keys, laid out so that one small ranged read answers a key, and so that it can be
written from first to last byte while its keys come in order:

    "SSINDEX3"
    buckets: count (uint32), keys (16 bytes each, ascending), ends of the blobs (uint32 each), the blobs, zeros up to a
             multiple of PAD bytes
    start: lengths of header and directory (uint32 each), header (JSON: buckets, keys, last_us, templates),
           directory (zlib of the buckets' lengths in PADs: their low bytes, then their second bytes, and so on)
    length of the start (uint32), "SSINDEX3"

A key's bucket is given by its leading bits. Keys and blobs: entry.py. Index files merge without unpacking entries
(merge.py). Padding and the order of its bytes make the directory, which every cold lookup reads, a third as large.
"""

from __future__ import annotations

import binascii
import json
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from pipeline.errors import LogError
from pipeline.log.entry import KEY, Templates

MAGIC = b"SSINDEX3"
PAD = 256

#: Keys of a bucket at most, on average, where there are few.
BUCKET_KEYS = 64

#: Bytes of buckets that are read together when all are wanted.
AT_ONCE = 4 << 20

Pair = tuple[bytes, bytes]  # key, blob


def bucket_count(keys: int) -> int:
    """How many buckets so many keys get: a power of two.

    A cold lookup reads the directory (0.85 bytes a bucket) and one bucket (255 bytes a key): with twice as many buckets
    it reads less as long as count * count < 150 * keys.
    """
    count = 1
    while count * BUCKET_KEYS < keys and count * count < 150 * keys:
        count *= 2
    return count


@dataclass(slots=True)
class Builder:
    """Writes an index file through `write`, bucket by bucket."""

    write: Callable[[bytes], object]
    buckets: int
    keys: int = 0
    _lengths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write(MAGIC)

    def add(self, body: bytes, keys: int) -> None:
        """Write the next bucket, of so many keys."""
        units = -(-len(body) // PAD)
        self.write(body.ljust(units * PAD, b"\0"))
        self._lengths.append(units)
        self.keys += keys

    def add_all(self, pairs: Iterable[Pair]) -> None:
        """Write all buckets; pairs come in order of their keys."""
        for group in by_bucket(pairs, self.buckets):
            self.add(pack_bucket(group), len(group))

    def end(self, templates: Templates, last_us: int) -> bytes:
        """Write the rest; returns the start. `last_us`: no video in it was finished later."""
        said = {
            "buckets": self.buckets,
            "keys": self.keys,
            "last_us": last_us,
            "templates": [binascii.b2a_base64(t, newline=False).decode() for t in templates.all()],
        }
        header = json.dumps(said, separators=(",", ":")).encode()
        lengths = struct.pack(f"<{self.buckets}I", *self._lengths)
        directory = zlib.compress(b"".join(lengths[i::4] for i in range(4)))
        start = b"".join((struct.pack("<II", len(header), len(directory)), header, directory))
        self.write(b"".join((start, struct.pack("<I", len(start)), MAGIC)))
        return start


def by_bucket(pairs: Iterable[Pair], buckets: int) -> Iterator[list[Pair]]:
    """Pairs in order of their keys as one list per bucket, empty ones too."""
    number, waiting = 0, list[Pair]()
    for pair in pairs:
        own = bucket_of(pair[0], buckets)
        while number < own:
            yield waiting
            number, waiting = number + 1, []
        waiting.append(pair)
    while number < buckets:
        yield waiting
        number, waiting = number + 1, []


def build(blobs: Iterable[Pair], templates: Templates, last_us: int) -> tuple[bytes, bytes]:
    """(start, whole index file) of (key, blob) pairs in any order."""
    pairs = sorted(blobs, key=lambda pair: pair[0])
    parts: list[bytes] = []
    builder = Builder(parts.append, bucket_count(len(pairs)))
    builder.add_all(pairs)
    return builder.end(templates, last_us), b"".join(parts)


def bucket_of(key: bytes, buckets: int) -> int:
    return int.from_bytes(key[:4], "big") * buckets >> 32


def pack_bucket(pairs: Sequence[Pair]) -> bytes:
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

    def __iter__(self) -> Iterator[Pair]:
        ends = struct.unpack_from(f"<{self.count}I", self._data, self._ends)
        data, at = self._data, self._blobs
        for i, end in enumerate(ends):
            yield data[4 + KEY * i : 4 + KEY * (i + 1)], data[at : self._blobs + end]
            at = self._blobs + end

    def with_new(self, pairs: Sequence[Pair]) -> bytes | None:
        """The bucket with some pairs more, in order of their keys; None where one of the keys is there already."""
        data, old = self._data, struct.unpack_from(f"<{self.count}I", self._data, self._ends)
        keys, blobs, ends = list[bytes](), list[bytes](), list[int]()
        at = cut = total = 0  # pairs and bytes of blobs of the old bucket that are copied so far; bytes of new blobs
        for key, blob in pairs:
            i = bisect_left(range(self.count), key, at, key=self.key)
            if i < self.count and self.key(i) == key:
                return None
            until = old[i - 1] if i else 0
            keys += (data[4 + KEY * at : 4 + KEY * i], key)
            blobs += (data[self._blobs + cut : self._blobs + until], blob)
            ends += [end + total for end in old[at:i]]
            at, cut, total = i, until, total + len(blob)
            ends.append(until + total)
        keys.append(data[4 + KEY * at : self._ends])
        blobs.append(data[self._blobs + cut : self._blobs + (old[-1] if old else 0)])
        ends += [end + total for end in old[at:]]
        return b"".join((struct.pack("<I", len(ends)), *keys, struct.pack(f"<{len(ends)}I", *ends), *blobs))


@dataclass(slots=True)
class IndexFile:
    """An index file, its start in memory, its buckets fetched by `read(offset, length)` when asked for."""

    header: dict[str, Any]
    starts: Sequence[int]  # of each bucket, and the end of the last
    read: Callable[[int, int], bytes]
    templates: Templates
    start: bytes

    @property
    def last_us(self) -> int:
        """No video in it was finished later (Unix time)."""
        return int(self.header["last_us"])

    @classmethod
    def parse(cls, start: bytes, read: Callable[[int, int], bytes], name: str) -> IndexFile:
        """From its start."""
        try:
            header_bytes, directory_bytes = struct.unpack_from("<II", start)
            header = json.loads(start[8 : 8 + header_bytes])
            packed = zlib.decompress(start[8 + header_bytes : 8 + header_bytes + directory_bytes])
            buckets = header["buckets"]
            if len(packed) != 4 * buckets:
                raise ValueError("its directory is of another length")
            planes = (packed[i * buckets : (i + 1) * buckets] for i in range(4))
            lengths = [PAD * int.from_bytes(of_bucket, "little") for of_bucket in zip(*planes, strict=True)]
            templates = Templates(binascii.a2b_base64(t) for t in header["templates"])
        except (ValueError, KeyError, struct.error, zlib.error) as error:
            raise LogError(f"{name}: not an index of an event log: {error}") from error
        return cls(header, list(accumulate(lengths, initial=len(MAGIC))), read, templates, start)

    @classmethod
    def of(cls, data: bytes, name: str) -> IndexFile:
        """From all its bytes."""
        end = len(data) - len(MAGIC) - 4
        if end < len(MAGIC) or data[: len(MAGIC)] != MAGIC or data[end + 4 :] != MAGIC:
            raise LogError(f"{name}: not an index of an event log, or cut short")
        size = int.from_bytes(data[end : end + 4], "little")
        return cls.parse(data[max(0, end - size) : end], lambda start, length: data[start : start + length], name)

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

    def bodies(self) -> Iterator[bytes]:
        """Each bucket as bytes; many are read at once."""
        first, buckets = 0, self.header["buckets"]
        while first < buckets:
            last = max(first + 1, bisect_right(self.starts, self.starts[first] + AT_ONCE) - 1)
            start = self.starts[first]
            data = self.read(start, self.starts[last] - start)
            if len(data) != self.starts[last] - start:
                raise LogError("an index file of the event log is cut short; run `secondsight log LOG --compact`")
            for number in range(first, last):
                yield data[self.starts[number] - start : self.starts[number + 1] - start]
            first = last

    def items(self) -> Iterator[Pair]:
        """All keys and blobs, in order of the keys."""
        for body in self.bodies():
            yield from Bucket(body)
