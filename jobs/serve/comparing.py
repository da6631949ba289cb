"""Two runs over the same video: which of their events are the same one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Two spans are one event from this share of their union on; moments where they begin this close together.
LEAST_OVERLAP, CLOSE_US = 0.3, 500_000

#: Shorter events count as moments.
MOMENT_US = 200_000


def pairs(left: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Places of events that are the same one: of one kind, overlapping, each in one pair at most.

    Equal texts first, then the largest overlap (tIoU). Both sides are in order of start. O(n log n + candidates).
    """
    candidates = []
    by_kind: dict[str, list[int]] = {}
    for j, event in enumerate(right):
        by_kind.setdefault(event["kind"], []).append(j)
    longest = {kind: max(_end(right[j]) - right[j]["start_us"] for j in places) for kind, places in by_kind.items()}
    first: dict[str, int] = dict.fromkeys(by_kind, 0)
    for i, event in enumerate(left):
        places = by_kind.get(event["kind"], [])
        if not places:
            continue
        kind, begin = event["kind"], event["start_us"] - CLOSE_US
        while first[kind] < len(places) and right[places[first[kind]]]["start_us"] + longest[kind] < begin:
            first[kind] += 1  # all that is left of here has ended
        for j in places[first[kind] :]:
            if right[j]["start_us"] > _end(event) + CLOSE_US:
                break
            overlap = alike(event, right[j])
            if overlap > 0:
                same = event["text"].strip().casefold() == right[j]["text"].strip().casefold()
                candidates.append((not same, -overlap, i, j))
    taken_left: set[int] = set()
    taken_right: set[int] = set()
    found = []
    for different, negative, i, j in sorted(candidates):
        if i not in taken_left and j not in taken_right:
            taken_left.add(i)
            taken_right.add(j)
            found.append({"left": i, "right": j, "overlap": round(-negative, 4), "same_text": not different})
    return sorted(found, key=lambda pair: (pair["left"], pair["right"]))


def alike(a: dict[str, Any], b: dict[str, Any]) -> float:
    """How much two events share: intersection over union in time; for moments, how close they are; 0: not the same."""
    shared = min(_end(a), _end(b)) - max(a["start_us"], b["start_us"])
    union = max(_end(a), _end(b)) - min(a["start_us"], b["start_us"])
    if shared > 0 and shared / union >= LEAST_OVERLAP:
        return float(shared / union)
    apart = abs(a["start_us"] - b["start_us"])
    if max(_end(a) - a["start_us"], _end(b) - b["start_us"]) <= MOMENT_US and apart <= CLOSE_US:
        return float(1 - apart / (2 * CLOSE_US))
    return 0.0


def _end(event: dict[str, Any]) -> int:
    return int(max(event["end_us"], event["start_us"] + 1))
