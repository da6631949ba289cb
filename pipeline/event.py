"""What an event is: first as a model says it about one window, then as a row about one video."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring as _quoted
from operator import attrgetter
from typing import Any

from pipeline.features.vectors import FrameFeatures
from pipeline.plan import Window


@dataclass(frozen=True, slots=True)
class WindowEvent:
    """An event as a model saw it in one window. All times are microseconds relative to the window's start.

    `continues_before` / `continues_after`: it was already (still) going on at the window's first (last) frame, so the
    neighbouring window may hold the rest of it. `confidence` in [0, 1] or None. `evidence_us`: times of the frames
    that show it. `attributes`: flat, JSON-serialisable.
    """

    start_us: int
    end_us: int
    kind: str
    text: str
    confidence: float | None = None
    evidence_us: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    continues_before: bool = False
    continues_after: bool = False

    def __reduce__(self) -> tuple[Any, ...]:  # as of `Window`
        what = (self.kind, self.text, self.confidence, self.evidence_us, self.attributes)
        return WindowEvent, (self.start_us, self.end_us, *what, self.continues_before, self.continues_after)


@dataclass(frozen=True, slots=True)
class WindowEvents:
    """A model's whole answer about one window. `answer` is the raw text where the model has one, `features` what its
    eye made of the frames."""

    window: Window
    events: tuple[WindowEvent, ...]
    model_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    answer: str | None = None
    features: FrameFeatures | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # as of `Window`
        said = (self.input_tokens, self.output_tokens, self.truncated, self.answer, self.features)
        return WindowEvents, (self.window, self.events, self.model_s, *said)


OTHER_KINDS = "*"


@dataclass(frozen=True, slots=True)
class KindRule:
    """How events of one kind are reduced; under the name `OTHER_KINDS`: of every kind that has no rule of its own.

    `point`: a moment (a cut), not a span; two of them closer than `gap_us` with equal text are one.
    Otherwise spans with equal text that overlap, touch, or lie within `gap_us` of each other become one.
    `min_us`: shorter spans are dropped after stitching (a model reports short spans at window edges because the rest
    may lie next door).
    `exclusive`: states of one thing (a level), of which only one holds at a time. Where two windows overlap and
    disagree, both are cut in the middle of the overlap: each window knows best what lies far from its edges.
    `min_confidence`: an event whose highest confidence, after stitching, is lower is dropped; one without any is kept.
    `similarity`: texts at least this alike (1 - edit distance / length of the longer) count as equal when spans are
    stitched, and the stitched event keeps the text of the longest one: text read from pixels varies by a letter.
    """

    point: bool = False
    gap_us: int = 0
    min_us: int = 0
    min_confidence: float = 0.0
    exclusive: bool = False
    similarity: float = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """An event of one video, on the video's timeline: half-open `[start_us, end_us)`. One row of the `events` table."""

    start_us: int
    end_us: int
    kind: str
    text: str
    confidence: float | None
    window_first: int
    window_last: int
    evidence_us: tuple[int, ...]
    attributes: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:  # as of `Window`
        windows = (self.window_first, self.window_last, self.evidence_us)
        return Event, (self.start_us, self.end_us, self.kind, self.text, self.confidence, *windows, self.attributes)

    def event_id(self, video_id: str, run_id: str) -> str:
        """Stable hash (16 hex digits) of what the event says, about which video, in which run."""
        return event_ids(video_id, run_id, (self,))[0]


#: Order of a video's events; queries bisect on it.
EVENT_ORDER = attrgetter("start_us", "end_us", "kind", "text")


def event_ids(video_id: str, run_id: str, events: Iterable[Event]) -> list[str]:
    """`Event.event_id` of several events of one video and run."""
    # The hash of the JSON list [video_id, run_id, start_us, end_us, kind, text], put together here: the encoder takes
    # four times as long.
    owner = f"[{_quoted(video_id)}, {_quoted(run_id)}, "
    said = [f"{owner}{e.start_us}, {e.end_us}, {_quoted(e.kind)}, {_quoted(e.text)}]" for e in events]
    return [hashlib.blake2b(each.encode("utf-8", "replace"), digest_size=8).hexdigest() for each in said]
