"""From what a model said about each window to the events of the whole video.

Windows overlap, and an event may run through many of them; each window reports its share. Here the shares become one
event again: equal kind and text, and times that meet (`KindRule`). A model's answers are hostile until checked: what
has no usable time or kind is dropped and counted, what is merely out of bounds is brought back into them.

Nothing here depends on the order in which windows were answered.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

from pipeline.event import OTHER_KINDS, Event, KindRule, WindowEvent, WindowEvents
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


@dataclass(slots=True)
class _Span:
    """An event being put together. Times are on the video's timeline."""

    start_us: int
    end_us: int
    kind: str
    text: str
    confidence: float | None
    window_first: int
    window_last: int
    evidence_us: list[int]
    attributes: Mapping[str, Any]
    said_before: bool  # the part that begins first: it was going on before its window
    open_until: int  # the latest window that said "still going on", -1 if none
    longest_us: int = 0  # length of the part that gave the text


def reduce_events(answers: Iterable[WindowEvents], rules: Mapping[str, KindRule], duration_us: int) -> Reduced:
    """Reduce a video's answers, one per window in any order, to its events in `[0, duration_us)`.

    Every event ends after it starts; a moment is 1 µs long. O(n log n) in the number of reported events.
    """
    ordered = sorted(answers, key=lambda a: a.window.index)
    cores = _cores([a.window for a in ordered])
    dropped: dict[str, int] = {}
    kinds: dict[str, list[_Span]] = {}
    other = rules.get(OTHER_KINDS, KindRule())
    for answer, core in zip(ordered, cores, strict=True):
        for number, event in enumerate(answer.events):
            span = _checked(event, answer.window, duration_us) if number < MAX_EVENTS else "too many in one window"
            if isinstance(span, str):
                dropped[span] = dropped.get(span, 0) + 1
            elif not rules.get(span.kind, other).exclusive or _cut(span, core):
                kinds.setdefault(span.kind, []).append(span)
    events: list[Event] = []
    for kind, spans in kinds.items():
        rule = rules.get(kind, other)
        spans.sort(key=lambda s: (s.start_us, s.end_us, s.window_first, s.text))
        for span in _merge_points(spans, rule) if rule.point else _merge_spans(spans, rule):
            if not rule.point and span.end_us - span.start_us < rule.min_us:
                continue
            if span.confidence is None or span.confidence >= rule.min_confidence:
                events.append(_event(span))
    events.sort(key=lambda e: (e.start_us, e.end_us, e.kind, e.text))
    return Reduced(tuple(events), dropped)


def _cores(windows: Sequence[Window]) -> list[tuple[int, int]]:
    """The part of each window (by index) that is its alone to judge: overlaps are cut in their middle."""
    edges = [(a.end_us + b.start_us) // 2 if b.start_us < a.end_us else None for a, b in pairwise(windows)]
    return [
        (w.start_us if low is None else low, w.end_us if high is None else high)
        for w, low, high in zip(windows, [None, *edges], [*edges, None], strict=False)
    ]


def _cut(span: _Span, core: tuple[int, int]) -> bool:
    """Cut an exclusive state at the edges of its window's core; False when nothing is left of it."""
    span.start_us, span.end_us = max(span.start_us, core[0]), min(span.end_us, core[1])
    return span.start_us < span.end_us


def _merge_spans(spans: Iterable[_Span], rule: KindRule) -> list[_Span]:
    """Join spans (by start) of equal text that overlap, touch, lie within the gap, or go on in the next window."""
    wholes: list[_Span] = []
    latest: dict[str, _Span] = {}
    recent: list[_Span] = []  # only where alike texts count as equal
    for span in spans:
        whole = latest.get(span.text)
        if whole is not None and not _meet(whole, span, rule):
            whole = None
        if rule.similarity < 1:
            recent = [
                w for w in recent if w.end_us + rule.gap_us >= span.start_us or w.open_until >= span.window_first - 1
            ]
            whole = whole or _most_alike(recent, span, rule)
        if whole is None:
            wholes.append(span)
            recent.append(span)
            latest[span.text] = span
        else:
            latest[span.text] = whole
            _absorb(whole, span)
    return wholes


def _meet(whole: _Span, span: _Span, rule: KindRule) -> bool:
    return span.start_us <= whole.end_us + rule.gap_us or (
        span.said_before and whole.open_until >= 0 and span.window_first == whole.open_until + 1
    )


def _most_alike(recent: Iterable[_Span], span: _Span, rule: KindRule) -> _Span | None:
    """The recent span of another window whose text is most like this one's, alike enough by the rule.

    Within one window two alike texts are two texts: the model saw both.
    """
    best, best_likeness = None, rule.similarity
    for whole in recent:
        if whole.window_last < span.window_first and _meet(whole, span, rule):
            likeness = _likeness(whole.text, span.text, best_likeness)
            if likeness >= best_likeness and (best is None or likeness > best_likeness):
                best, best_likeness = whole, likeness
    return best


def _likeness(a: str, b: str, at_least: float) -> float:
    """1 - Levenshtein distance / length of the longer; 0 as soon as it must be below `at_least`."""
    longer = max(len(a), len(b))
    most = int((1 - at_least) * longer + 1e-9)  # edits allowed
    letters_a, letters_b = Counter(a), Counter(b)
    if max((letters_a - letters_b).total(), (letters_b - letters_a).total()) > most:
        return 0.0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        low, high = max(1, i - most), min(len(b), i + most)  # beyond this band the distance is too large
        diagonal, row[low - 1] = row[low - 1], i if low == 1 else most + 1
        for j in range(low, high + 1):
            above = row[j] if j < i + most else most + 1
            diagonal, row[j] = row[j], min(diagonal + (x != b[j - 1]), above + 1, row[j - 1] + 1)
    return 1 - row[-1] / longer if longer and row[-1] <= most else float(not longer)


def _merge_points(spans: Iterable[_Span], rule: KindRule) -> list[_Span]:
    """Join moments (by time) of equal text at the same time, or closer than the gap to the first of them."""
    wholes: list[_Span] = []
    latest: dict[str, _Span] = {}
    for span in spans:
        whole = latest.get(span.text)
        if whole is not None and (span.start_us == whole.start_us or span.start_us - whole.start_us < rule.gap_us):
            end_us = whole.end_us
            _absorb(whole, span)
            whole.end_us = end_us
        else:
            wholes.append(span)
            latest[span.text] = span
    return wholes


def _absorb(whole: _Span, part: _Span) -> None:
    if part.end_us - part.start_us > whole.longest_us:
        whole.text, whole.longest_us = part.text, part.end_us - part.start_us
    whole.end_us = max(whole.end_us, part.end_us)
    whole.window_first = min(whole.window_first, part.window_first)
    whole.window_last = max(whole.window_last, part.window_last)
    whole.open_until = max(whole.open_until, part.open_until)
    whole.evidence_us += part.evidence_us
    if part.confidence is not None and (whole.confidence is None or part.confidence > whole.confidence):
        whole.confidence, whole.attributes = part.confidence, part.attributes or whole.attributes
    whole.attributes = whole.attributes or part.attributes


def _event(span: _Span) -> Event:
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


def _checked(event: WindowEvent, window: Window, duration_us: int) -> _Span | str:
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
    return _Span(
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
