"""A second look: doubtful events are shown to the model again, with denser frames around the span that it claimed.

The frames of a window come `DENSER` times as dense as the model's own rate. The first look takes those on the grid of
that rate, so it is the look without verification; each doubtful event then gets a look of its own at the dense frames
around it, with the same question. What the second look says of the event decides:

| the second look | verdict | the event |
|---|---|---|
| has it, with the same text and nearly the same span | confirmed | stays, with the higher confidence of both |
| has it elsewhere, or in other words | corrected | as the second look has it |
| does not have it, or only another event of the first look | struck | is left out |
| broke off before it had it | unanswered | stays as it was |

Both looks are kept: of an event in its attributes, of a struck one in the window's raw answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from pipeline.event import WindowEvent, WindowEvents
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Sampling, Window

Verdict = Literal["confirmed", "corrected", "struck", "unanswered"]
VERDICTS: tuple[Verdict, ...] = ("confirmed", "corrected", "struck", "unanswered")

DENSER = 2
MARGIN_US = SECOND_US  # on both sides of the claimed span
NEAR_US = SECOND_US // 2  # starts and ends this near are the same
SAME_IOU = 0.5  # spans that overlap so much are the same
MOST_LOOKS = 8  # of one window, so that a window's cost has a bound

Seen = WindowEvents | BaseException  # what came of a look at a window


@dataclass(frozen=True, slots=True)
class Doubt:
    """Which events are looked at again: those below a confidence (or without one), and those of some kinds."""

    below: float
    kinds: frozenset[str]

    def about(self, events: Sequence[WindowEvent]) -> list[int]:
        """Their places in `events`; the least certain `MOST_LOOKS` where there are more."""
        sure = [-1.0 if event.confidence is None else event.confidence for event in events]
        found = [i for i, event in enumerate(events) if sure[i] < self.below or event.kind in self.kinds]
        return sorted(sorted(found, key=lambda i: sure[i])[:MOST_LOOKS])


@dataclass(frozen=True, slots=True)
class Look:
    """A second look at event number `event`: the part of its window, from `shift_us` after the window's start on, and
    the frames of that part. `from_first`, `to_last`: whether the part holds the window's first and last frame."""

    event: int
    window: Window
    frames: Frames
    shift_us: int
    from_first: bool
    to_last: bool

    def on_window(self, seen: WindowEvent) -> WindowEvent:
        """What the look saw, as seen in the whole window: an event that goes on at the part's edge goes on at the
        window's only where that is the same."""
        return replace(
            seen,
            start_us=seen.start_us + self.shift_us,
            end_us=seen.end_us + self.shift_us,
            evidence_us=tuple(t + self.shift_us for t in seen.evidence_us),
            continues_before=seen.continues_before and self.from_first,
            continues_after=seen.continues_after and self.to_last,
        )


