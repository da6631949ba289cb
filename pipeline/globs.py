"""Globs, folder by folder: one that cannot be listed is tried again and named, where libraries leave it out unsaid."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.cached import CachingFileSystem
from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate

from pipeline import folders
from pipeline.errors import VideoError
from pipeline.listing import Patience
from pipeline.patterns import Filter, Steps, fixed_part, is_glob, spelt_extension
from pipeline.video import Source

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class _Search:
    """`whole`: a folder that matches stands for all that is below it. `covers`: the glob names nothing more there."""

    steps: Steps
    spelt: str
    whole: bool
    covers: bool
    chosen: Filter
    patience: Patience

    def onward(
        self, state: frozenset[int], prefix: str, found: Iterable[tuple[str, bool, Any]]
    ) -> list[tuple[str, bool, Any, frozenset[int]]]:
        """Of (name, whether it is a folder, what it is) in the folder `prefix`: what matches and where to look on, in
        the order of their paths, as (name, whether it is a folder, what it is, state; none for what matches)."""
        onward = []
        for name, is_folder, thing in found:
            after, relative = self.steps.after(state, name), prefix + name
            if is_folder and self.chosen.excludes(relative):
                continue
            matched = self.steps.matched(after)
            if matched and (self.whole if is_folder else self.takes(relative)):
                onward.append((name, (name, is_folder, thing, frozenset[int]())))
            if is_folder and self.steps.goes_on(after) and not (matched and self.covers):
                onward.append((name + "/", (name, is_folder, thing, after)))
        return [step for _, step in sorted(onward, key=lambda pair: pair[0])]

    def takes(self, relative: str) -> bool:
        return self.chosen.is_video(relative, self.spelt) and self.chosen.takes(relative)


def _search(pattern: str, steps: Steps, chosen: Filter, patience: Patience) -> _Search:
    spelt, whole = spelt_extension(pattern), not pattern.endswith("**")
    covers = whole and "/." not in pattern and (not spelt or spelt in chosen.extensions)
    return _Search(steps, spelt, whole, covers, chosen, patience)


def glob_local(pattern: str, chosen: Filter, patience: Patience) -> Iterator[Source | VideoError]:
    """The videos that an absolute pattern names, as Python's glob would, in the order of their paths."""
    root = fixed_part(pattern) or "/"
    steps = Steps(pattern[len(root) :].strip("/").split("/"), _local_part)
    search = _search(pattern, steps, chosen, patience)
    return _below_local(search, root, "", steps.start, ())


def _local_part(part: str) -> Callable[[str], object]:
    if not glob.has_magic(part):
        return part.__eq__
    match = re.compile(fnmatch.translate(part)).match
    return match if part[0] == "." else lambda name: name[0] != "." and match(name)


def _below_local(
    search: _Search, path: str, prefix: str, state: frozenset[int], above: tuple[tuple[int, int, frozenset[int]], ...]
) -> Iterator[Source | VideoError]:
    """`above`: device, inode and state of the folders on the way: the same again is a loop of links, and would only
    give other names to what is named already."""
    part = search.steps.only(state)
    try:
        status = search.patience(path, lambda: os.stat(path))
        here = (status.st_dev, status.st_ino, state)
        if here in above:
            return
        if len(above) == folders.DEEPEST:
            yield folders.too_deep(path)
            return
        by_name = part and not glob.has_magic(part)  # needs no right to list the folder
        found = search.patience(path, lambda: _named(path, part) if by_name else folders.entries(path))
    except VideoError as error:
        if error.reason != "vanished":
            yield folders.unlisted(error, root=not prefix)
        return
    named = ((name, is_folder, None) for name, is_folder in found)
    for name, is_folder, _, after in search.onward(state, prefix, named):
        below, relative = os.path.join(path, name), prefix + name
        if after:
            yield from _below_local(search, below, relative + "/", after, (*above, here))
        elif is_folder:
            yield from folders.walk(below, relative + "/", search.chosen, search.patience, ())
        else:
            yield folders.local_source(below)


