"""What is handed to the event log: the records behind the rows of its tables (DESIGN.md, "The tables")."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.event import Event
from pipeline.features.vectors import FrameFeatures
from pipeline.plan import Window

Status = Literal["done", "failed", "quarantined"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: one job with one configuration. `config` is the whole configuration, JSON-serialisable."""

    run_id: str
    config_hash: str
    config: Mapping[str, Any]
    model: str
    weights_hash: str
    code_version: str
    host: Mapping[str, Any]
    started_us: int  # Unix time
    forecast: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """Where a window's events came from. `frame_us`: times of the frames the model saw, on the video's timeline.
    `features` are kept beside the tables (pipeline/features)."""

    window: Window
    frame_us: Sequence[int]
    attempt: int = 1
    replica: str = ""
    decode_s: float = 0.0
    model_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    answer: str | None = None
    features: FrameFeatures | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # as of `Window`
        cost = (self.decode_s, self.model_s, self.input_tokens, self.output_tokens)
        said = (self.truncated, self.answer, self.features)
        return WindowRecord, (self.window, self.frame_us, self.attempt, self.replica, *cost, *said)


@dataclass(frozen=True, slots=True)
class VideoResult:
    """Everything one run has to say about one video; committed once, as a whole.

    A video that could not be read has `status` "failed" and a `reason` ("code: detail"); what is unknown of it is
    None, and `video_id` falls back to a hash of its uri where not even a fingerprint could be had.
    """

    video_id: str
    run_id: str
    config_hash: str
    uris: tuple[str, ...]
    size_bytes: int
    status: Status
    reason: str = ""
    duration_us: int | None = None
    offset_us: int | None = None
    width: int | None = None
    height: int | None = None
    rotation: int | None = None
    codec: str | None = None
    frame_rate: float | None = None
    lost_us: tuple[tuple[int, int], ...] = ()
    windows: Collection[WindowRecord] = ()  # by window
    events: Collection[Event] = ()
