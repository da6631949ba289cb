"""Putting rankings together by reciprocal rank.

Source: Cormack, Clarke, Buettcher: Reciprocal rank fusion outperforms Condorcet and individual rank learning methods,
SIGIR 2009: the score of a document is the sum over rankings of 1 / (60 + its rank).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

K = 60


@dataclass(frozen=True, slots=True)
class Found:
    """An event in a ranking, by its address in the index."""

    address: Any
    score: float
    found_by: tuple[str, ...]


def fuse(*rankings: list[Found]) -> list[Found]:
    """One ranking of all that is in any. Of equal scores (many events say the same) the rank is that of the first."""
    scores: dict[tuple[int, int], float] = {}
    first: dict[tuple[int, int], Found] = {}
    how: dict[tuple[int, int], tuple[str, ...]] = {}
    for ranking in rankings:
        rank, before = 0, None
        for number, found in enumerate(ranking, 1):
            if found.score != before:
                rank, before = number, found.score
            key = found.address.segment_ord, found.address.doc
            first.setdefault(key, found)
            scores[key] = scores.get(key, 0.0) + 1 / (K + rank)
            how[key] = (*how.get(key, ()), *found.found_by)
    order = sorted(scores, key=lambda key: -scores[key])  # stable: equal ones stay in the order of the first ranking
    return [Found(first[key].address, scores[key], how[key]) for key in order]
