"""What a commit of the Delta log says, read without delta-rs: a lookup catches up on the newest commits by itself.

Source: the Delta transaction protocol (PROTOCOL.md of delta-io/delta), actions `add` and `remove`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.errors import LogError
from pipeline.log.store import Store

#: The partition column of the table: the kind of record.
PARTITION = "record"


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of the log. `first_video`/`last_video`: smallest and largest video_id in it, "" if unknown."""

    path: str
    record: str
    size_bytes: int
    rows: int
    first_video: str = ""
    last_video: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit did.

    `data_change` is false where it only arranged the same rows in other files; `changes_table` is true where it changed
    the schema, the configuration or the protocol.
    """

    added: tuple[DataFile, ...]
    removed: tuple[str, ...]
    data_change: bool
    changes_table: bool


def is_ours(path: str) -> bool:
    """Whether a data file has a name as this code gives them: the index can refer to it in 16 bytes."""
    stem = path.rsplit("/", 1)[-1].removesuffix(".parquet")
    return len(stem) == 32 and all(c in "0123456789abcdef" for c in stem)


def commit_path(version: int) -> str:
    return f"_delta_log/{version:020}.json"


def read_commit(store: Store, version: int) -> Commit | None:
    """One commit; None where it does not exist (yet, or any more). Raises LogError for a damaged one."""
    from urllib.parse import unquote

    path = commit_path(version)
    try:
        text = store.read(path).decode()
    except FileNotFoundError:
        return None
    added: list[DataFile] = []
    removed: list[str] = []
    data_change = changes_table = False
    try:
        for line in text.splitlines():
            action = json.loads(line)
            if add := action.get("add"):
                added.append(_data_file(add, unquote(add["path"])))
                data_change |= bool(add["dataChange"])
            elif remove := action.get("remove"):
                removed.append(unquote(remove["path"]))
                data_change |= bool(remove["dataChange"])
            elif "metaData" in action or "protocol" in action:
                changes_table = True
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogError(f"{store.uri}/{path}: damaged commit: {error}") from error
    return Commit(tuple(added), tuple(removed), data_change, changes_table)


def _data_file(add: dict[str, Any], path: str) -> DataFile:
    stats = json.loads(add.get("stats") or "{}")
    return DataFile(
        path=path,
        record=add["partitionValues"][PARTITION],
        size_bytes=add["size"],
        rows=stats.get("numRecords", 0),
        first_video=stats.get("minValues", {}).get("video_id", ""),
        last_video=stats.get("maxValues", {}).get("video_id", ""),
    )


def missing_commits(store: Store) -> list[int]:
    """Versions whose commits are missing between those that are there."""
    names = [path.rsplit("/", 1)[-1] for path, _, _ in store.list("_delta_log")]
    there = sorted(int(name[:20]) for name in names if name.endswith(".json") and name[:20].isdigit())
    return sorted(set(range(there[0], there[-1] + 1)) - set(there)) if there else []
