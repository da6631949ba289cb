"""What is in the archive: listing its objects. (What makes two of them the same video is in pipeline/fingerprint.)

An argument names videos in one of these ways:

- a file or an object: taken whatever its extension;
- a directory or a prefix (over http, a URL that ends in "/"): all files below it with the extension of a video, except
  hidden ones; links to directories are followed;
- a glob (`*`, `?`, `[...]`, `**`; over http `*` alone): files with the extension of a video, or with the extension that
  the pattern spells out (`*.dat`). A name that exists as it is spelt is no glob;
- `@FILE`: a list, one of the above on each line (UTF-8; empty lines and lines that begin with "#" are skipped, so M3U
  works). A relative path is looked up beside the list first, then in the current directory. `@-` is standard input.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError, VideoError
from pipeline.fingerprint import fingerprint
from pipeline.listing import PATIENCE_S, NoRoot, Patience, Unlisted
from pipeline.lists import beside, lines_of
from pipeline.patterns import VIDEO_EXTENSIONS, Filter, fixed_part, is_glob, spelt_extension
from pipeline.storage import filesystem, local_path, object_info, stat_local
from pipeline.video import Source

__all__ = ["fingerprint", "list_sources"]

LIST_EXTENSIONS = frozenset((".txt", ".list", ".lst", ".m3u"))
DEEPEST = 100  # directories below an argument


def list_sources(
    arguments: Sequence[str],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    patience_s: float = PATIENCE_S,
) -> Iterator[Source | VideoError]:
    """The objects that `arguments` name (module docstring), lazily, each name once, in the order of the arguments and
    sorted by path within each. What cannot be a video comes as a VideoError in its place; what cannot be listed as an
    Unlisted, after `patience_s` where a store fails in a way that may pass.

    `include` and `exclude` are shell patterns in which `*` matches "/" too. One without "/" is held against the name
    of a file and of every directory between it and the argument; one with "/" against the end of the path. Where
    `include` is given, only what matches one of them is listed (and an extension that it spells out counts as that of
    a video); what matches `exclude` never is.

    Raises UsageError at once where an argument cannot be meant: none given, a path or list that does not exist, a
    kind of URI that cannot be read here; and before anything is listed where the first has nothing to list.
    """
    if not arguments:
        raise UsageError("no archive given: name files, directories, globs, @lists or URIs")
    for argument in arguments:
        _check(argument)
    extensions = VIDEO_EXTENSIONS | {spelt for pattern in include if (spelt := spelt_extension(pattern))}
    return _distinct(arguments, Filter(tuple(include), tuple(exclude), extensions), Patience(patience_s))


def _check(argument: str) -> None:
    """Raises UsageError for an argument that can name nothing, as far as can be told without a request."""
    uri = argument.removeprefix("@")
    if not uri:
        raise UsageError(f"{argument!r} names nothing")
    if argument == "@-":
        return
    path = local_path(os.path.expanduser(uri))
    if path is None:
        filesystem(uri)
    elif not os.path.lexists(path) and (uri != argument or not is_glob(uri)):
        kind = "list" if uri != argument else "file or directory"
        raise UsageError(f"{uri}: no such {kind}")


def _distinct(arguments: Sequence[str], chosen: Filter, patience: Patience) -> Iterator[Source | VideoError]:
    seen: set[int] = set()  # hashes: a million names in tens of megabytes
    for argument in arguments:
        by_list = argument.startswith("@")
        found = (_listed if by_list else _expand)(argument.removeprefix("@"), chosen, patience)
        for item in found:
            if isinstance(item, NoRoot) and not seen:
                raise UsageError(f"{item.uri}: {item.detail}")
            if (key := hash(item.uri)) not in seen:
                seen.add(key)
                yield item


def _listed(name: str, chosen: Filter, patience: Patience) -> Iterator[Source | VideoError]:
    lines = enumerate(lines_of(name, patience), 1)
    while True:
        try:
            number, line = next(lines)
        except StopIteration:
            return
        except VideoError as error:
            yield _unlisted(VideoError(name, error.reason, f"the list cannot be read: {error.detail}"), root=True)
            return
        entry = line.strip().removeprefix("\ufeff")
        if "\0" in entry:
            yield NoRoot(name, "unreadable", f"line {number} is not text: a list has one path or URI on each line")
            return
        if not entry or entry.startswith("#"):
            continue
        try:
            for item in _expand(beside(name, entry), chosen, patience):
                if isinstance(item, NoRoot):  # of a line, it is as a file that is gone
                    yield VideoError(item.uri, item.reason, item.detail)
                else:
                    yield item
        except UsageError as error:  # one bad line does not stop the others
            yield VideoError(entry, "unsupported", f"line {number} of {name}: {error}")


def _expand(argument: str, chosen: Filter, patience: Patience) -> Iterator[Source | VideoError]:
    path = local_path(os.path.expanduser(argument))
    if path is None:
        yield from _expand_remote(argument, chosen, patience)
    elif os.path.isdir(path):
        yield from _some(_walk(path, "", chosen, patience, ()), _no_video(argument))
    elif os.path.lexists(path) or not is_glob(argument):
        name = os.path.basename(path)
        if chosen.takes(name):
            yield _local(path)
    else:
        yield from _some(_glob_local(path, chosen, patience), _no_match(argument))


def _some(found: Iterable[Source | VideoError], nothing: VideoError) -> Iterator[Source | VideoError]:
    """What is found; `nothing` where that is none."""
    empty = True
    for item in found:
        empty = False
        yield item
    if empty:
        yield nothing


def _no_video(uri: str) -> VideoError:
    return VideoError(uri, "no_video", _NOTHING)


def _no_match(pattern: str) -> NoRoot:
    return NoRoot(pattern, "vanished", _NOTHING)


_NOTHING = "nothing there has the extension of a video and passes the patterns"


def _local(path: str) -> Source | VideoError:
    uri = path
    try:
        uri.encode()
    except UnicodeEncodeError:  # not UTF-8: a URI spells the bytes, where text (a log, JSON) cannot
        uri = Path(path).as_uri()
    try:
        size = stat_local(uri, path).st_size
    except VideoError as error:
        return error
    return _sized(uri, size)


def _sized(uri: str, size: int | None) -> Source | VideoError:
    if size == 0:
        return VideoError(uri, "empty", "it has no bytes")
    if size is None:
        return VideoError(uri, "unreadable", "its server does not tell its size, so it cannot be read by range")
    if os.path.splitext(uri)[1].lower() in LIST_EXTENSIONS:
        return VideoError(uri, "unreadable", f"it is named like a list of videos: to read it as one, write @{uri}")
    return Source(uri, size)


def _walk(
    path: str, prefix: str, chosen: Filter, patience: Patience, above: tuple[tuple[int, int], ...]
) -> Iterator[Source | VideoError]:
    """Videos below a local directory. `above`: device and inode of the directories on the way, against link loops."""
    try:
        status = patience(path, lambda: os.stat(path))
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        if len(above) == DEEPEST:
            yield _too_deep(path)
            return
        found = patience(path, lambda: _entries(path))
    except VideoError as error:
        yield _unlisted(error, root=not prefix)
        return
    for name, is_directory in found:
        relative, below = prefix + name, os.path.join(path, name)
        if is_directory:
            if not chosen.excludes(relative):
                yield from _walk(below, relative + "/", chosen, patience, (*above, here))
        elif chosen.is_video(name) and chosen.takes(relative):
            yield _local(below)


def _entries(path: str) -> list[tuple[str, bool]]:
    """Name, and whether it is a directory, of what is in one and not hidden."""
    with os.scandir(path) as entries:
        return sorted((entry.name, _is_directory(entry)) for entry in entries if entry.name[0] != ".")


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: named as what it is when it is looked at
        return False


def _too_deep(uri: str) -> VideoError:
    return VideoError(uri, "unreadable", f"{DEEPEST} directories deep: name what is below it by itself")


def _unlisted(error: VideoError, root: bool) -> VideoError:
    """What stands for a folder that cannot be listed. One below the `root` that is gone by now holds nothing."""
    if error.reason == "vanished" and not root:
        return error
    of = NoRoot if root and error.reason != "storage" else Unlisted
    return of(error.uri, error.reason, error.detail)


def _glob_local(pattern: str, chosen: Filter, patience: Patience) -> Iterator[Source | VideoError]:
    spelt = spelt_extension(pattern)
    root = fixed_part(pattern) or "/"
    for path in sorted(set(glob.iglob(pattern, recursive=True))):
        relative = os.path.relpath(path, root)
        if os.path.isdir(path):
            if not pattern.endswith("**") and not chosen.excludes(relative):
                yield from _walk(path, relative + "/", chosen, patience, ())
        elif chosen.is_video(path, spelt) and chosen.takes(relative):
            yield _local(path)


def _expand_remote(uri: str, chosen: Filter, patience: Patience) -> Iterator[Source | VideoError]:
    fs, path = filesystem(uri)
    try:
        if uri.startswith(("http://", "https://")) and uri.endswith("/"):
            info: dict[str, Any] = {"type": "directory"}
        else:
            info = patience(uri, lambda: object_info(uri, fs, path))
    except VideoError as error:
        if error.reason == "not_a_file":
            info = {"type": "directory"}
        elif error.reason == "vanished" and is_glob(uri):
            yield from _some(_glob_remote(uri, fs, path, chosen, patience), _no_match(uri))
            return
        else:  # named like a video, it is one; else it may be a prefix with any number of them
            yield error if chosen.is_video(path) else _unlisted(error, root=True)
            return
    if info["type"] == "directory":
        yield from _some(_walk_remote(uri, fs, path, "", chosen, patience), _no_video(uri))
    elif chosen.takes(path.rsplit("/", 1)[-1]):
        yield _sized(uri, info.get("size"))


def _walk_remote(
    uri: str, fs: Any, path: str, prefix: str, chosen: Filter, patience: Patience
) -> Iterator[Source | VideoError]:
    """Videos below `path`, which `uri` + `prefix` names."""
    if prefix.count("/") == DEEPEST:  # a web server can go on for ever
        yield _too_deep(_below(uri, prefix))
        return

    def look() -> list[dict[str, Any]]:
        fs.invalidate_cache(path)
        found = sorted(fs.ls(path, detail=True), key=lambda info: str(info["name"]))
        fs.invalidate_cache(path)  # a listing that nobody asks for again would stay in memory
        return found

    try:
        found = patience(_below(uri, prefix) if prefix else uri, look)
    except VideoError as error:
        yield _unlisted(error, root=not prefix)
        return
    for info in found:
        name = info["name"].rstrip("/").rsplit("/", 1)[-1]
        if name.startswith(".") or info["name"].rstrip("/") == path.rstrip("/"):
            continue
        relative = prefix + name
        if info["type"] == "directory":
            if not chosen.excludes(relative):
                yield from _walk_remote(uri, fs, info["name"], relative + "/", chosen, patience)
        elif chosen.is_video(name) and chosen.takes(relative):
            yield _remote(_below(uri, relative), fs, info, patience)


def _glob_remote(uri: str, fs: Any, pattern: str, chosen: Filter, patience: Patience) -> Iterator[Source | VideoError]:
    spelt = spelt_extension(pattern)
    root = fixed_part(pattern)
    first, chain, rest = uri.partition("::")
    base = fixed_part(first) + chain + rest if is_glob(first) else fixed_part(uri)
    try:
        found = patience(uri, lambda: sorted(fs.glob(pattern, detail=True).items()))
    except VideoError as error:
        yield _unlisted(error, root=True)
        return
    for path, info in found:
        relative = path.removeprefix(root).strip("/")
        if "/." in f"/{relative}" and "/." not in pattern:  # hidden, as in a local glob
            continue
        if info["type"] == "directory":
            if not pattern.endswith("**") and not chosen.excludes(relative):
                yield from _walk_remote(base, fs, path, relative + "/", chosen, patience)
        elif chosen.is_video(path, spelt) and chosen.takes(relative):
            yield _remote(_below(base, relative), fs, info, patience)


def _remote(uri: str, fs: Any, info: dict[str, Any], patience: Patience) -> Source | VideoError:
    try:
        known = info if info.get("size") is not None else patience(uri, lambda: object_info(uri, fs, info["name"]))
        return _sized(uri, known.get("size"))
    except VideoError as error:
        return error


def _below(base: str, relative: str) -> str:
    """The URI of `relative` below `base`, whose chain of filesystems (`zip://...::s3://...`) it keeps."""
    first, chain, rest = base.partition("::")
    if "://" not in first:  # a cache in front: simplecache::s3://bucket
        first, chain, rest = base, "", ""
    first = first.rstrip("/")
    return f"{first}{'//' if first.endswith(':') else '/'}{relative}{chain}{rest}"
