"""Which names are wanted: extensions of videos, include and exclude patterns, globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

VIDEO_EXTENSIONS = frozenset(
    "." + name
    for line in (
        "264 265 3g2 3gp asf av1 avi divx dv f4v flv gxf h264 h265 hevc ivf m1v m2p m2t m2ts m2v m4v mj2 mjpeg mjpg",
        "mkv mod mov mp4 mpe mpeg mpg mpv mts mxf nut obu ogm ogv ps qt rm rmvb tod trp ts vob vro webm wmv wtv y4m",
    )
    for name in line.split()
)


@dataclass(frozen=True, slots=True)
class Filter:
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    extensions: frozenset[str]

    def excludes(self, relative: str) -> bool:
        return any(_matches(pattern, relative) for pattern in self.exclude)

    def takes(self, relative: str) -> bool:
        """Whether patterns let this path (relative to its argument) through, ancestors included."""
        parts = relative.split("/")
        paths = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        included = not self.include or any(_matches(p, path) for p in self.include for path in paths)
        return included and not any(self.excludes(path) for path in paths)

    def is_video(self, name: str, spelt: str = "") -> bool:
        extension = os.path.splitext(name)[1].lower()
        return bool(extension) and (extension in self.extensions or extension == spelt)


def _matches(pattern: str, relative: str) -> bool:
    pattern = pattern.strip("/")
    if "/" not in pattern:
        return fnmatchcase(relative.rsplit("/", 1)[-1], pattern)
    return fnmatchcase(relative, pattern) or fnmatchcase(relative, "*/" + pattern)


class Steps:
    """A glob one component of a path after the other, to know on the way where there is sense in looking further.

    A state is the set of the places in the glob that a path has come to. `match(part)` tells by what a component is
    matched; `hidden`: whether "**" matches hidden ones.
    """

    def __init__(
        self, parts: Sequence[str], match: Callable[[str], Callable[[str], object]], hidden: bool = False
    ) -> None:
        self._parts, self._hidden = tuple(parts), hidden
        self._matches = [None if part == "**" else match(part) for part in parts]
        self.start = self._with_nothing({0})

    def after(self, state: frozenset[int], name: str) -> frozenset[int]:
        """Where a path has come to with one more component. Empty: neither it nor anything below matches."""
        after = set()
        for place in state - {len(self._parts)}:
            match = self._matches[place]
            if match is None and (self._hidden or name[0] != "."):
                after |= {place, len(self._parts)} if place == len(self._parts) - 1 else {place}
            elif match is not None and match(name):
                after.add(place + 1)
        return self._with_nothing(after)

    def matched(self, state: frozenset[int]) -> bool:
        return len(self._parts) in state

    def goes_on(self, state: frozenset[int]) -> bool:
        """Whether something below may match."""
        return any(place < len(self._parts) for place in state)

    def only(self, state: frozenset[int]) -> str:
        """The one pattern that what comes next has to match; "" where there are several."""
        (place, *others) = state
        return "" if others else self._parts[place]

    def _with_nothing(self, places: set[int]) -> frozenset[int]:
        """With the places that are come to where "**" stands for no component; at the end it stands for one or more."""
        for place, match in enumerate(self._matches[:-1]):
            if match is None and place in places:
                places.add(place + 1)
        return frozenset(places)


def spelt_extension(pattern: str) -> str:
    extension = os.path.splitext(pattern)[1].lower()
    return "" if glob.has_magic(extension) else extension


def is_glob(uri: str) -> bool:
    return "*" in uri if uri.startswith(("http://", "https://")) else glob.has_magic(uri)


def fixed_part(pattern: str) -> str:
    """What comes before the first path component with a wildcard."""
    magic = "*[" if pattern.startswith(("http://", "https://")) else "*?["
    fixed = pattern[: min(pattern.index(c) for c in magic if c in pattern)].rpartition("/")[0]
    return fixed + "/" if fixed.endswith(":/") else fixed
