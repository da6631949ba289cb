"""The content fingerprint: equal for equal bytes wherever they lie, different otherwise, cheap, and wary of change."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline import fingerprint as module
from pipeline.errors import VideoError
from pipeline.fingerprint import SAMPLE_BYTES, SAMPLES, fingerprint
from pipeline.storage import RangeFile
from pipeline.video import Source

SIZE = 12_345_678


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(3).randbytes(SIZE)


def put(path: Path, data: bytes) -> Source:
    path.write_bytes(data)
    return Source(str(path), len(data))


def test_same_bytes_anywhere(tmp_path: Path, data: bytes, s3_bucket: str, web: Any) -> None:
    web.objects["/other%20name.mkv"] = data
    fsspec.filesystem("memory").pipe("/f.mp4", data)
    fsspec.filesystem("s3").pipe(f"{s3_bucket}/f.mp4", data)
    sources = [put(tmp_path / "a.mp4", data), put(tmp_path / "b.avi", data)]
    uris = (sources[0].uri, (tmp_path / "a.mp4").as_uri(), "memory://f.mp4", f"{s3_bucket}/f.mp4")
    found = {fingerprint(Source(uri, SIZE)) for uri in (*uris, sources[1].uri, f"{web.url}/other name.mkv")}
    assert len(found) == 1
    (one,) = found
    assert len(one) == 32 and int(one, 16) >= 0


def test_the_algorithm_stays(tmp_path: Path) -> None:
    """Fingerprints are keys of logs on disk: another algorithm would watch every archive again."""
    said = hashlib.blake2b(b"secondsight-1:11:hello there", digest_size=16).hexdigest()
    assert fingerprint(put(tmp_path / "a", b"hello there")) == said
    large = b"".join(n.to_bytes(4, "big") for n in range(500_000))
    starts = [i * (2_000_000 - 65536) // 15 for i in range(16)]
    sampled = b"".join(large[start : start + 65536] for start in starts)
    said = hashlib.blake2b(b"secondsight-1:2000000:" + sampled, digest_size=16).hexdigest()
    assert fingerprint(put(tmp_path / "b", large)) == said


@pytest.mark.parametrize("size", [1, 1000, SAMPLES * SAMPLE_BYTES, SAMPLES * SAMPLE_BYTES + 1, SIZE])
def test_first_and_last_byte_and_length_count(tmp_path: Path, data: bytes, size: int) -> None:
    base = data[:size]
    flipped = [bytes([base[0] ^ 1]) + base[1:], base[:-1] + bytes([base[-1] ^ 1]), base + b"\0"]
    found = {fingerprint(put(tmp_path / str(n), content)) for n, content in enumerate([base, *flipped])}
    assert len(found) == (4 if size > 1 else 3)


def test_every_sample_counts(tmp_path: Path, data: bytes) -> None:
    base = fingerprint(put(tmp_path / "base", data))
    for start, end in module._spans(SIZE):
        assert 0 <= start < end <= SIZE
        for position in (start, end - 1):
            changed = bytearray(data)
            changed[position] ^= 255
            assert fingerprint(put(tmp_path / "x", bytes(changed))) != base
    assert module._spans(SIZE)[0][0] == 0 and module._spans(SIZE)[-1][1] == SIZE


def test_remote_reads_samples_only(web: Any) -> None:
    web.objects["/a.mp4"] = random.Random(4).randbytes(50_000_000)
    fingerprint(Source(f"{web.url}/a.mp4", 50_000_000))
    assert len(web.sent) == SAMPLES
    assert sum(size for _, size in web.sent) == SAMPLES * SAMPLE_BYTES  # 2% of it


def test_changed_since_listing(tmp_path: Path, data: bytes, s3_bucket: str) -> None:
    source = put(tmp_path / "a", data)
    os.truncate(source.uri, SIZE - 1)
    fsspec.filesystem("memory").pipe("/short.mp4", b"123")
    for changed in (source, Source("memory://short.mp4", 4)):
        with pytest.raises(VideoError) as caught:
            fingerprint(changed)
        assert caught.value.reason == "changed"


def test_written_to_while_reading(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    source = put(tmp_path / "a", data)
    read = os.pread

    def read_and_write(descriptor: int, count: int, offset: int) -> bytes:
        os.utime(source.uri, ns=(1, offset))
        return read(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", read_and_write)
    with pytest.raises(VideoError, match="being written to"):
        fingerprint(source)


def test_gone_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for prepare, expected in (
        (lambda: None, "vanished"),
        (lambda: os.mkfifo(path), "not_a_file"),  # and does not hang
    ):
        prepare()
        with pytest.raises(VideoError) as caught:
            fingerprint(Source(str(path), 10))
        assert caught.value.reason == expected


def test_replaced_between_samples_s3(s3_bucket: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, fs = f"{s3_bucket}/swap.mp4", fsspec.filesystem("s3")
    fs.pipe(uri, data)
    fetch = RangeFile.fetch

    def swap_then_fetch(self: RangeFile, start: int, end: int) -> bytes:
        if start > 0:
            fs.pipe(uri, data[::-1])
        return fetch(self, start, end)

    monkeypatch.setattr(RangeFile, "fetch", swap_then_fetch)
    with pytest.raises(VideoError, match="changed"):
        fingerprint(Source(uri, SIZE))
