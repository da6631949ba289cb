"""Listing an archive: what each kind of argument names, in which order, and what is said of what is not there."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.archive import list_sources
from pipeline.errors import UsageError, VideoError
from pipeline.fingerprint import fingerprint
from pipeline.listing import FIRST_S, NoRoot, Unlisted
from pipeline.storage import open_object
from pipeline.video import Source
from tests.workers.pools import Clock

TREE = (
    "a.mp4", "b.MKV", "notes.txt", "d/a.mov", "d/sub/c.webm", "d/sub/raw.dat", ".hidden/x.mp4", "d/._a.mov", "e/a.mp4",
    "[2019] trip.mp4",
)  # fmt: skip
VIDEOS = ["[2019] trip.mp4", "a.mp4", "b.MKV", "d/a.mov", "d/sub/c.webm", "e/a.mp4"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in TREE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(root: str | Path, arguments: Sequence[str], **patterns: Any) -> list[str]:
    found = []
    for item in list_sources(arguments, **patterns):
        assert isinstance(item, Source), item
        found.append(item.uri.removeprefix(f"{root}/"))
    return found


def errors(arguments: Sequence[str]) -> list[tuple[str, str]]:
    return [(item.uri, item.reason) for item in list_sources(arguments) if isinstance(item, VideoError)]


def test_directory(tree: Path) -> None:
    assert names(tree, [str(tree)]) == VIDEOS
    assert [s.size_bytes for s in list_sources([str(tree)]) if isinstance(s, Source)] == [len(n) for n in VIDEOS]


def test_file_named_outright_and_relative_path(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(tree, [f"{tree}/d/sub/raw.dat"]) == ["d/sub/raw.dat"]
    monkeypatch.chdir(tree / "d")
    assert names(tree, ["a.mov", "../a.mp4", "."]) == ["d/a.mov", "a.mp4", "d/sub/c.webm"]  # each name once


def test_globs(tree: Path) -> None:
    assert names(tree, [f"{tree}/*.mp4"]) == ["[2019] trip.mp4", "a.mp4"]
    assert names(tree, [f"{tree}/d/*"]) == ["d/a.mov", "d/sub/c.webm"]  # a directory that matches is listed
    assert names(tree, [f"{tree}/**/a.*"]) == ["a.mp4", "d/a.mov", "e/a.mp4"]
    assert names(tree, [f"{tree}/d/**/*.dat"]) == ["d/sub/raw.dat"]  # an extension spelt out is meant
    assert names(tree, [f"{tree}/**"]) == VIDEOS
    assert names(tree, [f"{tree}/[2019] trip.mp4"]) == ["[2019] trip.mp4"]  # a name that exists is no glob


def test_include_and_exclude(tree: Path) -> None:
    assert names(tree, [str(tree)], include=["*.mp4"]) == ["[2019] trip.mp4", "a.mp4", "e/a.mp4"]
    assert names(tree, [str(tree)], include=["d"]) == ["d/a.mov", "d/sub/c.webm"]
    assert names(tree, [str(tree)], include=["d/sub/*"]) == ["d/sub/c.webm"]
    assert names(tree, [str(tree)], include=["*.dat"]) == ["d/sub/raw.dat"]
    assert names(tree, [str(tree)], exclude=["d", "[[]*"]) == ["a.mp4", "b.MKV", "e/a.mp4"]
    assert names(tree, [str(tree)], exclude=["sub/c.*", "*.mp4"]) == ["b.MKV", "d/a.mov"]
    assert names(tree, [f"{tree}/d"], exclude=[tree.name, "d"]) == [
        "d/a.mov",
        "d/sub/c.webm",
    ]  # only below the argument
    assert names(tree, [f"{tree}/**/*.mp4"], exclude=["e"]) == ["[2019] trip.mp4", "a.mp4"]
    assert names(tree, [f"{tree}/a.mp4"], exclude=["a.*"]) == []


def test_list_file(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tree / "list.txt"
    listing.write_text(f"\ufeff# mine\n\nb.MKV\r\nd\n{tree}/e/*.mp4\nmissing.mp4\ngopher://x/a.mp4\n", encoding="utf-8")
    monkeypatch.chdir(tree / "e")
    found = list(list_sources([f"@{listing}"]))
    assert [getattr(item, "reason", Path(item.uri).name) for item in found] == [
        "b.MKV", "a.mov", "c.webm", "a.mp4", "vanished", "unsupported",
    ]  # fmt: skip
    elsewhere = tree / "d" / "sub" / "here.list"
    elsewhere.write_text("a.mp4\n")  # not beside the list: as seen from the current directory
    assert names(tree, [f"@{elsewhere}"]) == ["e/a.mp4"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.mp4\n"))
    assert names(tree, ["@-"]) == ["e/a.mp4"]


def test_what_cannot_be_meant_is_said_at_once(tree: Path) -> None:
    for bad in ([], [""], ["@"], [f"{tree}/none.mp4"], [f"@{tree}/none.txt"], ["gopher://x/y.mp4"]):
        with pytest.raises(UsageError):
            list_sources(bad)
    with pytest.raises(UsageError, match="not text"):
        (tree / "binary.txt").write_bytes(b"\0\1\2")
        list(list_sources([f"@{tree}/binary.txt"]))


def test_what_cannot_be_a_video_comes_as_an_error_in_its_place(tree: Path) -> None:
    (tree / "0.mp4").touch()
    os.mkfifo(tree / "c.mp4")
    (tree / "f.mp4").symlink_to("nowhere")
    (tree / "g.mp4").symlink_to("g.mp4")
    found = list(list_sources([str(tree)]))
    said = [(Path(item.uri).name, item.reason) for item in found if isinstance(item, VideoError)]
    assert said[:3] == [("0.mp4", "empty"), ("c.mp4", "not_a_file"), ("f.mp4", "vanished")]
    assert [name for name, _ in said[3:]] == ["g.mp4"]
    assert len(found) == len(VIDEOS) + 4
    assert errors([f"{tree}/notes.txt"]) == [(f"{tree}/notes.txt", "unreadable")]
    (tree / "bare").mkdir()
    assert errors([f"{tree}/bare", f"{tree}/*.ogv"]) == [(f"{tree}/bare", "no_video"), (f"{tree}/*.ogv", "vanished")]


def _failing_fs(monkeypatch: pytest.MonkeyPatch, fails: Callable[[str], Exception | None]) -> list[str]:
    """Looks at the memory filesystem ask `fails` first; the paths that were looked at."""
    kind, looked = type(fsspec.filesystem("memory")), list[str]()

    def asking(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(self: Any, path: str, *args: Any, **options: Any) -> Any:
            looked.append(path.rstrip("/"))
            if (error := fails(path.rstrip("/"))) is not None:
                raise error
            return real(self, path, *args, **options)

        return look

    for name in ("ls", "info"):
        monkeypatch.setattr(kind, name, asking(getattr(kind, name)))
    return looked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sleeping moves it."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    return clock


def test_a_folder_whose_listing_fails_is_listed_again_until_the_store_is_back(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    fsspec.filesystem("memory").pipe({f"/away/d{i}/v.mp4": b"x" for i in range(3)})
    back = clock.now + 300
    busy = OSError("503 Slow Down")
    _failing_fs(monkeypatch, lambda path: busy if clock.now < back and path.startswith("/away/") else None)
    assert names("memory://away", ["memory://away"]) == ["d0/v.mp4", "d1/v.mp4", "d2/v.mp4"]


def test_a_folder_that_cannot_be_listed_is_no_video_and_the_others_are_listed(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    fsspec.filesystem("memory").pipe({f"/part/d{i}/v.mp4": b"x" for i in range(4)})
    fate = {"/part/d1": OSError("503 Slow Down"), "/part/d2": PermissionError("no")}
    looked = _failing_fs(monkeypatch, fate.get)
    began = clock.now
    first, one, two, last = list_sources(["memory://part"], patience_s=100)
    assert (first.uri, last.uri) == ("memory://part/d0/v.mp4", "memory://part/d3/v.mp4")
    assert isinstance(one, Unlisted) and (one.uri, one.reason) == ("memory://part/d1/", "storage")
    assert isinstance(two, Unlisted) and (two.uri, two.reason) == ("memory://part/d2/", "denied")
    assert 50 < clock.now - began <= 100 and looked.count("/part/d2") == 1
    began = clock.now
    (whole,) = list_sources(["memory://part/d1"])
    assert isinstance(whole, Unlisted) and whole.uri == "memory://part/d1"
    assert clock.now - began <= FIRST_S, "nothing of this archive ever answered"


def test_an_argument_without_anything_is_said_at_once_and_after_another_it_is_unlisted(s3_tree: str) -> None:
    for nothing in (f"{s3_tree}/vidoes/", "s3://no-bucket-here", f"{s3_tree}/*.ogv", f"@{s3_tree}/none.txt"):
        with pytest.raises(UsageError, match=nothing.strip("@/").replace("*", ".")):
            list(list_sources([nothing]))
        found = list(list_sources([f"{s3_tree}/a.mp4", nothing]))
        assert [type(item) for item in found] == [Source, NoRoot]


def test_a_list_that_breaks_off_is_read_on_where_it_was(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe({f"/listed/v{i}.mp4": b"x" for i in range(5)})
    lines = [f"memory://listed/v{i}.mp4\n" for i in range(5)]

    class Breaking:
        """Gives two lines more each time that it is opened; from the third time on none."""

        opened = 0

        def __enter__(self) -> Iterator[str]:
            self.opened += 1
            yield from lines[: 2 * min(self.opened, 2)]
            raise OSError("connection reset")

        def __exit__(self, *_: object) -> None:
            pass

    breaking = Breaking()
    monkeypatch.setattr("fsspec.open", lambda *_, **__: breaking)
    found = list(list_sources(["@memory://listed/list.txt"], patience_s=60))
    assert [item.uri for item in found[:-1]] == [line.strip() for line in lines[:4]]
    assert isinstance(found[-1], Unlisted) and found[-1].uri == "memory://listed/list.txt"


def test_link_loops_end(tree: Path) -> None:
    (tree / "d" / "up").symlink_to(tree)
    (tree / "linked").symlink_to(tree / "e")
    assert names(tree, [str(tree)]) == [*VIDEOS, "linked/a.mp4"]


def test_very_deep_directories_end(tmp_path: Path, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.folders.DEEPEST", 10)
    deep = tmp_path
    for _ in range(12):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (tmp_path / "a.mp4").write_bytes(b"x")
    (deep / "b.mp4").write_bytes(b"x")
    found = list(list_sources([str(tmp_path)]))
    assert [getattr(item, "reason", "") for item in found] == ["", "unreadable"]

    class Endless(dict[str, bytes]):
        def get(self, key: str, default: Any = None) -> bytes | None:  # type: ignore[override]
            return None if "*" in key else b'<a href="on/">on</a>'

    web.objects = Endless()
    for pattern in ("", "**/*.mp4"):
        found = list(list_sources([f"{web.url}/{pattern}"]))
        assert [item.reason for item in found if isinstance(item, VideoError)] == ["unreadable"]


def test_listing_is_lazy(tree: Path) -> None:
    found = list_sources([str(tree)])
    next(found)
    (tree / "e" / "late.mp4").write_bytes(b"x")  # in a directory not yet reached
    assert [item.uri for item in found][-1] == f"{tree}/e/late.mp4"


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    try:
        Path(os.fsdecode(raw)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    (source,) = list_sources([str(tmp_path)])
    assert isinstance(source, Source)
    source.uri.encode()
    assert os.fsencode(str(open_object(source.uri))) == raw


@pytest.fixture(scope="module")
def s3_tree(s3_bucket: str) -> str:
    for name in TREE:
        fsspec.filesystem("s3").pipe(f"{s3_bucket}/tree/{name}", name.encode())
    return f"{s3_bucket}/tree"


def test_s3(s3_tree: str) -> None:
    assert names(s3_tree, [s3_tree]) == names(s3_tree, [s3_tree + "/"]) == VIDEOS
    assert names(s3_tree, [f"{s3_tree}/d/sub/raw.dat"]) == ["d/sub/raw.dat"]
    assert names(s3_tree, [f"{s3_tree}/**/a.*"]) == ["a.mp4", "d/a.mov", "e/a.mp4"]
    assert names(s3_tree, [f"{s3_tree}/d/*"]) == ["d/a.mov", "d/sub/c.webm"]
    assert names(s3_tree, [f"{s3_tree}/[2019] trip.mp4"]) == ["[2019] trip.mp4"]
    assert names(s3_tree, [s3_tree], include=["*.mp4"], exclude=["e"]) == ["[2019] trip.mp4", "a.mp4"]
    assert errors([f"{s3_tree}/none.mp4"]) == [(f"{s3_tree}/none.mp4", "vanished")]


def test_s3_sees_what_came_later(s3_bucket: str) -> None:
    fs = fsspec.filesystem("s3")
    fs.pipe(f"{s3_bucket}/later/a.mp4", b"1")
    assert names(s3_bucket, [f"{s3_bucket}/later"]) == ["later/a.mp4"]
    another = fsspec.filesystem("s3", skip_instance_cache=True)  # another process: our listings know nothing of it
    another.pipe(f"{s3_bucket}/later/b.mp4", b"22")
    assert names(s3_bucket, [f"{s3_bucket}/later"]) == ["later/a.mp4", "later/b.mp4"]


def test_list_on_s3(s3_tree: str) -> None:
    fsspec.filesystem("s3").pipe(f"{s3_tree}/list.txt", f"a.mp4\n{s3_tree}/d\n".encode())
    assert names(s3_tree, [f"@{s3_tree}/list.txt"]) == ["a.mp4", "d/a.mov", "d/sub/c.webm"]
    with pytest.raises(UsageError, match="cannot be read"):
        list(list_sources([f"@{s3_tree}/none.txt"]))


def test_whole_bucket(s3_tree: str) -> None:
    bucket = s3_tree.removesuffix("/tree")
    assert names(bucket, [bucket], include=["tree/d/*"]) == ["tree/d/a.mov", "tree/d/sub/c.webm"]


def test_http(web: Any) -> None:
    page = "".join(f'<a href="{name}">{name}</a>' for name in ("../", "b.mp4", "a.mp4", "readme.html", "sub/"))
    web.objects = {"/v/": page.encode(), "/v/a.mp4": b"1", "/v/b.mp4": b"22", "/v/sub/": b'<a href="c.mkv">c</a>'}
    web.objects["/v/sub/c.mkv"] = b"333"
    root = f"{web.url}/v"
    assert names(root, [f"{root}/a.mp4"]) == ["a.mp4"]
    assert names(root, [root + "/"]) == ["a.mp4", "b.mp4", "sub/c.mkv"]
    web.objects["/watch?v=1"] = b"4444"
    assert names(web.url, [f"{web.url}/watch?v=1"]) == ["watch?v=1"]  # "?" is no glob in a URL
    assert errors([f"{root}/none.mp4"]) == [(f"{root}/none.mp4", "vanished")]


def test_memory_and_archives_within_archives(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe({f"/m/{name}": name.encode() for name in TREE})
    assert names("memory://m", ["memory://m"]) == VIDEOS
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr("in/a.mp4", b"content")
    for argument in ("zip://in", "zip://", "zip://*/*.mp4", "zip://**/*.mp4", "zip://in/a.mp4"):
        (source,) = list_sources([f"{argument}::{tmp_path}/z.zip"])
        assert source == Source(f"zip://in/a.mp4::{tmp_path}/z.zip", 7)
        file = open_object(source.uri)
        assert not isinstance(file, str) and file.read() == b"content"


def test_every_listed_uri_opens_and_has_a_fingerprint(tree: Path, s3_tree: str) -> None:
    here = [fingerprint(item) for item in list_sources([str(tree)]) if isinstance(item, Source)]
    there = [fingerprint(item) for item in list_sources([s3_tree]) if isinstance(item, Source)]
    assert here == there and len(set(here)) == len(VIDEOS)
