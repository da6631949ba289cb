"""The signal analysers as a model: what can be known about any footage with no weights to fetch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import cv2

from model.interface import ModelIdentity, ModelProfile
from model.signals.activity import activity_events
from model.signals.black import black_events, black_frames
from model.signals.blank import blank_events, blank_frames
from model.signals.cut import cuts
from model.signals.frozen import frozen_events
from model.signals.gradual import gradual_transitions
from model.signals.measures import measure
from model.signals.text import text_events
from model.signals.text_reader import TextReader, reader_digest
from model.signals.thresholds import Thresholds
from pipeline.errors import UsageError
from pipeline.event import KindRule, WindowEvent, WindowEvents
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Sampling, Window, Windowing

#: Raised with every change that alters answers: it enters the configuration hash.
ALGORITHM_VERSION = 1

#: Chosen by `python -m jobs.bench.signals`: F1 of shot boundaries at 2, 4 and 8 fps is 0.67, 0.93 and 0.95, watching
#: costs as much more; captions 8 to 14 px high in a 360 px picture are read at 360 px (recall 0.84), not at 270 (0.61).
SAMPLING = Sampling(fps=Fraction(4), short_side=360)
#: The overlap holds the longest transition looked for and something of what comes before and after it.
WINDOWING = Windowing(length_us=20 * SECOND_US, overlap_us=3 * SECOND_US)

#: Transitions and levels are judged by what comes before and after: in an overlap, the window that sees more decides.
RULES: dict[str, KindRule] = {
    "cut": KindRule(point=True, exclusive=True),
    "dissolve": KindRule(exclusive=True),
    "fade_in": KindRule(exclusive=True),
    "fade_out": KindRule(exclusive=True),
    "black": KindRule(gap_us=SECOND_US // 4),
    "blank": KindRule(gap_us=SECOND_US // 4),
    "frozen": KindRule(min_us=Thresholds().frozen_min_us),
    "activity": KindRule(gap_us=SECOND_US // 4, exclusive=True),
    "text": KindRule(gap_us=SECOND_US // 2, similarity=Thresholds().text_similarity),
}


@dataclass(frozen=True, slots=True)
class SignalSettings:
    """What a user may set. `text`: read on-screen text (most of the cost). `threads`: of one replica."""

    text: bool = True
    threads: int = 1

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> SignalSettings:
        """Raises UsageError for a setting that is not known or of the wrong type."""
        known = {f.name: type(f.default) for f in fields(cls)}
        for name, value in settings.items():
            if name not in known:
                raise UsageError(f"signals has no setting {name!r}; it knows {', '.join(sorted(known))}")
            if type(value) is not known[name]:
                raise UsageError(f"signals: {name} must be {known[name].__name__}, not {value!r}")
        parsed = cls(**settings)
        if parsed.threads < 1:
            raise UsageError(f"signals: threads must be at least 1, not {parsed.threads}")
        return parsed


def profile(settings: Mapping[str, Any]) -> ModelProfile:
    """What the driver must know; loads no model. Raises as `SignalSettings.parse` and `reader_digest` do."""
    parsed = SignalSettings.parse(settings)
    digest = hashlib.blake2b(f"signals {ALGORITHM_VERSION} ".encode(), digest_size=16)
    if parsed.text:
        digest.update(reader_digest().encode())
    identity = ModelIdentity("signals", digest.hexdigest(), {"text": parsed.text, "thresholds": asdict(Thresholds())})
    return ModelProfile(
        identity=identity,
        sampling=SAMPLING,
        windowing=WINDOWING,
        rules=RULES,
        cpus=float(parsed.threads),
        notice="signals sees cuts, fades, black, blank and frozen pictures, activity and text; no objects or actions",
    )


def load(settings: Mapping[str, Any]) -> SignalsModel:
    """The model, ready to watch. Raises as `profile` does."""
    return SignalsModel(SignalSettings.parse(settings))


class SignalsModel:
    """Implements model.interface.Model."""

    def __init__(self, settings: SignalSettings, thresholds: Thresholds | None = None) -> None:
        cv2.setNumThreads(settings.threads)
        self.thresholds = thresholds or Thresholds()
        if settings.text:
            reader_digest()  # says clearly what is missing
        self.reader = TextReader(settings.threads, self.thresholds.text_least_score) if settings.text else None

    def watch(self, batch: Sequence[tuple[Window, Frames]]) -> list[WindowEvents]:
        """Answers for each window, in order; times relative to each window's start."""
        answers = []
        for window, frames in batch:
            began = time.perf_counter()
            events = self.events(window, frames)
            answers.append(WindowEvents(window, tuple(events), model_s=time.perf_counter() - began))
        return answers

    def events(self, window: Window, frames: Frames) -> list[WindowEvent]:
        """All events of one window, by start, kind and text."""
        if len(frames) == 0 or frames.pixels.size == 0:
            return []
        thresholds = self.thresholds
        measures = measure(frames, window.start_us)
        black = black_frames(measures, thresholds)
        blank = blank_frames(measures, black, thresholds)
        gradual = gradual_transitions(measures, thresholds)
        cut = cuts(measures, [fit for fit, _ in gradual], thresholds)
        broken = {i for i, _ in cut} | {i for fit, _ in gradual for i in range(fit.first + 1, fit.last + 1)}
        found = [event for _, event in gradual] + [event for _, event in cut]
        found += black_events(measures, black, thresholds)
        found += blank_events(measures, blank, thresholds)
        found += frozen_events(measures, black | blank, thresholds)
        found += activity_events(measures, black | blank, broken, thresholds)
        if self.reader is not None:
            found += text_events(frames, measures, self.reader, thresholds)
        return sorted(found, key=lambda e: (e.start_us, e.end_us, e.kind, e.text))

    def close(self) -> None:
        self.reader = None
