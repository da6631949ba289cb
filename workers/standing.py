"""How a video stands while it is worked on: what of it is answered, lost or given up, and how it ends."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from pipeline.log.records import Status
from pipeline.packed import Packed
from pipeline.video import Video
from workers.work import Answer

MAX_DEADLY_ROW = 3  # windows of one video in a row that are quarantined so, before the rest of it is given up
MAX_REFUSED = 8  # windows of one video that the model refuses, before it has failed where none was answered,
MAX_REFUSED_ROW = 30  # and in a row, before the rest of it is given up where some were
MAX_NAMED = 5  # windows that the reason of a video names
MAX_LOST_ROW = 4  # windows of one video in a row that cannot be decoded, before the rest of it is given up
MAX_BAD, MOST_BAD = 3, 30  # likewise of all windows: one in a hundred, but so many at least and at most


@dataclass(slots=True)
class Standing:
    """A video that is being worked on. `blind`: windows that cannot be decoded; `deadly`: windows that end replicas.

    `cut`: why the rest of it is not decoded any more; "" where it is.
    """

    video: Video
    order: int
    windows: int
    missing: int  # windows without an answer,
    undecoded: int  # and those of them that no decoder has given
    window_bytes: int
    answers: Packed[Answer] = field(default_factory=lambda: Packed(Answer.index))
    watched: int = 0  # answers that a replica gave
    quarantined: list[str] = field(default_factory=list)
    refused: int = 0
    refused_row: int = 0  # without an answer in between
    deadly: set[int] = field(default_factory=set)
    blind: set[int] = field(default_factory=set)
    cut: str = ""
    lost_us: set[tuple[int, int]] = field(default_factory=set)

    def answer(self, answer: Answer) -> None:
        """One window more is answered."""
        self.answers.add(answer)
        self.watched += bool(answer.replica)

    def too_many(self, bad: Set[int], newest: int, row: int) -> bool:
        """Whether so many windows are `bad` that the rest is given up: `row` of them next to each other with the newest
        of them, or too many in all."""
        first = last = newest
        while first - 1 in bad:
            first -= 1
        while last + 1 in bad:
            last += 1
        return last - first + 1 >= row or len(bad) > max(MAX_BAD, min(MOST_BAD, self.windows // 100))

    def named(self) -> str:
        """The windows that were quarantined."""
        more = len(self.quarantined) - MAX_NAMED
        return "; ".join(self.quarantined[:MAX_NAMED]) + (f"; and {more:,} windows more" if more > 0 else "")

    def verdict(self) -> tuple[Status, str]:
        """How it ends, and why, when every window has what it will have."""
        if self.cut and not self.watched:
            return "failed", self.cut
        why = [self.named()] if self.quarantined else []
        if self.cut:
            count = len(self.blind)
            why.append(f"{self.cut} ({count:,} window{'s' if count > 1 else ''}); the rest was not watched")
        return "quarantined" if why else "done", "; ".join(why)
