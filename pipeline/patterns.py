"""Which names are wanted: extensions of videos, include and exclude patterns, globs."""

from __future__ import annotations

import glob
import os
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


def spelt_extension(pattern: str) -> str:
    extension = os.path.splitext(pattern)[1].lower()
    return "" if glob.has_magic(extension) else extension


def is_glob(uri: str) -> bool:
    return "*" in uri if uri.startswith(("http://", "https://")) else glob.has_magic(uri)


def fixed_part(pattern: str) -> str:
    """What comes before the first path component with a wildcard."""
    fixed = pattern[: min(pattern.index(c) for c in "*?[" if c in pattern)].rpartition("/")[0]
    return fixed + "/" if fixed.endswith(":/") else fixed