def _named(path: str, name: str) -> list[tuple[str, bool]]:
    """As `entries` would give it, where it exists."""
    below = os.path.join(path, name)
    try:
        return [(name, stat.S_ISDIR(os.stat(below).st_mode))]
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return [(name, False)] if os.path.lexists(below) else []  # a link to nowhere


def glob_remote(uri: str, fs: Any, pattern: str, chosen: Filter, patience: Patience) -> Iterator[Source | VideoError]:
    """The videos that `pattern` in `fs` (`uri`, in full) names, as fsspec's glob would, in the order of their paths."""
    while isinstance(fs, CachingFileSystem):
        fs = fs.fs
    first, chain, rest = uri.partition("::")
    base = fixed_part(first) + chain + rest if is_glob(first) else fixed_part(uri)
    root = fixed_part(pattern)
    head = root + "/" if pattern.startswith("/", len(root)) else root
    parts = pattern[len(head) :].split("/")
    steps = Steps(parts, lambda part: re.compile(glob_translate(re.sub(r"\*+", "*", part))).match, hidden=True)
    search = _search(pattern, steps, chosen, patience)
    hidden = "/." in pattern
    if _finds(fs, head, parts):
        return _found_remote(search, uri, base, fs, pattern, hidden)
    return _below_remote(search, uri, base, fs, fs._strip_protocol(head), "", steps.start, hidden)


def _finds(fs: Any, head: str, parts: list[str]) -> bool:
    """Whether the store itself finds what matches (S3: all of it in one flat listing, for `**`), and raises what goes
    wrong. Elsewhere fsspec walks, and leaves out what fails."""
    own = getattr(type(fs), "_find", type(fs).find) not in (AsyncFileSystem._find, AbstractFileSystem.find)
    return own and ("**" in parts or not head or not _is_s3(fs))


def _is_s3(fs: Any) -> bool:
    return "s3" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _found_remote(
    search: _Search, uri: str, base: str, fs: Any, pattern: str, hidden: bool
) -> Iterator[Source | VideoError]:
    try:
        found = search.patience(uri, lambda: sorted(fs.glob(pattern, detail=True).items()))
    except VideoError as error:
        yield folders.unlisted(error, root=True)
        return
    root = fixed_part(pattern)
    for path, info in found:
        relative = path.removeprefix(root).strip("/")
        if "/." in f"/{relative}" and not hidden:  # hidden, as in a local glob
            continue
        if info["type"] == "directory":
            if search.whole and not search.chosen.excludes(relative):
                yield from folders.walk_remote(base, fs, path, relative + "/", search.chosen, search.patience)
        elif search.takes(relative):
            yield folders.remote_source(folders.below_uri(base, relative), fs, info, search.patience)


def _below_remote(
    search: _Search, uri: str, base: str, fs: Any, path: str, prefix: str, state: frozenset[int], hidden: bool
) -> Iterator[Source | VideoError]:
    """What is below `path`, which `base` + `prefix` names."""
    here = folders.below_uri(base, prefix) if prefix else uri
    if prefix.count("/") == folders.DEEPEST:
        yield folders.too_deep(here)
        return
    stem = re.split(r"[*?\[]", search.steps.only(state))[0] if _is_s3(fs) else ""
    try:
        found = search.patience(here, lambda: folders.folder_infos(fs, path, stem))
    except VideoError as error:
        if error.reason != "vanished":
            yield folders.unlisted(error, root=not prefix)
        return
    named = ((name, info["type"] == "directory", info) for name, info in found if hidden or not name.startswith("."))
    for name, is_folder, info, after in search.onward(state, prefix, named):
        relative = prefix + name
        if after:
            yield from _below_remote(search, uri, base, fs, info["name"], relative + "/", after, hidden)
        elif is_folder:
            yield from folders.walk_remote(base, fs, info["name"], relative + "/", search.chosen, search.patience)
        else:
            yield folders.remote_source(folders.below_uri(base, relative), fs, info, search.patience)
