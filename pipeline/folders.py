"""The videos below one folder of the archive, on this machine or in a store, and what stands for what is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import VideoError
from pipeline.listing import NoRoot, Patience, Unlisted
from pipeline.patterns import Filter
from pipeline.storage import object_info, stat_local
from pipeline.video import Source

LIST_EXTENSIONS = frozenset((".txt", ".list", ".lst", ".m3u"))
DEEPEST = 100  # directories below an argument


def local_source(path: str) -> Source | VideoError:
    """What a local file is taken for."""
    uri = path
    try:
        uri.encode()
    except UnicodeEncodeError:  # not UTF-8: a URI spells the bytes, where text (a log, JSON) cannot
        uri = Path(path).as_uri()
    try:
        size = stat_local(uri, path).st_size
    except VideoError as error:
        return error
    return sized(uri, size)


def sized(uri: str, size: int | None) -> Source | VideoError:
    if size == 0:
        return VideoError(uri, "empty", "it has no bytes")
    if size is None:
        return VideoError(uri, "unreadable", "its server does not tell its size, so it cannot be read by range")
    if os.path.splitext(uri)[1].lower() in LIST_EXTENSIONS:
        return VideoError(uri, "unreadable", f"it is named like a list of videos: to read it as one, write @{uri}")
    return Source(uri, size)


def walk(
    path: str, prefix: str, chosen: Filter, patience: Patience, above: tuple[tuple[int, int], ...]
) -> Iterator[Source | VideoError]:
    """Videos below a local directory. `above`: device and inode of the directories on the way, against link loops."""
    try:
        status = patience(path, lambda: os.stat(path))
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        if len(above) == DEEPEST:
            yield too_deep(path)
            return
        found = patience(path, lambda: entries(path))
    except VideoError as error:
        yield unlisted(error, root=not prefix)
        return
    for name, is_directory in found:
        relative, below = prefix + name, os.path.join(path, name)
        if name[0] == ".":
            continue
        if is_directory:
            if not chosen.excludes(relative):
                yield from walk(below, relative + "/", chosen, patience, (*above, here))
        elif chosen.is_video(name) and chosen.takes(relative):
            yield local_source(below)


def entries(path: str) -> list[tuple[str, bool]]:
    """Name, and whether it is a directory, of what is in one."""
    with os.scandir(path) as found:
        return sorted((entry.name, _is_directory(entry)) for entry in found)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: named as what it is when it is looked at
        return False


def too_deep(uri: str) -> VideoError:
    return VideoError(uri, "unreadable", f"{DEEPEST} directories deep: name what is below it by itself")


def unlisted(error: VideoError, root: bool) -> VideoError:
    """What stands for a folder that cannot be listed. One below the `root` that is gone by now holds nothing."""
    if error.reason == "vanished" and not root:
        return error
    of = NoRoot if root and error.reason != "storage" else Unlisted
    return of(error.uri, error.reason, error.detail)


def walk_remote(
    uri: str, fs: Any, path: str, prefix: str, chosen: Filter, patience: Patience
) -> Iterator[Source | VideoError]:
    """Videos below `path`, which `uri` + `prefix` names."""
    if prefix.count("/") == DEEPEST:  # a web server can go on for ever
        yield too_deep(below_uri(uri, prefix))
        return
    try:
        found = patience(below_uri(uri, prefix) if prefix else uri, lambda: folder_infos(fs, path))
    except VideoError as error:
        yield unlisted(error, root=not prefix)
        return
    for name, info in found:
        relative = prefix + name
        if name.startswith("."):
            continue
        if info["type"] == "directory":
            if not chosen.excludes(relative):
                yield from walk_remote(uri, fs, info["name"], relative + "/", chosen, patience)
        elif chosen.is_video(name) and chosen.takes(relative):
            yield remote_source(below_uri(uri, relative), fs, info, patience)


def folder_infos(fs: Any, path: str, stem: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Name and fsspec's facts of what is in a folder now, sorted. `stem`: what of S3 is wanted begins so."""
    fs.invalidate_cache(path)
    try:
        found = fs.find(path, maxdepth=1, withdirs=True, detail=True, prefix=stem).values() if stem else None
    except ValueError:  # an older s3fs takes no prefix with a depth
        found = None
    if found is None:
        found = fs.ls(path, detail=True)
    fs.invalidate_cache(path)  # a listing that nobody asks for again would stay in memory
    named = ((info["name"].rstrip("/"), info) for info in sorted(found, key=lambda info: str(info["name"])))
    return [(name.rsplit("/", 1)[-1], info) for name, info in named if name != path.rstrip("/")]


def remote_source(uri: str, fs: Any, info: dict[str, Any], patience: Patience) -> Source | VideoError:
    """What an object with these facts is taken for; `uri` names it."""
    try:
        known = info if info.get("size") is not None else patience(uri, lambda: object_info(uri, fs, info["name"]))
        return sized(uri, known.get("size"))
    except VideoError as error:
        return error


def below_uri(base: str, relative: str) -> str:
    """The URI of `relative` below `base`, whose chain of filesystems (`zip://...::s3://...`) it keeps."""
    first, chain, rest = base.partition("::")
    if "://" not in first:  # a cache in front: simplecache::s3://bucket
        first, chain, rest = base, "", ""
    first = first.rstrip("/")
    return f"{first}{'//' if first.endswith(':') else '/'}{relative}{chain}{rest}"
