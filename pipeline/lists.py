"""Lists of what an archive holds: their lines, and where a relative one points."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from itertools import islice

import fsspec

from pipeline.listing import Patience
from pipeline.patterns import is_glob
from pipeline.storage import local_path


def lines_of(name: str, patience: Patience) -> Iterator[str]:
    """The lines of a list; "-": of standard input. Raises VideoError where it cannot be read (further)."""
    if name == "-":
        yield from sys.stdin
        return
    path, done = local_path(os.path.expanduser(name)), 0
    while True:
        try:
            with fsspec.open(path or name, "rt", encoding="utf-8", errors="surrogateescape") as lines:
                for line in islice(lines, done, None):
                    patience.looked()
                    done += 1
                    yield line
            return
        except Exception as error:  # noqa: BLE001 - whatever a storage library raises
            patience.failed(name, error)


def beside(name: str, entry: str) -> str:
    """A relative entry of a list, beside the list where it exists there."""
    if name == "-" or "://" in entry or os.path.isabs(entry) or entry.startswith("~"):
        return entry
    path = local_path(os.path.expanduser(name))
    if path is None:
        return f"{name.rpartition('/')[0]}/{entry}"
    beside = os.path.join(os.path.dirname(path), entry)
    return beside if os.path.lexists(beside) or (is_glob(entry) and glob.glob(beside, recursive=True)) else entry
