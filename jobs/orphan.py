"""Runs whose driver is gone: found, taken over by the next driver, or finished where nothing is left to do."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import LogError

if TYPE_CHECKING:
    from pipeline.log import EventLog


def finish_orphan(log: EventLog, config_hash: str, host: Mapping[str, Any]) -> str | None:
    """A driver that died after its last video left nothing to do but to say so: the id of its run, which is done now.

    `host`: who says so, and which archive was found to be done; runs of other archives are left alone.
    """
    from pipeline.live import ENDED, read_live, write_live

    orphan = orphaned_run(log, config_hash, host["archive"])
    if orphan is None or not log.take_over_run(*orphan, {**orphan[1], **host}):
        return None
    run_id = orphan[0]
    log.finish_run(run_id, work_of(log, run_id), "done")
    with suppress(LogError):  # a word beside the log
        for status in read_live(log.uri):
            if status.run_id == run_id and status.state not in ENDED:
                note = "its driver ended before it could say so"
                write_live(log.uri, replace(status, state="done", note=note, left_s=None, stuck=()))
    return run_id


def orphaned_run(log: EventLog, config_hash: str, archive: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """(id, host) of the newest run of this configuration over this archive whose driver is gone without a word.

    Runs over other archives are left alone: their rows say where their videos lie.
    """
    from pipeline.live import read_live
    from pipeline.log.sql import select

    query = "select run_id, host from runs where status = 'running' and config_hash = $1 order by started_at_us desc"
    for row in select(log.snapshot(), query, [config_hash]).to_pylist():
        host = json.loads(row["host"] or "{}")
        if host.get("archive") != archive:
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


def work_of(log: EventLog, run_id: str) -> dict[str, float]:
    """What the drivers of a run have done so far, under the names of its totals: as the last of them told beside the
    log, a few seconds before it was gone, or as the rows of its videos say where that is more."""
    from pipeline.live import read_live
    from pipeline.log.sql import select

    work: dict[str, float] = {}
    with suppress(LogError):
        for status in read_live(log.uri):
            if status.run_id == run_id:
                work = dict(status.work())
    [rows] = select(log.snapshot(), _ROWS, [run_id]).to_pylist()
    return {**work, **{name: max(work.get(name, 0), value) for name, value in rows.items()}}


_ROWS = """
    select count(*) filter (status = 'done') as done, count(*) filter (status = 'failed') as failed,
        count(*) filter (status = 'quarantined') as quarantined, coalesce(sum(windows), 0)::bigint as windows,
        coalesce(sum(events), 0)::bigint as events, coalesce(sum(frames), 0)::bigint as frames,
        coalesce(sum(duration_us) filter (status = 'done'), 0)::bigint as video_us,
        coalesce(sum(decode_s), 0) as decode_s, coalesce(sum(model_s), 0) as model_s,
        coalesce(sum(input_tokens), 0)::bigint as input_tokens,
        coalesce(sum(output_tokens), 0)::bigint as output_tokens
    from videos where run_id = $1"""


def together(totals: Mapping[str, Any], before: Mapping[str, float]) -> dict[str, Any]:
    """The totals of a run that was taken over: its last driver's, with the work of those before it."""
    known = {"windows_known": before.get("windows", 0), "known_us": before.get("video_us", 0)}
    return {**totals, **{name: totals.get(name, 0) + value for name, value in {**before, **known}.items()}}


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
