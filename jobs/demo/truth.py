"""What happens in a generated world, and when: as it was meant, and as the frames of a video show it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.demo.world import Shot, World
from pipeline.plan import SECOND_US

TRANSITION_TEXT = {
    "cut": "cut", "fade_out": "fade out", "fade_in": "fade in", "dissolve": "dissolve", "black": "black",
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class TruthEvent:
    """`[start_us, end_us)` on the video's timeline. A cut is empty before it is put on frames, then one frame long."""

    start_us: int
    end_us: int
    kind: str
    text: str


def events(world: World) -> list[TruthEvent]:
    """Everything that happens in `world`, in the order of time."""
    found = [TruthEvent(t.start_us, t.end_us, t.kind, TRANSITION_TEXT[t.kind]) for t in world.transitions]
    for shot in world.shots:
        # The clock stands at the same moment from the first to the last frozen frame, both included.
        found += [TruthEvent(start, end + 1, "frozen", "frozen") for start, end in shot.frozen]
        for thing in shot.scene.things:
            found += [_in(shot, a.start_us, a.end_us, a.kind, a.text) for a in thing.acts if a.text]
        found += [_in(shot, c.start_us, c.end_us, "text", c.text) for c in shot.scene.captions]
    return sorted(found)


def _in(shot: Shot, start_clock_us: int, end_clock_us: int, kind: str, text: str) -> TruthEvent:
    return TruthEvent(shot.time_us(start_clock_us), shot.time_us(end_clock_us), kind, text)


def on_frames(meant: Sequence[TruthEvent], times_us: Sequence[int], end_us: int) -> list[TruthEvent]:
    """The same events as frames presented at `times_us` (the last until `end_us`) show them: from the first frame at
    or after the start to the first frame at or after the end. Those that no frame shows are left out.
    """
    found = []
    for event in meant:
        first = bisect_left(times_us, event.start_us)
        past = first + 1 if event.kind == "cut" else bisect_left(times_us, event.end_us)
        if first < past and first < len(times_us):
            end = times_us[past] if past < len(times_us) else end_us
            found.append(TruthEvent(times_us[first], end, event.kind, event.text))
    return sorted(found)


def activitynet(videos: Mapping[str, tuple[Mapping[str, Any], Sequence[TruthEvent]]], version: str) -> dict[str, Any]:
    """Ground truth in the layout of ActivityNet's JSON (https://activity-net.org/download.html: `database`, by name:
    `duration` and `annotations` of `segment` [s, s] and `label`), with `text` and exact microseconds added.

    `videos`: name -> (facts of the video to keep beside its annotations, its events).
    """
    database = {}
    for name, (facts, found) in videos.items():
        annotations = [
            {
                "segment": [event.start_us / SECOND_US, event.end_us / SECOND_US],
                "label": event.kind,
                "text": event.text,
                "start_us": event.start_us,
                "end_us": event.end_us,
            }
            for event in found
        ]
        database[name] = {"subset": "testing", **facts, "annotations": annotations}
    return {"version": version, "taxonomy": [], "database": database}
