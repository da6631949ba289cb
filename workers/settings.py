"""What a run may use up, and stand-ins for its remote functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STARTUP_S, CLUSTER_STARTUP_S = 900.0, 3600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be used up.

    `stall_s`: time without progress in one decode task, or in opening one video. `decode_bytes`: private memory that
    decoding may add to its process. `startup_s`: while no replica is up (None: 15 minutes; an hour on a cluster, where
    a node may have to be started and the weights fetched). `segment_s`: length of video that one decode
    task reads. `frames_bytes`: frames in flight (None: by the size of the cluster). `answer_s`: one call of a replica.
    `storage_s`: how long a store of the archive that cannot be reached is waited for, and room for frames.
    `quiet_s`: without any window answered, before what is stuck is named. `log_s`: how long a log that cannot be
    written is tried again. `decoders`: decode tasks at once (None: steered by what is measured).
    """

    stall_s: float = 120.0
    decode_bytes: int | None = 4 << 30
    startup_s: float | None = None
    segment_s: float = 300.0
    frames_bytes: int | None = None
    answer_s: float = 3600.0
    quiet_s: float = 60.0
    log_s: float = 120.0
    storage_s: float = 600.0
    decoders: int | None = None


@dataclass(frozen=True, slots=True)
class Tasks:
    """Stand-ins for the remote functions of the flow (benchmarks measure it without decoding). None: the real one."""

    fingerprint: Any = None
    probe: Any = None
    decode: Any = None

    def given(self, name: str) -> dict[str, Any]:
        task = getattr(self, name)
        return {} if task is None else {"task": task}
