"""Which videos are in the log already, per configuration: what a committer checks before it commits.

Kept as 16 bytes per video, so that a committer of millions of videos stays small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc

from pipeline.log.delta import Delta
from pipeline.log.entry import video_key
from pipeline.log.protocol import DataFile, read_commit
from pipeline.log.reader import read_table
from pipeline.log.records import VideoResult
from pipeline.log.store import Store


@dataclass(slots=True, eq=False)
class Committed(Mapping[str, str]):
    """video_id -> status of the videos of one configuration."""

    done: set[bytes] = field(default_factory=set)
    others: dict[bytes, tuple[str, str]] = field(default_factory=dict)  # status and reason of those not done
    ids: dict[bytes, str] = field(default_factory=dict)  # the video_id behind a key that is a hash of it

    def put(self, video_id: str, status: str, reason: str) -> None:
        key = video_key(video_id)
        if key.hex() != video_id:
            self.ids[key] = video_id
        if status == "done":
            self.done.add(key)
            self.others.pop(key, None)
        elif key not in self.done:
            self.others[key] = status, reason

    def stands_against(self, result: VideoResult) -> bool:
        """Whether `result` would say nothing new: the video is done, or failed before in the same way."""
        key = video_key(result.video_id)
        return key in self.done or self.others.get(key) == (result.status, result.reason)

    def copy(self) -> Committed:
        return Committed(self.done.copy(), self.others.copy(), self.ids.copy())

    def __getitem__(self, video_id: str) -> str:
        key = video_key(video_id)
        if self.ids.get(key, key.hex()) != video_id:
            raise KeyError(video_id)
        return "done" if key in self.done else self.others[key][0]

    def __iter__(self) -> Iterator[str]:
        for keys in (self.done, self.others):
            yield from (self.ids.get(key) or key.hex() for key in keys)

    def __len__(self) -> int:
        return len(self.done) + len(self.others)


class Keys:
    """What is committed under the configurations that were asked for, up to one version of the log."""

    def __init__(self, store: Store, version: int) -> None:
        self._store = store
        self._version = version
        self._of: dict[str, Committed] = {}

    def of(self, delta: Delta, config_hash: str) -> Committed:
        """What is committed under one configuration, complete up to the version that was learned last."""
        if config_hash not in self._of:
            self.learn(delta)
            self._of[config_hash] = Committed()
            self._read(delta.files("videos"), {config_hash})
        return self._of[config_hash]

    def learn(self, delta: Delta, own: bool = False) -> None:
        """Come up to the table's version: read the videos that each commit in between has added.

        `own`: the last of them was made here, and what it added is known.
        """
        fresh: list[DataFile] = []
        for version in range(self._version + 1, delta.version + (0 if own else 1)):
            commit = read_commit(self._store, version)
            if commit is None:  # cleaned up already: start over
                fresh = []
                self._of.clear()
                break
            if commit.data_change:
                fresh += [f for f in commit.added if f.record == "videos"]
        self._version = delta.version
        if self._of:
            self._read(fresh, set(self._of))

    def _read(self, files: Sequence[DataFile], configs: set[str]) -> None:
        for file in files:
            table = read_table(self._store, file, ["video_id", "config_hash", "status", "reason"])
            for config in configs:
                mine, committed = table.filter(pc.equal(table["config_hash"], config)), self._of[config]
                columns = (mine[name].to_pylist() for name in ("video_id", "status", "reason"))
                for video_id, status, reason in zip(*columns, strict=True):
                    committed.put(video_id, status, reason)
