"""What the side index holds under its keys: entries of videos, and names.

Two kinds of keys, 16 bytes each: a video (video_id), whose blobs are `Entry`s, one per run, and the last part of a name
(a hash of "clip.mp4"), whose blob lists the (video_id, uri) pairs that end so. A blob's first byte says which (V, N).
Row-group footers in entries are deflated against a template footer, from which they differ by little.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

ENTRY, NAMES = b"V", b"N"
KEY = 16
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_SPAN = struct.Struct("<16sQIIIqqIH")  # file, offset, length, row, rows, start_us, end_us, template, footer bytes


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
        self._last: tuple[bytes, tuple[int, bytes]] = (b"", (0, b""))
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
        """(template, footer deflated against it)."""
        if footer == self._last[0]:  # many small videos share a row group
            return self._last[1]
        number = self._by_shape.get(_shape(footer))
        if number is None:
            number = self.add(footer)
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, self._by_id[number])
        self._last = footer, (number, deflate.compress(footer) + deflate.flush())
        return self._last[1]

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
    head = _JSON.encode(said).encode("utf-8", "replace")
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
    return NAMES + _JSON.encode(sorted(set(pairs))).encode("utf-8", "replace")


def unpack_names(blob: bytes) -> list[tuple[str, str]]:
    return [(video_id, uri) for video_id, uri in json.loads(blob[1:])]
