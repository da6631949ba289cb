"""Blank stretches: one single colour that is not black, such as a blue screen or a white flash of a slide."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.signals.measures import Measures
from model.signals.spans import runs, span_event
from model.signals.thresholds import Thresholds
from pipeline.event import WindowEvent

#: The basic colour keywords of CSS (level 1) that differ clearly, with orange for its use in test slides.
COLOURS = {
    "white": (255, 255, 255), "silver": (192, 192, 192), "gray": (128, 128, 128), "black": (0, 0, 0),
    "red": (255, 0, 0), "maroon": (128, 0, 0), "yellow": (255, 255, 0), "olive": (128, 128, 0),
    "lime": (0, 255, 0), "green": (0, 128, 0), "aqua": (0, 255, 255), "teal": (0, 128, 128),
    "blue": (0, 0, 255), "navy": (0, 0, 128), "fuchsia": (255, 0, 255), "purple": (128, 0, 128),
    "orange": (255, 165, 0),
}  # fmt: skip


def blank_frames(measures: Measures, black: npt.NDArray[np.bool_], thresholds: Thresholds) -> npt.NDArray[np.bool_]:
    """bool [T]; black frames are not blank."""
    return np.array([not b and is_blank(p, thresholds) for p, b in zip(measures.small, black, strict=True)], bool)


def is_blank(picture: npt.NDArray[np.uint8], thresholds: Thresholds) -> bool:
    pixels = picture.reshape(-1, 3).astype(np.float32)
    away = np.abs(pixels - np.median(pixels, axis=0)).max(axis=1)
    near = float((away <= thresholds.blank_spread).mean())
    return near >= thresholds.blank_share and float(away.max()) <= thresholds.blank_peak


def blank_events(measures: Measures, blank: npt.NDArray[np.bool_], thresholds: Thresholds) -> list[WindowEvent]:
    """One event per stretch of one colour: a change of colour ends it."""
    colours = np.median(measures.small.reshape(len(measures), -1, 3), axis=1)
    found = []
    for first, last in runs(blank):
        begin = first
        for i in range(first, last + 1):
            if i == last or np.abs(colours[i + 1] - colours[begin]).max() > 2 * thresholds.blank_spread:
                found += blank_event(measures, begin, i, thresholds)
                begin = i + 1
    return found


def blank_event(measures: Measures, first: int, last: int, thresholds: Thresholds) -> list[WindowEvent]:
    """The event of one stretch of one colour; none for what is all but black, as near the end of a fade."""
    shown = measures.small[first : last + 1]
    colour = np.median(shown, axis=(0, 1, 2)).round().astype(int)
    name = colour_name(colour)
    if name == "black":
        return []
    sure = 1.0 - 0.5 * float(shown.std(axis=(1, 2)).max()) / thresholds.blank_spread
    written = "#{:02x}{:02x}{:02x}".format(*colour)
    return [span_event(measures, first, last, "blank", f"{name} picture", sure, colour=written)]


def colour_name(rgb: npt.NDArray[np.int_]) -> str:
    """The nearest of `COLOURS`."""
    return min(COLOURS, key=lambda name: sum((int(a) - b) ** 2 for a, b in zip(rgb, COLOURS[name], strict=True)))
