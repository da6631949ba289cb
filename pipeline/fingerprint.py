"""The identity of a video's content, found without reading it whole."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

from pipeline.errors import VideoError
from pipeline.storage import RangeFile, local_path, video_error
from pipeline.video import Source

SAMPLES = 16
SAMPLE_BYTES = 64 * 1024


def fingerprint(source: Source) -> str:
    """32 hex digits: BLAKE2b over the size and 16 blocks of 64 KiB, one at each end and the others evenly between
    (up to 1 MiB: over all of it). The same bytes have the same fingerprint wherever they lie.

    Two contents share it only where their sizes and every sampled byte are equal. Between files of a lossy codec that
    does not happen by accident: a picture that differs changes the sizes of coded frames, so all that follows moves,
    and the index of the container (nearly always at one of the ends) lists those sizes. What can escape is an edit in
    place, between the samples, that keeps every size: uncompressed or constant-size intra-only footage. (imohash, made
    for the same purpose, reads 3 blocks of 16 KiB.)

    Raises VideoError: changed (its size is not the listed one, or it is being written to), vanished, denied,
    not_a_file, empty, storage, unreadable.
    """
    digest = hashlib.blake2b(f"secondsight-1:{source.size_bytes}:".encode(), digest_size=16)
    path = local_path(source.uri)
    for piece in _remote_pieces(source) if path is None else _local_pieces(source, path):
        digest.update(piece)
    return digest.hexdigest()


def _spans(size: int) -> list[tuple[int, int]]:
    if size <= SAMPLES * SAMPLE_BYTES:
        return [(0, size)]
    starts = (i * (size - SAMPLE_BYTES) // (SAMPLES - 1) for i in range(SAMPLES))
    return [(start, start + SAMPLE_BYTES) for start in starts]


def _changed(source: Source, size: int) -> VideoError:
    return VideoError(source.uri, "changed", f"listed with {source.size_bytes} bytes, now {size}: run it again")


def _remote_pieces(source: Source) -> Iterator[bytes]:
    file = RangeFile(source.uri)
    if file.size != source.size_bytes:
        raise _changed(source, file.size)
    for start, end in _spans(source.size_bytes):
        yield file.fetch(start, end)


def _local_pieces(source: Source, path: str) -> Iterator[bytes]:
    try:
        # O_NONBLOCK: should a FIFO have taken the file's place, opening it must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise video_error(source.uri, error) from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise VideoError(source.uri, "not_a_file", "it is not a regular file")
        if before.st_size != source.size_bytes:
            raise _changed(source, before.st_size)
        for start, end in _spans(source.size_bytes):
            try:
                piece = os.pread(file.fileno(), end - start, start)
            except OSError as error:
                raise video_error(source.uri, error) from error
            if len(piece) < end - start:
                raise _changed(source, os.fstat(descriptor).st_size)
            yield piece
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise VideoError(source.uri, "changed", "it is being written to: run again when it is whole")
