"""Globs name what Python's and fsspec's own do, and what they cannot look into is tried again and said."""

from __future__ import annotations

import glob
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from pipeline.archive import list_sources
from pipeline.errors import UsageError, VideoError
from pipeline.listing import Unlisted
from pipeline.patterns import VIDEO_EXTENSIONS, fixed_part, spelt_extension
from pipeline.video import Source
from tests.workers.pools import Clock

FOLDERS = ("a", "b", "ab", "a-b", ".h", "x.mp4")
FILES = ("x.mp4", "a.mp4", "b.mp4", ".y.mp4", "x.dat", "[a].mp4", "\u00e9.MKV", "a", "a.txt", "A.mp4")
PARTS = ("*", "**", "a*", "b*", "a?b", ".h", ".*", "[ab]", "[!a]*", "a", "x*", "a**")
LAST = ("*", "**", "*.mp4", "x.mp4", "*.dat", "[[]a].mp4", ".*", "[!x]*", "a**")
Found = list[tuple[str, str]]


def listed(*arguments: str, **options: Any) -> Found:
    """URI, and the reason of what is no video; none where nothing was found at all."""
    try:
        found = list(list_sources(arguments, **options))
    except UsageError as error:
        assert "nothing there" in str(error)
        return []
    return [(item.uri, item.reason if isinstance(item, VideoError) else "") for item in found]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sleeping moves it."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    return clock


