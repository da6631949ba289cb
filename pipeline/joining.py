"""Shares of an event, as windows saw them, joined to one: equal kind and text, and times that meet (`KindRule`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.event import KindRule


@dataclass(slots=True)
class Span:
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
    settled: bool = False  # nothing can join it any more


class _Joined(ABC):
    """Spans that are joined with those that come later, by start."""

    def __init__(self, rule: KindRule) -> None:
        self._rule = rule
        self.open: list[Span] = []
        self._latest: dict[str, Span] = {}  # by text

    def settled(self, from_us: int | None, window: int) -> list[Span]:
        """Take out those that no span which begins at `from_us` or later, in `window` or later, can join."""
        if from_us is None:
            done, self.open, self._latest = self.open, [], {}
            return done
        done = []
        for span in self.open:
            span.settled = self._over(span, from_us, window)
            if span.settled:
                done.append(span)
        if done:
            self.open = [s for s in self.open if not s.settled]
            self._latest = {text: s for text, s in self._latest.items() if not s.settled}
        return done

    @abstractmethod
    def _over(self, span: Span, from_us: int, window: int) -> bool:
        """Whether no such span can join this one."""


class Spans(_Joined):
    """Spans of equal text that overlap, touch, lie within the gap, or go on in the next window."""

    def __init__(self, rule: KindRule) -> None:
        super().__init__(rule)
        self._recent: list[Span] = []  # only where alike texts count as equal

    def join(self, span: Span) -> None:
        rule, whole = self._rule, self._latest.get(span.text)
        if whole is not None and not _meet(whole, span, rule):
            whole = None
        if rule.similarity < 1:
            self._recent = [
                w
                for w in self._recent
                if w.end_us + rule.gap_us >= span.start_us or w.open_until >= span.window_first - 1
            ]
            whole = whole or _most_alike(self._recent, span, rule)
            if whole is None:
                self._recent.append(span)
        if whole is None:
            self.open.append(span)
            self._latest[span.text] = span
        else:
            self._latest[span.text] = whole
            _absorb(whole, span)

    def _over(self, span: Span, from_us: int, window: int) -> bool:
        return span.end_us + self._rule.gap_us < from_us and span.open_until + 1 < window


def _meet(whole: Span, span: Span, rule: KindRule) -> bool:
    return span.start_us <= whole.end_us + rule.gap_us or (
        span.said_before and whole.open_until >= 0 and span.window_first == whole.open_until + 1
    )


def _most_alike(recent: Iterable[Span], span: Span, rule: KindRule) -> Span | None:
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


class Points(_Joined):
    """Moments of equal text at the same time, or closer than the gap to the first of them."""

    def join(self, span: Span) -> None:
        whole = self._latest.get(span.text)
        near_us = max(1, self._rule.gap_us)
        if whole is not None and span.start_us - whole.start_us < near_us:
            end_us = whole.end_us
            _absorb(whole, span)
            whole.end_us = end_us
        else:
            self.open.append(span)
            self._latest[span.text] = span

    def _over(self, span: Span, from_us: int, window: int) -> bool:
        return from_us - span.start_us >= max(1, self._rule.gap_us)


def _absorb(whole: Span, part: Span) -> None:
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
