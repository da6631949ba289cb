"""Thrift's compact protocol, as far as Parquet footers need it, and the footer of one row group alone.

A row group's bytes between "PAR1" and a footer that knows only that row group are a whole Parquet file: so any Parquet
reader can read one row group by one ranged read, without the big footer of the file it lies in.

Source: thrift-compact-protocol.md of apache/thrift; parquet.thrift of apache/parquet-format.
"""

from __future__ import annotations

import struct
from typing import Any

MAGIC = b"PAR1"

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

#: A struct: field id -> (type, value). A list: (type of its elements, values).
Struct = dict[int, tuple[int, Any]]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        result = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7

    def value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            n = self.varint()
            return (n >> 1) ^ -(n & 1)
        if kind == BINARY:
            length = self.varint()
            self.at += length
            return self.data[self.at - length : self.at]
        if kind == STRUCT:
            return self.struct()
        if kind in (LIST, SET):
            head = self.data[self.at]
            self.at += 1
            count, element = head >> 4, head & 0x0F
            if count == 15:
                count = self.varint()
            return element, [self.value(element) for _ in range(count)]
        if kind in (TRUE, FALSE):  # as a list element: one byte
            self.at += 1
            return self.data[self.at - 1] == TRUE
        if kind == BYTE:
            self.at += 1
            return self.data[self.at - 1]
        if kind == DOUBLE:
            self.at += 8
            return struct.unpack_from("<d", self.data, self.at - 8)[0]
        raise ValueError(f"thrift type {kind} in a Parquet footer")

    def struct(self) -> Struct:
        fields: Struct = {}
        field = 0
        while head := self.data[self.at]:
            self.at += 1
            kind, delta = head & 0x0F, head >> 4
            field = field + delta if delta else self.value(I16)
            fields[field] = (kind, kind == TRUE) if kind in (TRUE, FALSE) else (kind, self.value(kind))
        self.at += 1
        return fields


def parse(data: bytes) -> Struct:
    """A serialised struct. Raises ValueError or IndexError for bytes that are none."""
    return _Reader(data).struct()


def _varint(out: bytearray, n: int) -> None:
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)


def _write(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
    elif kind == BINARY:
        _varint(out, len(value))
        out += value
    elif kind == STRUCT:
        before = 0
        for field in sorted(value):
            of, inner = value[field]
            delta = field - before
            if delta <= 15:
                out.append(delta << 4 | of)
            else:
                out.append(of)
                _write(out, I16, field)
            if of not in (TRUE, FALSE):
                _write(out, of, inner)
            before = field
        out.append(0)
    elif kind in (LIST, SET):
        element, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | element)
        else:
            out.append(0xF0 | element)
            _varint(out, len(values))
        for item in values:
            _write(out, element, item)
    elif kind in (TRUE, FALSE):
        out.append(TRUE if value else FALSE)
    elif kind == BYTE:
        out.append(value)
    elif kind == DOUBLE:
        out += struct.pack("<d", value)
    else:
        raise ValueError(f"thrift type {kind}")


def serialise(value: Struct) -> bytes:
    out = bytearray()
    _write(out, STRUCT, value)
    return bytes(out)


def footer_of(tail: bytes) -> bytes:
    """The serialised FileMetaData in the last bytes of a Parquet file. Raises ValueError if it is not whole there."""
    if len(tail) < 8 or tail[-4:] != MAGIC:
        raise ValueError("no Parquet footer")
    length = int.from_bytes(tail[-8:-4], "little")
    if length + 8 > len(tail):
        raise ValueError(f"the footer is {length} bytes long")
    return tail[-8 - length : -8]


def row_groups(footer: bytes) -> list[tuple[int, int, int, bytes]]:
    """For each row group of a file: offset and length of its bytes, its rows, and a footer for it alone.

    The footer's offsets are those in a file that begins with "PAR1" and the row group's bytes.
    """
    whole = parse(footer)
    found = []
    for group in whole[4][1][1]:
        chunks = [chunk[3][1] for chunk in group[1][1][1]]
        starts = [min(c[9][1], c[11][1]) if c.get(11, (0, 0))[1] else c[9][1] for c in chunks]
        start = min(starts)
        end = max(s + c[7][1] for s, c in zip(starts, chunks, strict=True))
        shift = len(MAGIC) - start
        columns = [{2: (I64, 0), 3: (STRUCT, _shifted(c, shift))} for c in chunks]
        alone: Struct = {1: group[1], 2: group[2], 3: group[3]}
        alone[1] = (LIST, (STRUCT, columns))
        footer_alone: Struct = {1: whole[1], 2: whole[2], 3: (I64, group[3][1]), 4: (LIST, (STRUCT, [alone]))}
        found.append((start, end - start, group[3][1], serialise(footer_alone)))
    return found


def _shifted(column: Struct, shift: int) -> Struct:
    """A ColumnMetaData moved by `shift` bytes, without what reading a whole column chunk does not need."""
    kept: Struct = {field: column[field] for field in (1, 2, 3, 4, 5, 6, 7, 9, 11) if field in column}
    for field in (9, 11):
        if field in kept and kept[field][1]:
            kept[field] = (I64, kept[field][1] + shift)
    return kept


def alone(body: bytes, footer: bytes) -> bytes:
    """A row group's bytes and its footer from `row_groups`, as a whole Parquet file."""
    return b"".join((MAGIC, body, footer, len(footer).to_bytes(4, "little"), MAGIC))
