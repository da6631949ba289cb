"""One object opened: local by path, remote by range, and every way in which that fails."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.errors import UsageError, VideoError
from pipeline.storage import ATTEMPTS, BLOCK, KEPT_BLOCKS, LONGEST_FETCH, RangeFile, local_path, open_object

SIZE = 24 * 1024 * 1024 + 12345


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(1).randbytes(SIZE)


@pytest.fixture(scope="module")
def s3_object(s3_bucket: str, data: bytes) -> str:
    uri = f"{s3_bucket}/films/long one.mp4"
    with fsspec.open(uri, "wb") as file:
        file.write(data)
    return uri


def reason(uri: str) -> str:
    with pytest.raises(VideoError) as caught:
        open_object(uri)
    assert uri in str(caught.value)
    return caught.value.reason


def test_local_names() -> None:
    assert local_path("/a/b c.mp4") == "/a/b c.mp4"
    assert local_path("file:///a/b%20c%23.mp4") == "/a/b c#.mp4"
    assert local_path("file://localhost/a.mp4") == "/a.mp4"
    assert local_path("a:b.mp4") == os.path.abspath("a:b.mp4")  # absolute: libav would take "a:" for a protocol
    assert local_path("s3://bucket/a.mp4") is None
    assert local_path("zip://a.mp4::http://host/a.zip") is None


def test_local_file_is_left_to_libav(tmp_path: Path) -> None:
    path = tmp_path / "a#b?.mp4"
    path.write_bytes(b"x")
    assert open_object(str(path)) == str(path)
    assert open_object(path.as_uri()) == str(path)


def test_local_failures(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(str(tmp_path / "none.mp4")) == "vanished"
    assert reason(str(tmp_path / "empty.mp4" / "below.mp4")) == "vanished"
    assert reason(str(tmp_path / "empty.mp4")) == "empty"
    assert reason(str(tmp_path / "pipe.mp4")) == "not_a_file"  # and does not hang
    assert reason(str(tmp_path)) == "not_a_file"
    assert reason("/dev/zero") == "not_a_file"


def test_local_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.geteuid() == 0:  # root may read everything: let the kernel's answer be the one a user gets
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert reason(str(path)) == "denied"


def probe_like(file: Any, data: bytes) -> None:
    """What a demuxer does to learn about an MP4 whose index is at the end."""
    assert file.read(32768) == data[:32768]
    assert file.seek(-200_000, os.SEEK_END) == SIZE - 200_000
    assert file.read(300_000) == data[-200_000:]
    assert file.read(10) == b""
    file.seek(5_000_000)
    assert file.read(1000) == data[5_000_000:5_001_000]


def test_s3_by_range(s3_object: str, data: bytes) -> None:
    file = open_object(s3_object)
    assert isinstance(file, RangeFile) and file.size == SIZE
    probe_like(file, data)
    assert file.requests <= 4 and file.fetched_bytes <= 4 * BLOCK < SIZE / 8


def test_http_by_range(web: Any, data: bytes) -> None:
    web.objects["/a.mp4"] = data
    file = open_object(f"{web.url}/a.mp4")
    assert isinstance(file, RangeFile)
    probe_like(file, data)
    assert sum(size for _, size in web.sent) == file.fetched_bytes <= 4 * BLOCK  # as the server counts it
    assert len(web.sent) == file.requests <= 4


def test_sequential_reading_takes_few_requests_and_bounded_memory(web: Any, data: bytes) -> None:
    web.objects["/a.mp4"] = data * 2
    file = RangeFile(f"{web.url}/a.mp4")
    most = 0
    parts = []
    while piece := file.read(32768):
        parts.append(piece)
        most = max(most, len(file._blocks))
    assert b"".join(parts) == data * 2
    assert file.fetched_bytes == 2 * SIZE  # nothing twice
    assert file.requests <= 5 + -(-2 * SIZE // LONGEST_FETCH)
    assert most <= KEPT_BLOCKS


def test_two_interleaved_sequential_readers_both_read_ahead(web: Any, data: bytes) -> None:
    web.objects["/a.mp4"] = data
    file = RangeFile(f"{web.url}/a.mp4")
    for offset in range(0, 8_000_000, 32768):
        for start in (0, 12_000_000):
            file.seek(start + offset)
            assert file.read(32768) == data[start + offset : start + offset + 32768]
    assert file.requests <= 12
    assert file.fetched_bytes <= 2 * (8_000_000 + LONGEST_FETCH)


def test_random_reads_agree_with_the_bytes(data: bytes) -> None:
    fsspec.filesystem("memory").pipe("/random.mp4", data)
    file = open_object("memory://random.mp4")
    assert isinstance(file, RangeFile)
    choose = random.Random(2)
    for _ in range(300):
        start, size = choose.randrange(SIZE), choose.choice([1, 100, 32768, 2_000_000])
        file.seek(start)
        assert file.read(size) == data[start : start + size]
        assert file.tell() == min(start + size, SIZE)
    with pytest.raises(OSError):
        file.seek(-1)


def test_remote_failures(s3_bucket: str, web: Any) -> None:
    web.objects["/empty.mp4"] = b""
    assert reason(f"{s3_bucket}/none.mp4") == "vanished"
    assert reason("s3://no-such-bucket-here/none.mp4") == "vanished"
    assert reason(f"{web.url}/none.mp4") == "vanished"
    assert reason(f"{web.url}/empty.mp4") == "empty"
    assert reason("memory://nothing.mp4") == "vanished"
    fsspec.filesystem("memory").pipe("/folder/a.mp4", b"x")
    assert reason("memory://folder") == "not_a_file"
    with pytest.raises(UsageError, match="not a kind of URI"):
        open_object("gopher://old/a.mp4")


def test_nobody_answers() -> None:
    assert reason("http://127.0.0.1:9/a.mp4") == "storage"


def test_a_passing_failure_is_ridden_out(web: Any, data: bytes) -> None:
    web.objects["/a.mp4"] = data
    file = RangeFile(f"{web.url}/a.mp4")
    web.failures = [503, "cut"]
    assert file.read(100) == data[:100]
    assert file.requests == 3


@pytest.mark.parametrize(("failure", "expected"), [(500, "storage"), (403, "denied"), (404, "vanished")])
def test_a_lasting_failure_while_reading(web: Any, data: bytes, failure: int, expected: str) -> None:
    web.objects["/a.mp4"] = data
    file = RangeFile(f"{web.url}/a.mp4")
    web.failures = [failure] * 10
    with pytest.raises(VideoError) as caught:
        file.read(100)
    assert caught.value.reason == expected
    assert file.requests == (ATTEMPTS if expected == "storage" else 1)


def test_server_without_ranges_is_refused_and_not_downloaded(web: Any, data: bytes) -> None:
    web.objects["/a.mp4"] = data
    web.ranges = False
    file = RangeFile(f"{web.url}/a.mp4")  # it answers HEAD like any other: only a fetch shows it
    with pytest.raises(VideoError, match="cannot read by range") as caught:
        file.seek(SIZE - 10)
        file.read(10)
    assert caught.value.reason == "unreadable"


def test_replaced_while_reading_http(web: Any, data: bytes) -> None:
    web.objects["/a.mp4"], web.tags = data, True
    file = RangeFile(f"{web.url}/a.mp4")
    file.read(10)
    web.objects["/a.mp4"] = data[::-1]
    with pytest.raises(VideoError, match="changed"):
        file.seek(SIZE // 2)
        file.read(10)


def test_shortened_while_reading_http(web: Any, data: bytes) -> None:
    web.objects["/a.mp4"] = data
    file = RangeFile(f"{web.url}/a.mp4")
    web.objects["/a.mp4"] = data[: SIZE // 2]
    with pytest.raises(VideoError, match="changed"):
        file.seek(SIZE // 2 - 100)
        file.read(1000)


def test_replaced_and_removed_while_reading_s3(s3_bucket: str, data: bytes) -> None:
    uri, fs = f"{s3_bucket}/replaced.mp4", fsspec.filesystem("s3")
    fs.pipe(uri, data[: 4 * BLOCK])
    file = RangeFile(uri)
    file.read(10)
    fs.pipe(uri, data[4 * BLOCK : 8 * BLOCK])
    file.seek(2 * BLOCK)
    with pytest.raises(VideoError, match="changed"):
        file.read(10)
    fs.rm(uri)
    with pytest.raises(VideoError, match="vanished"):
        file.read(10)
