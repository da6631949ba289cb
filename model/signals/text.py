"""On-screen text: what is written, where, from when to when."""

from __future__ import annotations

from model.signals.measures import Measures
from model.signals.spans import span_event
from model.signals.text_change import frames_to_read
from model.signals.text_reader import TextReader
from model.signals.text_track import Track, track
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent
from pipeline.frames import Frames


def text_events(frames: Frames, measures: Measures, reader: TextReader, thresholds: Thresholds) -> list[WindowEvent]:
    """One event per text. Attributes: `box_left`, `box_top`, `box_right`, `box_bottom` (shares of the picture)."""
    reads = [(i, reader.read(frames.pixels[i])) for i in frames_to_read(frames, thresholds)]
    return [
        text_event(measures, one)
        for one in track(frames, reads, thresholds)
        if one.line.score >= thresholds.text_score and sum(map(str.isalnum, one.text)) >= thresholds.text_letters
    ]


def text_event(measures: Measures, one: Track) -> WindowEvent:
    line = one.line
    box = dict(zip(("box_left", "box_top", "box_right", "box_bottom"), (round(v, 4) for v in line.box), strict=True))
    return span_event(measures, one.first, one.last, "text", one.text, line.score, **box)