class SecondLooks:
    """The way from first looks to verdicts: `first`, then `needed`, then `judged`; `watch` goes it whole. `fps`: the
    model's own rate."""

    def __init__(self, doubt: Doubt, fps: Fraction) -> None:
        self.doubt, self.fps = doubt, fps
        self.verdicts: dict[Verdict, int] = dict.fromkeys(VERDICTS, 0)

    def watch(
        self,
        batch: Sequence[tuple[Window, Frames]],
        look: Callable[[Sequence[tuple[Window, Frames]]], Sequence[Seen]],
    ) -> list[Seen]:
        """The answers of a model that `look`s at windows; what is wrong with either look at a window in its place."""
        came = list(look(self.first(batch)))
        there = [i for i, said in enumerate(came) if isinstance(said, WindowEvents)]
        seen = answers_among(came)
        looks = self.needed([batch[i] for i in there], seen)
        again = iter(look([(second.window, second.frames) for those in looks for second in those]))
        for i, first, those in zip(there, seen, looks, strict=True):
            seconds = [next(again) for _ in those]
            wrong = [said for said in seconds if isinstance(said, BaseException)]
            came[i] = wrong[0] if wrong else self._judged(first, list(zip(those, answers_among(seconds), strict=True)))
        return came

    def first(self, batch: Sequence[tuple[Window, Frames]]) -> list[tuple[Window, Frames]]:
        """What is looked at first, of windows with dense frames."""
        return [(window, first_look(frames, window, self.fps)) for window, frames in batch]

    def needed(self, batch: Sequence[tuple[Window, Frames]], seen: Sequence[WindowEvents]) -> list[list[Look]]:
        """Of each window that was `seen`: the second looks at what is doubtful in it."""
        found = []
        for (window, frames), first in zip(batch, seen, strict=False):  # none was seen where a window was refused
            most = len(_on_grid(frames, window, self.fps))
            tried = (second_look(i, first.events[i], window, frames, most) for i in self.doubt.about(first.events))
            found.append([look for look in tried if look is not None])
        return found

    def judged(
        self, seen: Sequence[WindowEvents], looks: Sequence[Sequence[Look]], again: Sequence[WindowEvents]
    ) -> list[WindowEvents]:
        """The answers as they stay. `again`: what the second looks saw, one after the other."""
        answers = iter(again)
        return [self._judged(first, [(look, next(answers)) for look in those])
                for first, those in zip(seen, looks, strict=True)]  # fmt: skip

    def _judged(self, first: WindowEvents, looks: Sequence[tuple[Look, WindowEvents]]) -> WindowEvents:
        kept: dict[int, WindowEvent | None] = dict(enumerate(first.events))
        lines = [first.answer or ""]
        for look, second in looks:
            claimed = first.events[look.event]
            others = [event for i, event in enumerate(first.events) if i != look.event]
            placed = [look.on_window(event) for event in second.events]
            verdict, kept[look.event] = judge(claimed, others, placed, whole=not second.truncated)
            self.verdicts[verdict] += 1
            lines.append(as_line(verdict, claimed, look, second.answer or ""))
        return replace(
            first,
            events=tuple(event for _, event in sorted(kept.items()) if event is not None),
            model_s=first.model_s + sum(second.model_s for _, second in looks),
            input_tokens=first.input_tokens + sum(second.input_tokens for _, second in looks),
            output_tokens=first.output_tokens + sum(second.output_tokens for _, second in looks),
            truncated=first.truncated or any(second.truncated for _, second in looks),
            answer="\n".join(lines) if looks else first.answer,
        )


def answers_among(came: Sequence[Seen]) -> list[WindowEvents]:
    return [said for said in came if isinstance(said, WindowEvents)]


def first_look(frames: Frames, window: Window, fps: Fraction) -> Frames:
    """The frames that the model would have seen without verification: those on screen at the window's grid times."""
    return _chosen(frames, _on_grid(frames, window, fps))


def _on_grid(frames: Frames, window: Window, fps: Fraction) -> np.ndarray[Any, Any]:
    grid = np.fromiter(Sampling(fps=fps).times_us(window.start_us, window.end_us), np.int64)
    shown = np.searchsorted(frames.time_us, grid, side="right") - 1
    known = shown >= 0
    known[known] = grid[known] < frames.end_us[shown[known]]
    return np.unique(shown[known])


