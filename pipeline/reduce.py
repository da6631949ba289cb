"""From what a model said about each window to the events of the whole video.

Windows overlap, and an event may run through many of them; each window reports its share. Here the shares become one
event again: equal kind and text, and times that meet (`KindRule`). A model's answers are hostile until checked: what
has no usable time or kind is dropped and counted, what is merely out of bounds is brought back into them.

Nothing here depends on the order in which windows were answered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from pipeline.event import EVENT_ORDER, OTHER_KINDS, Event, KindRule, WindowEvent, WindowEvents
from pipeline.joining import Points, Span, Spans
from pipeline.plan import Window

MAX_KIND = 64  # characters
MAX_TEXT = 4096  # characters
MAX_ATTRIBUTES = 8192  # characters of JSON
MAX_EVIDENCE = 32  # times kept per event, spread evenly over all that were given
MAX_EVENTS = 10_000  # per window


@dataclass(frozen=True, slots=True)
class Reduced:
    """The events of one video, by start, and how many reported events were dropped, by cause."""

    events: tuple[Event, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)


def reduce_events(answers: Iterable[WindowEvents], rules: Mapping[str, KindRule], duration_us: int) -> Reduced:
    """Reduce a video's answers, one per window in any order, to its events in `[0, duration_us)`.

    Every event ends after it starts; a moment is 1 µs long. O(n log n) in the number of reported events.
    """
    reducer = Reducer(rules, duration_us)
    events: list[Event] = []
    for answer in sorted(answers, key=lambda a: a.window.index):
        events += reducer.add(answer)
    events += reducer.end()
    return Reduced(tuple(sorted(events, key=EVENT_ORDER)), reducer.dropped)


class Reducer:
    """`reduce_events` of a video too long to be held: answers come by window, and events go as soon as no later answer
    can change them; by end, more or less. `dropped`: as of `Reduced`, so far."""

    def __init__(self, rules: Mapping[str, KindRule], duration_us: int) -> None:
        self.dropped: dict[str, int] = {}
        self._rules, self._other, self._duration_us = rules, rules.get(OTHER_KINDS, KindRule()), duration_us
        self._kinds: dict[str, _Kind] = {}
        self._last: WindowEvents | None = None  # taken in when the next shows where they overlap
        self._core_us: int | None = None  # where the core of the last begins; None: with it

    def add(self, answer: WindowEvents) -> list[Event]:
        """The answer of a window that begins no earlier than those before it; returns what is settled by it. Raises
        ValueError for one out of order."""
        last, self._last = self._last, answer
        if last is None:
            return []
        now, then = last.window, answer.window
        if then.index <= now.index or then.start_us < now.start_us:
            raise ValueError(f"window {then.index} after window {now.index}")
        edge_us = (now.end_us + then.start_us) // 2 if then.start_us < now.end_us else None
        self._take(last, edge_us)
        self._core_us = edge_us
        return self._settled(then.start_us, then.index)

    def end(self) -> list[Event]:
        """After the last answer: what is left."""
        if self._last is not None:
            self._take(self._last, None)
            self._last = None
        return self._settled(None, 0)

    def _take(self, answer: WindowEvents, until_us: int | None) -> None:
        """Its core, the part that is its alone to judge, ends at `until_us` (None: with it): overlaps are cut in their
        middle."""
        window = answer.window
        core = (
            window.start_us if self._core_us is None else self._core_us,
            window.end_us if until_us is None else until_us,
        )
        for number, event in enumerate(answer.events):
            span = _checked(event, window, self._duration_us) if number < MAX_EVENTS else "too many in one window"
            if isinstance(span, str):
                self.dropped[span] = self.dropped.get(span, 0) + 1
                continue
            kind = self._kinds.get(span.kind)
            if kind is None:
                kind = self._kinds[span.kind] = _Kind(self._rules.get(span.kind, self._other))
            if not kind.rule.exclusive or _cut(span, core):
                kind.pending.append(span)

    def _settled(self, from_us: int | None, window: int) -> list[Event]:
        """The events that spans which begin at `from_us` or later, in `window` or later, can have no part in (None: no
        more spans will come)."""
        events = [event for kind in self._kinds.values() for event in kind.settled(from_us, window)]
        self._kinds = {name: kind for name, kind in self._kinds.items() if kind.pending or kind.open}
        return events


class _Kind:
    """Spans of one kind being joined. `pending`: those that others may still come before."""

    def __init__(self, rule: KindRule) -> None:
        self.rule = rule
        self.pending: list[Span] = []
        self._joined = Points(rule) if rule.point else Spans(rule)

    @property
    def open(self) -> bool:
        """Whether later spans can be part of one that is here."""
        return bool(self._joined.open)

    def settled(self, from_us: int | None, window: int) -> Iterator[Event]:
        """See `Reducer`."""
        rule, due = self.rule, self.pending
        if from_us is not None:
            due = [s for s in self.pending if s.start_us < from_us]
            self.pending = [s for s in self.pending if s.start_us >= from_us]
        else:
            self.pending = []
        for span in sorted(due, key=lambda s: (s.start_us, s.end_us, s.window_first, s.text)):
            self._joined.join(span)
        window = min((s.window_first for s in self.pending), default=window)
        for span in self._joined.settled(from_us, window):
            if not rule.point and span.end_us - span.start_us < rule.min_us:
                continue
            if span.confidence is None or span.confidence >= rule.min_confidence:
                yield _event(span)


def _cut(span: Span, core: tuple[int, int]) -> bool:
    """Cut an exclusive state at the edges of its window's core; False when nothing is left of it."""
    span.start_us, span.end_us = max(span.start_us, core[0]), min(span.end_us, core[1])
    return span.start_us < span.end_us


