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

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.errors import UsageError, VideoError
from pipeline.fingerprint import fingerprint
from pipeline.folders import local_source, sized, unlisted, walk, walk_remote
from pipeline.globs import glob_local, glob_remote
from pipeline.listing import PATIENCE_S, NoRoot, Patience
from pipeline.lists import beside, lines_of
from pipeline.patterns import VIDEO_EXTENSIONS, Filter, is_glob, spelt_extension
from pipeline.storage import filesystem, local_path, object_info
from pipeline.video import Source

__all__ = ["fingerprint", "list_sources"]


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
            yield unlisted(VideoError(name, error.reason, f"the list cannot be read: {error.detail}"), root=True)
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
        yield from _some(walk(path, "", chosen, patience, ()), _no_video(argument))
    elif os.path.lexists(path) or not is_glob(argument):
        name = os.path.basename(path)
        if chosen.takes(name):
            yield local_source(path)
    else:
        yield from _some(glob_local(path, chosen, patience), _no_match(argument))


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
            yield from _some(glob_remote(uri, fs, path, chosen, patience), _no_match(uri))
            return
        else:  # named like a video, it is one; else it may be a prefix with any number of them
            yield error if chosen.is_video(path) else unlisted(error, root=True)
            return
    if info["type"] == "directory":
        yield from _some(walk_remote(uri, fs, path, "", chosen, patience), _no_video(uri))
    elif chosen.takes(path.rsplit("/", 1)[-1]):
        yield sized(uri, info.get("size"))