def second_look(event: int, claimed: WindowEvent, window: Window, frames: Frames, most: int) -> Look | None:
    """The dense frames around a claimed span: at least half of the window, and no more than `most`, the number of the
    first look (of a longer part they are thinned out). None where no frame lies there."""
    length = window.end_us - window.start_us
    missing = max(0, length // 2 - (claimed.end_us - claimed.start_us + 2 * MARGIN_US))
    start = max(0, claimed.start_us - MARGIN_US - missing // 2)
    end = min(length, claimed.end_us + MARGIN_US + missing // 2)
    part = replace(window, start_us=window.start_us + start, end_us=window.start_us + end)
    within = np.flatnonzero((frames.end_us > part.start_us) & (frames.time_us < part.end_us))
    if not len(within):
        return None
    from_first, to_last = bool(within[0] == 0), bool(within[-1] == len(frames) - 1)
    if len(within) > most:
        within = within[np.linspace(0, len(within) - 1, most).round().astype(int)]
    return Look(event, part, _chosen(frames, within), start, from_first, to_last)


def judge(
    claimed: WindowEvent, others: Sequence[WindowEvent], seen: Sequence[WindowEvent], whole: bool = True
) -> tuple[Verdict, WindowEvent | None]:
    """The verdict about one event, and the event as it stays.

    `others`: the further events of the first look; `seen`: what the second look saw (`Look.on_window`); `whole`:
    whether its answer came to its end.
    """
    of_kind = [event for event in seen if event.kind == claimed.kind]
    by_fit = sorted(of_kind, key=lambda event: -_iou(event, claimed))
    same = [e for e in by_fit if _alike(e, claimed) and not _is_one_of(e, others, claimed)]
    for event in same:
        if _iou(event, claimed) >= SAME_IOU or _near(event, claimed):
            sure = [c for c in (event.confidence, claimed.confidence) if c is not None]
            kept = replace(claimed, confidence=max(sure, default=None))
            return "confirmed", replace(kept, attributes=_told("confirmed", claimed, event))
    # Other words at the same time are a correction only where they are not another event of the first look.
    known = {(other.kind, other.text.casefold()) for other in others}
    reworded = [e for e in by_fit if (e.kind, e.text.casefold()) not in known and _touches(e, claimed)]
    if found := next(iter([*same, *reworded]), None):
        return "corrected", replace(found, attributes=_told("corrected", claimed, found))
    if not whole:  # it might have come to it
        facts = {"look": "unanswered", **_facts("first", claimed)}
        return "unanswered", replace(claimed, attributes={**claimed.attributes, **facts})
    return "struck", None


def _alike(a: WindowEvent, b: WindowEvent) -> bool:
    return a.kind == b.kind and a.text.casefold() == b.text.casefold()


def _is_one_of(event: WindowEvent, others: Sequence[WindowEvent], claimed: WindowEvent) -> bool:
    """Whether an event with the claimed words is another one that says the same: all the more one that it covers."""
    fits = [other for other in others if _alike(event, other)]
    if not _touches(event, claimed):
        return any(_touches(event, other) for other in fits)
    return any(_iou(event, other) >= SAME_IOU and _iou(event, other) > _iou(event, claimed) for other in fits)


def as_line(verdict: Verdict, claimed: WindowEvent, look: Look, answer: str) -> str:
    """A second look as one line of JSON, for the window's raw answer."""
    span = [look.window.start_us, look.window.end_us]
    told = {"look": verdict, "span_us": span, "of": _facts("first", claimed), "answer": answer}
    return json.dumps(told, ensure_ascii=False)


def _told(verdict: Verdict, first: WindowEvent, second: WindowEvent) -> dict[str, Any]:
    return {**first.attributes, "look": verdict, **_facts("first", first), **_facts("second", second)}


def _facts(which: str, event: WindowEvent) -> dict[str, Any]:
    """Times are those of the window, as all times of an answer."""
    return {
        f"{which}_start_s": event.start_us / SECOND_US,
        f"{which}_end_s": event.end_us / SECOND_US,
        f"{which}_text": event.text,
        f"{which}_confidence": event.confidence,
    }


def _iou(a: WindowEvent, b: WindowEvent) -> float:
    both = min(a.end_us, b.end_us) - max(a.start_us, b.start_us)
    either = max(a.end_us, b.end_us) - min(a.start_us, b.start_us)
    return max(0, both) / either if either > 0 else 1.0


def _near(a: WindowEvent, b: WindowEvent) -> bool:
    return abs(a.start_us - b.start_us) <= NEAR_US and abs(a.end_us - b.end_us) <= NEAR_US


def _touches(a: WindowEvent, b: WindowEvent) -> bool:
    return a.start_us <= b.end_us + NEAR_US and b.start_us <= a.end_us + NEAR_US


def _chosen(frames: Frames, which: np.ndarray[Any, Any]) -> Frames:
    return Frames(frames.pixels[which], frames.time_us[which], frames.end_us[which], frames.lost_us)
