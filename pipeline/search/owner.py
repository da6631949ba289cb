"""What an index holds beside events: whose they are (owners), and how much of the log is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Owner:
    """A video in a run, as its row in `videos` says."""

    video_id: str
    run_id: str
    name: str
    status: str
    finished_at_us: int
    events: int
    duration_us: int | None
    others: Sequence[str] = ()  # its other names then

    @property
    def key(self) -> int:
        return hashed(self.video_id, self.run_id)


@dataclass(frozen=True, slots=True)
class State:
    """How much of the log is in the index: everything up to `version` of the log that began with `log`.

    `several`: there is a video with more than one run, so that hits of older runs are to be left out.
    """

    version: int
    log: str
    several: bool


def hashed(*parts: str) -> int:
    """A 64-bit number for some texts (signed, as the index takes it)."""
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@lru_cache(4096)
def run_key(run_id: str) -> int:
    """The number of a run."""
    return hashed(run_id)
