"""Precision, recall and F1 of found events against true ones, matched one to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Item:
    """Something with a start and an end in seconds; `text` of a caption; `note` for a person's eyes."""

    start_s: float
    end_s: float
    text: str = ""
    note: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.start_s:.2f}-{self.end_s:.2f}", self.text, self.note)))


#: How near a true and a found item are (larger is nearer), None where they do not match.
Near = Callable[[Item, Item], float | None]


@dataclass
class Score:
    """Counts over many clips, and how far off (s) the starts and ends of what was found are."""

    hits: int = 0
    found: int = 0
    true: int = 0
    errors_s: list[float] = field(default_factory=list)

    def count(self, true: Sequence[Item], found: Sequence[Item], near: Near) -> tuple[list[Item], list[Item]]:
        """Add one clip, matching the nearest first. Returns (true ones missed, found ones wrong)."""
        pairs = [(n, i, j) for i, t in enumerate(true) for j, f in enumerate(found) if (n := near(t, f)) is not None]
        hit: dict[int, int] = {}
        for _, i, j in sorted(pairs, key=lambda pair: -pair[0]):
            if i not in hit and j not in hit.values():
                hit[i] = j
                self.errors_s += [abs(found[j].start_s - true[i].start_s), abs(found[j].end_s - true[i].end_s)]
        self.hits, self.found, self.true = self.hits + len(hit), self.found + len(found), self.true + len(true)
        wrong = [f for j, f in enumerate(found) if j not in hit.values()]
        return [t for i, t in enumerate(true) if i not in hit], wrong

    def row(self) -> dict[str, Any]:
        """What the benchmark reports. Nothing found where nothing is true counts as right."""
        precision = self.hits / self.found if self.found else float(not self.true)
        recall = self.hits / self.true if self.true else float(not self.found)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        error = round(median(self.errors_s), 3) if self.errors_s else None
        return {
            "true": self.true,
            "found": self.found,
            "precision": round(precision, 3),
            "recall": round(recall, 3),
            "f1": round(f1, 3),
            "median_error_s": error,
        }


def iou(a: Item, b: Item) -> float:
    """Intersection over union of two spans."""
    both = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    return both / (max(a.end_s, b.end_s) - min(a.start_s, b.start_s)) if both > 0 else 0.0
