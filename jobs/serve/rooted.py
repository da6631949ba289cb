"""Which files may be shown: those that the log names, where they lie below an allowed root.

Without --root the roots are what the log's own runs were given, so who writes a log chooses them: a log from elsewhere
is believed about ordinary folders only, not about the system's, a whole home folder or hidden ones (`doubtful`). And
no file is shown that is not the content which the log tells of (contents.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from functools import cached_property
from urllib.parse import unquote

from jobs.serve.reply import Problem
from pipeline.log.entry import Entry
from pipeline.storage import local_path

#: Folders that nobody keeps an archive in, with all below them.
SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin", "/snap",
    "/sys", "/usr", "/var",
)  # fmt: skip

#: Folders of home folders.
HOMES = ("/home", "/Users")


def doubtful(root: str) -> bool:
    """Whether a root is one that a person has to name, and no log."""
    path = local_path(root)
    if path is None:
        return False
    real, home = os.path.realpath(path), os.path.realpath(os.path.expanduser("~"))
    if _below(home, (real,)) or real in HOMES or os.path.dirname(real) in HOMES:
        return True
    if any(part.startswith(".") for part in real.split("/")):
        return True
    if home != "/" and _below(real, (home,)):
        return False
    return _below(real, SYSTEM)


class Rooted:
    def __init__(self, roots: Sequence[str] | None, default: Callable[[], Sequence[str]]) -> None:
        """`roots`: folders and object-store prefixes; None: what `default` says now and is not doubtful."""
        self._given, self._default = roots, default

    @property
    def roots(self) -> tuple[str, ...]:
        if self._given is not None:
            return self._checked
        return _whole([root for root in self._default() if root and not doubtful(root)])

    @cached_property
    def _checked(self) -> tuple[str, ...]:
        return _whole(self._given or ())

    def names(self, entry: Entry) -> list[str]:
        """Those of a video's names that may be shown and are there. Raises Problem 403 or 410: none."""
        allowed = [uri for uri in entry.uris if _allowed(uri, self.roots)]
        there = [uri for uri in allowed if (path := local_path(uri)) is None or os.path.exists(path)]
        if there:
            return there
        if allowed:
            raise Problem(410, "video_vanished", f"{allowed[0]}: the file is gone; its events stay")
        name = entry.uris[0] if entry.uris else entry.video_id
        raise Problem(
            403,
            "outside_roots",
            f"{name} lies outside the folders that may be shown; start the server with --root FOLDER to show it",
        )

    def open(self, uri: str) -> int:
        """A file descriptor of a local file, proved after opening to be a regular file below a root.

        Whatever is exchanged meanwhile, a link or a folder, the check is of what was opened.
        """
        path = local_path(uri)
        assert path is not None
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            raise Problem(410, "video_vanished", f"{uri}: the file is gone; its events stay") from None
        except OSError as error:
            raise Problem(403, "video_denied", f"{uri}: {error.strerror}") from None
        try:
            real = os.readlink(f"/proc/self/fd/{handle}") if os.path.isdir("/proc/self/fd") else os.path.realpath(path)
            if not stat.S_ISREG(os.fstat(handle).st_mode) or not _below(real, self.roots):
                raise Problem(403, "outside_roots", f"{uri} is not a file below the folders that may be shown")
        except BaseException:
            os.close(handle)
            raise
        return handle


def _whole(roots: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        os.path.realpath(path) if (path := local_path(root)) is not None else root.rstrip("/") for root in roots if root
    )


def _allowed(uri: str, roots: Sequence[str]) -> bool:
    path = local_path(uri)
    if path is not None:
        return _below(os.path.realpath(path), roots)
    plain = unquote(uri)
    if "/../" in plain + "/" or "\\" in plain or "::" in uri:
        return False
    return any("://" in root and (uri == root or uri.startswith(root + "/")) for root in roots)


def _below(real: str, roots: Sequence[str]) -> bool:
    return any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots if "://" not in root)