def _event(span: Span) -> Event:
    evidence = sorted(set(span.evidence_us))
    if len(evidence) > MAX_EVIDENCE:
        step = (len(evidence) - 1) / (MAX_EVIDENCE - 1)
        evidence = [evidence[round(i * step)] for i in range(MAX_EVIDENCE)]
    return Event(
        start_us=span.start_us,
        end_us=span.end_us,
        kind=span.kind,
        text=span.text,
        confidence=span.confidence,
        window_first=span.window_first,
        window_last=span.window_last,
        evidence_us=tuple(evidence),
        attributes=span.attributes,
    )


def _checked(event: WindowEvent, window: Window, duration_us: int) -> Span | str:
    """The event on the video's timeline and inside its window, or why it must be dropped.

    Times beyond the window are cut off at its edges: what lies there is the neighbours' to tell.
    """
    kind = _clean(event.kind, MAX_KIND)
    if not kind:
        return "no kind"
    start_us, end_us = _time(event.start_us), _time(event.end_us)
    if start_us is None or end_us is None:
        return "time is not a number"
    if end_us < start_us:
        return "ends before it starts"
    low, high = max(0, window.start_us), min(window.end_us, duration_us)
    start_us, end_us = start_us + window.start_us, end_us + window.start_us
    if start_us >= high or end_us < low or (end_us == low and start_us < low):
        return "outside its window"
    start_us = max(low, start_us)
    end_us = max(start_us + 1, min(high, end_us))
    return Span(
        start_us=start_us,
        end_us=end_us,
        kind=kind,
        text=_clean(event.text, MAX_TEXT),
        confidence=_confidence(event.confidence),
        window_first=window.index,
        window_last=window.index,
        evidence_us=_evidence(event.evidence_us, window.start_us, duration_us),
        attributes=_attributes(event.attributes),
        said_before=event.continues_before is True,
        open_until=window.index if event.continues_after is True else -1,
        longest_us=end_us - start_us,
    )


def _time(value: object) -> int | None:
    """A time as integer microseconds, None for what is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return round(number) if math.isfinite(number) else None


def _clean(value: object, limit: int) -> str:
    """Text that every table and terminal can hold: valid Unicode on one or more lines, no control characters."""
    if not isinstance(value, str):
        return ""
    value = value[: 2 * limit]
    if not value.isprintable():  # lone surrogates are not, either
        value = "".join(c for c in value if c in "\n\t" or c.isprintable() or c == "\u200d")
    return value.strip()[:limit]


def _confidence(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
        return None
    return min(1.0, max(0.0, float(value)))


def _evidence(times: object, offset_us: int, duration_us: int) -> list[int]:
    if not isinstance(times, (tuple, list)):
        return []
    absolute = (t + offset_us for t in map(_time, times[:MAX_EVENTS]) if t is not None)
    return [t for t in absolute if 0 <= t <= duration_us]


def _attributes(attributes: object) -> Mapping[str, Any]:
    """The attributes as JSON will hold them; none at all where they are not JSON or too long."""
    if not attributes or not isinstance(attributes, Mapping):
        return {}
    try:
        said = json.dumps(dict(attributes), allow_nan=False, ensure_ascii=True)
        back = json.loads(said) if len(said) <= MAX_ATTRIBUTES else {}
    except (TypeError, ValueError, RecursionError):
        return {}
    return back if isinstance(back, dict) else {}
