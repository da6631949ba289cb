"""The pieces of work that travel between driver, decoders and replicas, and what is said about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.event import WindowEvents
from pipeline.log.records import Status
from pipeline.plan import Segment, Window
from pipeline.video import Video


@dataclass(frozen=True, slots=True)
class DecodeOrder:
    """Decode these windows now. `depth`: how many of them may lie ready before one is taken."""

    number: int
    segment: Segment
    depth: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder says beside the pixels of a window. `decode_s`: wall time that it took."""

    window: Window
    frame_us: tuple[int, ...]
    lost_us: tuple[tuple[int, int], ...]
    decode_s: float
    frame_bytes: int


@dataclass(slots=True)
class Waiting:
    """A window that was taken from its decoder and is not answered yet.

    `frames`: where its frames are (a reference, held for as long as they are needed). `order`: of its video in the
    archive. `kills`: replicas that died over it. `alone`: not to be batched with others.
    """

    decoded: Decoded
    frames: Any
    order: int
    window_bytes: int
    kills: int = 0
    alone: bool = False

    @property
    def window(self) -> Window:
        return self.decoded.window


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows that one replica watches together."""

    number: int
    members: tuple[Waiting, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        return tuple(m.window for m in self.members)


@dataclass(frozen=True, slots=True)
class Answer:
    """A watched window. `attempt` counts from 1; `replica` names who answered."""

    decoded: Decoded
    events: WindowEvents
    attempt: int
    replica: str


@dataclass(frozen=True, slots=True)
class Watched:
    """A video that is finished, one way or another. `answers` by window."""

    video: Video
    status: Status
    reason: str
    answers: tuple[Answer, ...]
    lost_us: tuple[tuple[int, int], ...]
