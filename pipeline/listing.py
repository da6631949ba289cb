"""Listings that fail: tried again while the store may come back, and what stands for what cannot be listed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import VideoError
from pipeline.storage import video_error

PATIENCE_S = 600.0  # without one look at the archive that succeeds,
FIRST_S = 60.0  # or this long where none ever did: more likely it is spelt wrong
PAUSE_S, MOST_PAUSE_S = 1.0, 30.0  # between two looks: doubled from the first to the second

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Unlisted(VideoError):
    """A folder, glob or list of the archive of which it is not known what it holds. No video, and so no row of the log:
    whoever works on the archive does what is found, and ends with this as its error."""


class NoRoot(Unlisted):
    """The same of a whole argument, for good: it does not exist, or may not be read."""


class Patience:
    """Of one whole listing: `patience_s` in which nothing succeeds, whatever is looked at."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._since: float | None = None
        self._first = True
        self._pause_s = PAUSE_S

    def looked(self) -> None:
        """Something answered."""
        self._since, self._pause_s, self._first = None, PAUSE_S, False

    def failed(self, uri: str, error: Exception) -> None:
        """A look at `uri` failed: returns when it is time for the next. Raises VideoError where there is no sense in
        one, or patience is at its end."""
        failure, now = video_error(uri, error), time.monotonic()
        if failure.reason != "storage":
            raise failure from error
        self._since = now if self._since is None else self._since
        if now + self._pause_s - self._since > min(self._patience_s, FIRST_S if self._first else self._patience_s):
            raise failure from error
        logger.warning("%s; looked at again in %.0f s", failure, self._pause_s)
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)

    def __call__(self, uri: str, look: Callable[[], T]) -> T:
        """What `look()` returns, in the end. Raises VideoError as `failed`."""
        while True:
            try:
                found = look()
            except Exception as error:  # noqa: BLE001 - whatever a storage library raises becomes one typed error
                self.failed(uri, error)
            else:
                self.looked()
                return found
