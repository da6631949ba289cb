"""What is left to do, and whose work it is: said before a run begins."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from pipeline.errors import LogError, VideoError
from pipeline.video import Source

if TYPE_CHECKING:
    from pipeline.log import EventLog

LOOK_NAMES, LOOK_S = 20_000, 5.0  # how far the archive is looked through before the work begins
KNOWN_VIDEOS = 200_000  # names of more videos are not fetched only to count


@dataclass(frozen=True, slots=True)
class Missing:
    """By name and size, the look that costs nothing: the run itself goes by content. `more`: the archive goes on."""

    names: int
    size_bytes: int
    more: bool
    to_do: int
    to_do_bytes: int

    def line(self, begun: int) -> str:
        """`begun`: videos of which an earlier run has left windows."""
        plus = "+" if self.more else ""
        parts = [f"{self.names:,}{plus} videos found ({_size(self.size_bytes)}{plus})"]
        parts += [f"{self.names - self.to_do:,} done before"] if self.to_do < self.names else []
        parts += [f"{self.to_do:,}{plus} to watch ({_size(self.to_do_bytes)}{plus})"]
        parts += [f"{begun:,} of them begun before, their windows are kept"] if begun else []
        return ", ".join(parts)


def look_ahead(
    sources: Iterator[Source | VideoError], known: Mapping[str, int]
) -> tuple[Missing, Iterator[Source | VideoError]]:
    """Look through an archive, `LOOK_NAMES` names or `LOOK_S` at most; returns also the sources as they were.

    `known`: uri -> bytes of what is done.
    """
    seen: list[Source | VideoError] = []
    deadline, more = time.monotonic() + LOOK_S, False
    size = to_do = to_do_bytes = 0
    for source in sources:
        seen.append(source)
        if isinstance(source, Source):
            size += source.size_bytes
            if known.get(source.uri) != source.size_bytes:
                to_do, to_do_bytes = to_do + 1, to_do_bytes + source.size_bytes
        else:
            to_do += 1
        if len(seen) >= LOOK_NAMES or time.monotonic() > deadline:
            more = True
            break
    return Missing(len(seen), size, more, to_do, to_do_bytes), chain(seen, sources)


def done_names(log: EventLog, config_hash: str, skip: Mapping[str, str]) -> dict[str, int]:
    """uri -> bytes of the videos in the log that need no work."""
    if not skip or len(skip) > KNOWN_VIDEOS:
        return {}
    from pipeline.log.sql import select

    rows = select(log.snapshot(), "select video_id, uris, size_bytes from videos where config_hash = $1", [config_hash])
    return {uri: r["size_bytes"] for r in rows.to_pylist() if r["video_id"] in skip for uri in r["uris"]}


def not_done(log: EventLog, committed: Mapping[str, str]) -> tuple[int, int]:
    """Of what is committed under a configuration: how many videos failed (or were quarantined), and how many of those
    are not there any more, their files having been replaced since."""
    failed = [video_id for video_id, status in committed.items() if status != "done"]
    if not failed:
        return 0, 0
    from pipeline.log.replaced import REPLACED
    from pipeline.log.sql import select

    gone = select(log.snapshot(), f"with {REPLACED} from replaced")["video_id"].to_pylist()
    return len(failed), len(set(failed).intersection(gone))


def finish_orphan(log: EventLog, config_hash: str, host: Mapping[str, Any]) -> str | None:
    """A driver that died after its last video left nothing to do but to say so: the id of its run, which is done now.

    `host`: who says so, and which archive was found to be done; runs of other archives are left alone.
    """
    from pipeline.live import ENDED, read_live, write_live

    orphan = orphaned_run(log, config_hash, host["archive"])
    if orphan is None or not log.take_over_run(*orphan, {**orphan[1], **host}):
        return None
    run_id = orphan[0]
    log.finish_run(run_id, {}, "done")
    with suppress(LogError):  # a word beside the log
        for status in read_live(log.uri):
            if status.run_id == run_id and status.state not in ENDED:
                note = "its driver ended before it could say so"
                write_live(log.uri, replace(status, state="done", note=note, left_s=None, stuck=()))
    return run_id


def orphaned_run(
    log: EventLog, config_hash: str, archive: Sequence[str] | None = None
) -> tuple[str, dict[str, Any]] | None:
    """(id, host) of the newest run of this configuration (and of `archive`) whose driver is gone without a word."""
    from pipeline.live import read_live
    from pipeline.log.sql import select

    query = "select run_id, host from runs where status = 'running' and config_hash = $1 order by started_at_us desc"
    for row in select(log.snapshot(), query, [config_hash]).to_pylist():
        host = json.loads(row["host"] or "{}")
        if archive is not None and host.get("archive") != archive:
            continue
        if host.get("node") == platform.node() and host.get("boot") == boot_id():
            gone = not _runs(host)
        else:
            try:
                words = [status for status in read_live(log.uri) if status.run_id == row["run_id"]]
            except LogError:
                continue
            gone = bool(words) and not words[0].is_live()  # one that never said a word may be about to
        if gone:
            return row["run_id"], host
    return None


def boot_id() -> str:
    """What tells this boot of this machine from any other (a container may share its host's name); "" if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip() + ":" + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_start() -> int:
    """When this process was started, in clock ticks since boot: ids of processes are used again."""
    return _start_of(os.getpid())


def _runs(host: Mapping[str, Any]) -> bool:
    """Whether the driver of a run on this machine is still there."""
    return _start_of(int(host.get("process") or 0)) == host.get("process_start")


def _start_of(pid: int) -> int:
    """Field 22 of /proc/PID/stat (proc(5)); 0 where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def forget_done(committed: Mapping[str, str]) -> Iterable[str]:
    """Videos that are done: what an earlier driver kept of them is not needed any more. What is kept of the others is
    what a retry need not watch again."""
    return [video_id for video_id, status in committed.items() if status == "done"]


def _size(size: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:,.1f} {unit}"
        size = size / 1000  # type: ignore[assignment]
    raise AssertionError
