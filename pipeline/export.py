"""Events in the formats that other tools read: ActivityNet JSON, WebVTT, SRT, CSV, FiftyOne temporal detections."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.decimals import as_written
from pipeline.plan import SECOND_US

#: How long a moment (a cut) stays on screen as a subtitle, and what is so short that it counts as one.
MOMENT_US, SHORT_US = SECOND_US, SECOND_US // 10


@dataclass(frozen=True, slots=True)
class Exported:
    """A video with its events: rows of the log, in order of start."""

    video_id: str
    name: str  # the name it is known by: a path or URI, or its id
    duration_us: int | None
    width: int | None
    height: int | None
    events: Sequence[Mapping[str, Any]]


def activitynet(videos: Iterable[Exported], version: str) -> str:
    """The layout of ActivityNet's JSON (https://activity-net.org/download.html), which `secondsight evaluate` reads.

    Beside what the format knows, an annotation has `text`, exact `start_us` and `end_us`, `confidence`, `event_id`.
    Videos are named as `short_names` says.
    """
    films = list(videos)
    names = short_names(films)
    database = {
        names[film.video_id]: {
            "duration": (film.duration_us or 0) / SECOND_US,
            "subset": "",
            "resolution": f"{film.width}x{film.height}" if film.width and film.height else "",
            "url": film.name,
            "video_id": film.video_id,
            "annotations": [_annotation(event) for event in film.events],
        }
        for film in films
    }
    return json.dumps({"version": version, "taxonomy": [], "database": database}, ensure_ascii=False, indent=1) + "\n"


def _annotation(event: Mapping[str, Any]) -> dict[str, Any]:
    start, end = event["start_us"], event["end_us"]
    return {
        "segment": [start / SECOND_US, end / SECOND_US],
        "label": event["kind"],
        "text": event["text"],
        "start_us": start,
        "end_us": end,
        "confidence": as_written(event["confidence"]),
        "event_id": event["event_id"],
    }


def short_names(films: Sequence[Exported], spelled: Callable[[str], str] = str) -> dict[str, str]:
    """A name of its own for each video, by its id, as `spelled` writes it: the last part of its name without the
    suffix; where others are called so too, all of its name; where contents share that, the former and the id's
    beginning."""
    choices = {}
    for film in films:
        stem = film.name.rsplit("/", 1)[-1].rsplit(".", 1)[0] or film.name
        choices[film.video_id] = [stem, film.name, f"{stem}_{film.video_id[:8]}", f"{stem}_{film.video_id}"]
    while True:
        names = {video_id: spelled(choice[0]) for video_id, choice in choices.items()}
        counts = Counter(names.values())
        shared = [v for v, name in names.items() if counts[name] > 1 and len(choices[v]) > 1]
        if not shared:
            return names
        for video_id in shared:
            del choices[video_id][0]


def webvtt(film: Exported) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/): a cue for each event; a player stacks those that overlap."""
    parts = ["WEBVTT\n"]
    for event in film.events:
        start, end = _shown(event)
        said = _said(event).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        parts.append(f"{event['event_id']}\n{_clock(start, '.')} --> {_clock(end, '.')}\n{said}\n")
    return "\n".join(parts)


def srt(film: Exported) -> str:
    """SubRip. Its players do not agree on subtitles that overlap: here none do, events at one time share a subtitle."""
    parts = []
    for number, (start, end, together) in enumerate(_apart(film.events), 1):
        # What looks like a tag is kept from being one by a word joiner after the bracket.
        lines = [_said(e).replace("<", "<\u2060").replace("{", "{\u2060").replace("-->", "→") for e in together]
        parts.append(f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _apart(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, list[Mapping[str, Any]]]]:
    """Spans in milliseconds that do not overlap, each with all that goes on in it."""
    spans = [(*_shown(event), event) for event in events]
    starts = sorted(spans, key=lambda s: s[0])
    edges = sorted({edge for start, end, _ in spans for edge in (start, end)})
    active: list[tuple[int, int, Mapping[str, Any]]] = []
    following = 0
    for here, after in pairwise(edges):
        active = [s for s in active if s[1] > here]
        while following < len(starts) and starts[following][0] <= here:
            active.append(starts[following])
            following += 1
        if active:
            yield here, after, [event for _, _, event in active]


def _shown(event: Mapping[str, Any]) -> tuple[int, int]:
    """When a subtitle is on screen, in milliseconds: long enough to be seen."""
    start, end = event["start_us"], event["end_us"]
    if end - start < SHORT_US:
        end = start + MOMENT_US
    start_ms = max(0, start // 1000)
    return start_ms, max(-(-end // 1000), start_ms + 1)


def _said(event: Mapping[str, Any]) -> str:
    """One line: an empty one would end the subtitle."""
    kind, text = (" ".join("".join(c if c.isprintable() else " " for c in event[k]).split()) for k in ("kind", "text"))
    return f"{kind}: {text}" if text and text != kind else kind


def _clock(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms:03}"


_COLUMNS = ("video_id", "event_id", "start_us", "end_us", "kind", "text", "confidence", "model", "run_id", "attributes")


def table(videos: Iterable[Exported]) -> str:
    """CSV (RFC 4180 with line feeds): a row for each event; `start` and `end` in seconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["video", "start", "end", *_COLUMNS])
    for film in videos:
        for event in film.events:
            seconds = (f"{event[edge] / SECOND_US:.6f}" for edge in ("start_us", "end_us"))
            said = {**event, "confidence": as_written(event["confidence"])}
            writer.writerow([film.name, *seconds, *(said.get(column) for column in _COLUMNS)])
    return out.getvalue()


def fiftyone(videos: Iterable[Exported], path_of: Callable[[str], str]) -> dict[str, str]:
    """The files of a FiftyOneTemporalDetectionDataset by name: `labels.json`, and `data.json` that says where the
    videos lie (`path_of` a name), so that none is copied. A moment gets a length of one millisecond.
    """
    films = list(videos)
    names = short_names(films)
    labels = {
        names[film.video_id]: [
            {
                "label": event["kind"],
                "timestamps": [
                    event["start_us"] / SECOND_US,
                    max(event["end_us"], event["start_us"] + 1000) / SECOND_US,
                ],
                **({} if event["confidence"] is None else {"confidence": as_written(event["confidence"])}),
                "attributes": {"text": event["text"], "event_id": event["event_id"]},
            }
            for event in film.events
        ]
        for film in films
    }
    classes = sorted({event["kind"] for film in films for event in film.events})
    # Its importer takes the suffix off the keys of data.json, and what comes after the last dot of any name for one.
    places = {f"{names[film.video_id]}.{_suffix(film.name)}": path_of(film.name) for film in films}
    return {
        "labels.json": json.dumps({"classes": classes, "labels": labels}, ensure_ascii=False, indent=1) + "\n",
        "data.json": json.dumps(places, ensure_ascii=False, indent=1) + "\n",
    }


def _suffix(name: str) -> str:
    last = name.rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[1] if "." in last else "video"
