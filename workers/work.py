"""The pieces of work that travel between driver, decoders and replicas, and what is said about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.event import WindowEvents
from pipeline.log.records import Status
from pipeline.plan import Segment, Window
from pipeline.video import Video


@dataclass(frozen=True, slots=True)
class DecodeOrder:
    """Decode these segments now, one after another: one of a long video, or several short videos.

    Windows leave the decoder in parcels of `parcel_windows` at most; `depth` parcels may lie ready before one is taken.
    """

    number: int
    segments: tuple[Segment, ...]
    depth: int
    parcel_windows: int = 1


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder says beside the pixels of a window. `decode_s`: wall time that it took."""

    window: Window
    frame_us: tuple[int, ...]
    lost_us: tuple[tuple[int, int], ...]
    decode_s: float
    frame_bytes: int

    def __reduce__(self) -> tuple[Any, ...]:  # as of `Window`
        return Decoded, (self.window, self.frame_us, self.lost_us, self.decode_s, self.frame_bytes)


@dataclass(frozen=True, slots=True)
class Parcel:
    """Windows that leave a decoder together; their frames are a list of `Frames` of the same order in one object.

    `failed`: segments of the order (by place) that cannot be decoded further: place -> (reason, detail). `node`: where
    the frames are.
    """

    windows: tuple[Decoded, ...]
    failed: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    node: str = ""


@dataclass(slots=True)
class Waiting:
    """A window that was taken from its decoder and is not answered yet.

    `parcel`: where its frames are (a reference, held for as long as they are needed), at `place` in the list.
    `order`: of its video in the archive. `kills`: replicas that died over it. `alone`: not to be batched with others.
    `node`: where its frames are. `since`: when it was taken (monotonic seconds).
    """

    decoded: Decoded
    parcel: Any
    place: int
    order: int
    window_bytes: int
    node: str = ""
    since: float = 0.0
    kills: int = 0
    alone: bool = False

    @property
    def window(self) -> Window:
        return self.decoded.window


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows that one replica is given in one call."""

    number: int
    members: tuple[Waiting, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        return tuple(m.decoded.window for m in self.members)

    def parted(self, answered: Sequence[WindowEvents]) -> tuple[Batch, list[WindowEvents], Batch]:
        """The windows that are answered, their answers, and the other windows."""
        said = {answer.window: answer for answer in answered}
        done = tuple(m for m in self.members if m.window in said)
        rest = tuple(m for m in self.members if m.window not in said)
        return Batch(self.number, done), [said[m.window] for m in done], Batch(self.number, rest)

    def parcels(self) -> tuple[list[Any], list[tuple[int, int]]]:
        """The parcels that hold the frames, each once, and for each window (parcel, place in it)."""
        parcels: list[Any] = []
        number_of: dict[int, int] = {}
        at = []
        for member in self.members:
            number = number_of.get(id(member.parcel))
            if number is None:
                number = number_of[id(member.parcel)] = len(parcels)
                parcels.append(member.parcel)
            at.append((number, member.place))
        return parcels, at


@dataclass(frozen=True, slots=True)
class Answer:
    """A watched window. `attempt` counts from 1; `replica` names who answered ("" for a window that is lost)."""

    decoded: Decoded
    events: WindowEvents
    attempt: int
    replica: str

    def __reduce__(self) -> tuple[Any, ...]:  # as of `Window`
        return Answer, (self.decoded, self.events, self.attempt, self.replica)

    def index(self) -> int:
        """Of its window within the video."""
        return self.decoded.window.index


@dataclass(frozen=True, slots=True)
class Watched:
    """A video that is finished, one way or another. `answers` by window."""

    video: Video
    status: Status
    reason: str
    answers: Collection[Answer]
    lost_us: tuple[tuple[int, int], ...]
