"""Where a log's search index lies, and the lock that its makers take turns by."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import LogError
from pipeline.log.localstore import LocalStore
from pipeline.log.store import Store

#: The folder beside a log's tables: readers of Delta tables pass over names that begin so.
FOLDER = "_search"

_turns: dict[str, _Turn] = {}
_guard = threading.Lock()


def place_of(store: Store, index: str | Path | None) -> Path:
    """The folder of a log's index: `index` where given; else beside a log on a path that can be written to; else (an
    object store, a log that is only read) in $SECONDSIGHT_CACHE, or `secondsight` in the user's cache folder.

    Raises LogError where that folder cannot be made.
    """
    if index is not None:
        folder = Path(index)
    elif isinstance(store, LocalStore) and os.access(store.root, os.W_OK):
        folder = Path(store.root, FOLDER)
    else:
        user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache = Path(os.environ.get("SECONDSIGHT_CACHE") or os.path.join(user, "secondsight")).expanduser()
        folder = cache / "search" / hashlib.blake2b(store.uri.encode(), digest_size=16).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogError(f"{folder}: cannot make a search index here: {error.strerror}; set SECONDSIGHT_CACHE") from error
    return folder


class _Turn:
    """Whose turn it is in one folder: among threads by a lock, among processes by one on a file."""

    def __init__(self) -> None:
        self.threads = threading.RLock()
        self.depth = 0  # of the thread that has the turn; a second lock on the file would wait for the first


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among the threads and processes that change the index in `folder`; a thread may come in again.

    Raises LogError where the folder cannot be written to.
    """
    with _guard:
        turn = _turns.setdefault(str(folder.resolve()), _Turn())
    with turn.threads, contextlib.ExitStack() as stack:
        if turn.depth == 0:
            try:
                file = stack.enter_context(open(folder / "lock", "ab"))
                fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel when its holder dies
            except OSError as error:
                raise LogError(f"{folder}: cannot write a search index here: {error.strerror or error}") from error
        turn.depth += 1
        try:
            yield
        finally:
            turn.depth -= 1
