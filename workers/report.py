"""What a run says about itself while it runs: its counters, what happens in it, and what its replicas counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from pipeline.live import Stuck

#: Where something happens in the flow.
StageName = Literal["identify", "decode", "watch", "commit"]


@dataclass(slots=True)
class Progress:
    """Where a run stands; also its totals in the end. Videos are counted once however many names they have."""

    found: int = 0  # names listed so far
    listed: bool = False  # the listing has ended: `found` is all there is
    names: int = 0  # names dealt with
    already: int = 0  # videos that the log had before
    duplicates: int = 0  # further names of the same content
    done: int = 0
    failed: int = 0
    quarantined: int = 0
    windows: int = 0
    windows_known: int = 0
    windows_kept: int = 0  # of windows_known, those that an earlier driver had finished
    events: int = 0
    frames: int = 0
    video_us: int = 0  # length of the windows watched, overlaps counted once
    known_us: int = 0  # length of the videos taken up
    decode_s: float = 0.0
    model_s: float = 0.0
    commit_s: float = 0.0
    file_bytes: int = 0  # of the log: what was committed, with the features beside it
    input_tokens: int = 0
    output_tokens: int = 0
    retries: int = 0  # of anything: opening, decoding, watching, committing
    replicas: int = 0
    replicas_wanted: int = 0
    replica_deaths: int = 0
    decoders: int = 0  # decode tasks that may run at once, now
    nodes: int = 1  # of the cluster, alive
    nodes_lost: int = 0
    bytes_in_flight: int = 0
    budget_bytes: int = 0
    peak_bytes: int = 0
    stuck: tuple[Stuck, ...] = ()  # what has not moved for a while, now
    waits_for: str = ""  # what the run waits for, now, with everything as it is: a served model, a store that is away
    dropped_events: dict[str, int] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)  # what the replicas' models counted
    failures: list[tuple[str, str]] = field(default_factory=list)  # (uri, reason), the first thousand

    def totals(self, elapsed_s: float) -> dict[str, Any]:
        """The numbers for the run's row in the log."""
        numbers = asdict(self)
        for passing in ("listed", "bytes_in_flight", "failures", "replicas", "decoders", "nodes", "stuck", "waits_for"):
            del numbers[passing]
        return {**numbers, "elapsed_s": elapsed_s}


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """Something happened that is not in every window's life. `at_us`: Unix time.

    `what`: the video, window or replica. `where`: the node or replica, "" where there is none. `detail`: for people.
    """

    kind: Literal[
        "retry",  # something failed and is tried again
        "failed",  # a video has failed
        "quarantined",  # a video has windows that were given up
        "replica_up",
        "replica_died",
        "replica_drained",  # ended between two calls, because its node goes or it is not needed
        "node_added",
        "node_lost",
        "node_draining",  # it will go soon
        "waiting",  # who serves the model, or a store, cannot be reached: the run waits
        "stuck",  # the watchdog names what has not moved
        "unstuck",  # and has ended it, so that it is tried again
    ]
    stage: StageName
    what: str
    where: str
    detail: str
    at_us: int


@dataclass(frozen=True, slots=True)
class WindowTrace:
    """The way of one answered window, for tracing. Times are Unix microseconds of the driver's clock.

    `decoded_us`: its frames were known to the driver; `sent_us`: they were given to `replica`; `answered_us`: the
    answer was there. `decode_s` and `model_s`: what decoder and model took by their own account.
    """

    video_id: str
    window: int
    start_us: int
    end_us: int
    attempt: int
    decode_node: str
    replica: str
    decode_s: float
    model_s: float
    decoded_us: int
    sent_us: int
    answered_us: int


@dataclass(frozen=True, slots=True)
class VideoTrace:
    """The end of a video's way, for tracing: its windows were reduced to rows, then these were committed with those of
    others. (Begin, end) in Unix microseconds of the driver's clock."""

    video_id: str
    events: int
    reduced_us: tuple[int, int]
    committed_us: tuple[int, int]


class FlowObserver(Protocol):
    """Who wants to know. Called in the driver's loop: must return at once, and is dropped where it raises."""

    wants_traces: bool  #: whether `traced` and `recorded` are called; building traces costs time

    def snapshot(self, progress: Progress) -> None:
        """About once a second and once at the end. The object changes afterwards: copy what is kept."""
        ...

    def event(self, event: FlowEvent) -> None:
        """As it happens."""
        ...

    def traced(self, trace: WindowTrace) -> None:
        """For each answered window, where `wants_traces`."""
        ...

    def recorded(self, trace: VideoTrace) -> None:
        """For each video with answered windows that is in the log now, where `wants_traces`."""
        ...


def add_up(one: Any, other: Any) -> Any:
    """The sum of two reports (see `model.interface.Reporting`): numbers are added, dicts by key, lists by place."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        both = {key: add_up(value, other[key]) if key in other else value for key, value in one.items()}
        return {**both, **{key: value for key, value in other.items() if key not in one}}
    if isinstance(one, list) and isinstance(other, list):
        longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
        return [add_up(a, b) for a, b in zip(longer, shorter, strict=False)] + longer[len(shorter) :]
    return one + other