def _paths(rng: random.Random, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """The files of a random tree."""
    folders = rng.sample(FOLDERS, 3) if depth < 3 else []
    for name in folders:
        yield from _paths(rng, f"{prefix}{name}/", depth + 1)
    yield from (prefix + name for name in rng.sample(FILES, 3) if name not in folders)


def _patterns(rng: random.Random, count: int) -> list[str]:
    patterns = ["/".join((*rng.choices(PARTS, k=rng.randint(0, 3)), rng.choice(LAST))) for _ in range(count)]
    return [pattern for pattern in patterns if glob.has_magic(pattern)]


def _as_glob(root: str, pattern: str) -> Found:
    """What Python's glob finds; of a directory, what is below it."""
    told: Found = []
    extensions = {*VIDEO_EXTENSIONS, spelt_extension(pattern)} - {""}
    for path in sorted(set(glob.iglob(f"{root}/{pattern}", recursive=True))):
        if (os.path.isdir(path) and not pattern.endswith("**")) or (
            not os.path.isdir(path) and os.path.splitext(path)[1].lower() in extensions
        ):
            told += listed(path)
    return [item for item in dict.fromkeys(told) if item[1] != "no_video"]


@pytest.mark.parametrize("seed", range(2))
def test_a_local_glob_names_what_pythons_does_in_its_order(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    outside, root = tmp_path / "outside", tmp_path / "root"
    for base in (outside, root):
        for name in _paths(rng):
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(b"x")
    for place in (root, *(path for path in sorted(root.rglob("*")) if path.is_dir() and rng.random() < 0.1)):
        (place / "linked").symlink_to(outside)
        (place / "nowhere.mp4").symlink_to("gone")
        (place / "itself.mp4").symlink_to("itself.mp4")
    found = 0
    for pattern in _patterns(rng, 30):
        names = listed(f"{root}/{pattern}")
        assert names == _as_glob(str(root), pattern), pattern
        found += len(names)
    assert found > 100


def _as_fsspec(fs: Any, root: str, pattern: str) -> Found:
    told: Found = []
    for path, info in sorted(fs.glob(f"{root}/{pattern}", detail=True).items()):
        relative = path.removeprefix(fixed_part(f"{root}/{pattern}")).strip("/")
        if "/." in f"/{relative}" and "/." not in f"/{pattern}":
            continue
        if info["type"] == "directory":
            told += [] if pattern.endswith("**") else listed(f"memory:/{path}")
        elif os.path.splitext(path)[1].lower() in {*VIDEO_EXTENSIONS, spelt_extension(pattern)} - {""}:
            told.append((f"memory:/{path}", ""))
    return [item for item in dict.fromkeys(told) if item[1] != "no_video"]


@pytest.mark.parametrize("seed", range(2))
def test_a_remote_glob_names_what_fsspecs_does_in_its_order(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng, fs = random.Random(seed), fsspec.filesystem("memory")
    monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)  # as of a store that only lists folders
    fs.pipe({f"/globs{seed}/{name}": b"x" for name in _paths(rng)})
    found = 0
    for pattern in _patterns(rng, 30):
        if "a**" in pattern:  # none to fsspec
            continue
        names = listed(f"memory://globs{seed}/{pattern}")
        assert names == _as_fsspec(fs, f"/globs{seed}", pattern), pattern
        found += len(names)
    assert found > 100


def test_a_folder_below_a_local_glob_that_cannot_be_listed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    for name in ("a/in/x.mkv", "b/in/x.mkv", "c/in/x.mkv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    real, fails = os.scandir, {"error": PermissionError(13, "no"), "until": float("inf")}

    def scandir(path: str) -> Any:
        if path == f"{tmp_path}/b" and clock.now < fails["until"]:
            raise fails["error"]
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    a, b, c = f"{tmp_path}/a/in/x.mkv", f"{tmp_path}/b/in/x.mkv", f"{tmp_path}/c/in/x.mkv"
    for pattern in ("**/*.mkv", "*/*/*.mkv", "*/i*", "*", "**"):
        found = list(list_sources([f"{tmp_path}/{pattern}"]))
        assert [item.uri for item in found] == [a, f"{tmp_path}/b", c], pattern
        assert isinstance(found[1], Unlisted) and found[1].reason == "denied"
    assert listed(f"{tmp_path}/**/*.mkv", exclude=["b"]) == [(a, ""), (c, "")]
    assert listed(f"{tmp_path}/*/in/*.mkv") == [(a, ""), (b, ""), (c, "")], "a folder that is named is not looked for"
    fails |= {"error": OSError(5, "Input/output error"), "until": clock.now + 300}
    assert listed(f"{tmp_path}/*/*/*.mkv") == [(a, ""), (b, ""), (c, "")], "it is tried again until it can be listed"
    assert clock.now >= fails["until"]


def test_links_that_go_round_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.mp4").write_bytes(b"x")
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    (tmp_path / "d" / "also").symlink_to(tmp_path)
    d = f"{tmp_path}/d"
    assert listed(f"{tmp_path}/**/*.mp4") == listed(f"{tmp_path}/**") == [(f"{d}/a.mp4", "")]
    assert listed(f"{tmp_path}/**/up/*/*.mp4") == [(f"{d}/up/d/a.mp4", "")]
    assert listed(f"{tmp_path}/*/up/d/up/*/*.mp4") == [(f"{d}/up/d/up/d/a.mp4", "")]


@pytest.fixture
def s3_days(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> tuple[str, list[Any], dict[str, float]]:
    """Folder of three folders with a day each; (path, stem) of the listings of folders; which fail until when."""
    s3 = fsspec.filesystem("s3")
    if not s3.exists(f"{s3_bucket}/days"):
        s3.pipe({f"{s3_bucket}/days/{name}": b"x" for name in (
            "ca/2025/v.mp4", "ca/2026/v.mp4", "cb/2026/v.mp4", "cc/2026/v.mp4", "cc/2026/w/v.mp4", "other/2026/v.mp4",
        )})  # fmt: skip
    looked: list[Any] = []
    fails: dict[str, float] = {}
    real = type(s3)._lsdir

    async def lsdir(self: Any, path: str, *args: Any, delimiter: str = "/", prefix: str = "", **options: Any) -> Any:
        if delimiter:
            looked.append((path.partition("/days")[2], prefix))
        if clock.now < fails.get(path.partition("/days")[2] if delimiter else "flat", 0):
            raise OSError(5, "503 Slow Down")
        return await real(self, path, *args, delimiter=delimiter, prefix=prefix, **options)

    monkeypatch.setattr(type(s3), "_lsdir", lsdir)
    return f"{s3_bucket}/days", looked, fails


def test_a_glob_over_s3_lists_no_more_than_can_match(s3_days: tuple[str, list[Any], dict[str, float]]) -> None:
    root, looked, _ = s3_days
    day = [(f"{root}/c{c}/2026/v.mp4", "") for c in "abc"]
    assert listed(f"{root}/c*/2026/*.mp4") == day
    assert looked[-7:] == [("", "c"), *(step for c in "abc" for step in ((f"/c{c}", "2026"), (f"/c{c}/2026", "")))]
    looked.clear()
    assert listed(f"{root}/c*/**/v.mp4") == [(f"{root}/ca/2025/v.mp4", ""), *day, (f"{root}/cc/2026/w/v.mp4", "")]
    assert not [step for step in looked if step[0]], "one flat listing"


def test_a_folder_below_a_glob_over_s3_that_cannot_be_listed_is_tried_again_and_said(
    s3_days: tuple[str, list[Any], dict[str, float]], clock: Clock
) -> None:
    root, looked, fails = s3_days
    whole = listed(f"{root}/c?/2026/*")
    fails["/cb"] = clock.now + 300
    assert listed(f"{root}/c?/2026/*") == whole and clock.now >= fails["/cb"] and looked.count(("/cb", "2026")) > 3
    fails["/cb"] = clock.now + 1e6
    found = list(list_sources([f"{root}/c?/2026/*"]))
    assert [item.uri for item in found] == [u if "/cb/" not in u else f"{root}/cb/" for u, _ in whole]
    assert [type(item) for item in found] == [Source, Unlisted, Source, Source] and "503" in str(found[1])
    fails["flat"] = clock.now + 1e6
    (flat,) = list_sources([f"{root}/**/v.mp4"])
    assert isinstance(flat, Unlisted) and flat.uri == f"{root}/**/v.mp4"


def test_a_page_below_a_glob_over_http_that_fails_is_said(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"/v/": '<a href="a/">a</a><a href="b/">b</a>', "/v/a/": '<a href="x.mp4">x</a>'}
    web.objects = {path: html.encode() for path, html in page.items()} | {"/v/a/x.mp4": b"1"}
    http = type(fsspec.filesystem("http"))
    real = http._ls_real

    async def ls_real(self: Any, url: str, *args: Any, **options: Any) -> Any:
        if url.endswith("/v/b/"):
            raise OSError("503")
        return await real(self, url, *args, **options)

    monkeypatch.setattr(http, "_ls_real", ls_real)
    for pattern in ("*/*.mp4", "**/*.mp4", "*"):
        found = listed(f"{web.url}/v/{pattern}", patience_s=0)
        assert found == [(f"{web.url}/v/a/x.mp4", ""), (f"{web.url}/v/b/", "storage")], pattern
