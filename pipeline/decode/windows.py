"""The public face of decoding: the frames of each window, and the frame at each of a list of times."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.decode.engine import Answer, answers
from pipeline.decode.limits import DecodeLimits
from pipeline.errors import UsageError
from pipeline.frames import Frames
from pipeline.plan import Sampling, Window
from pipeline.video import Video

DEFAULT_LIMITS = DecodeLimits()


def decode_times(
    video: Video, times_us: Iterable[int], sampling: Sampling, limits: DecodeLimits = DEFAULT_LIMITS
) -> Iterator[Answer]:
    """An Answer for each of `times_us` (ascending) at which something is shown: the last frame presented at or before.

    `sampling` says how large, by which decoder and how exactly; its fps is not used. Raises VideoError, UsageError
    (an unknown decoder; `sampling.redact`: frames one by one are not redacted here).
    """
    if sampling.redact:
        raise UsageError("frames at single times are not redacted: decode windows")
    if sampling.decoder == "pyav":
        return answers(video, iter(times_us), sampling, limits)
    if sampling.decoder == "decord":
        from pipeline.decode.decord import decord_answers

        return decord_answers(video, iter(times_us), sampling, limits)
    raise UsageError(f"no decoder {sampling.decoder!r}; there are pyav and decord")


def decode_windows(
    video: Video, windows: Iterable[Window], sampling: Sampling, limits: DecodeLimits = DEFAULT_LIMITS
) -> Iterator[tuple[Window, Frames]]:
    """Each window with its frames: those shown at the grid times of `sampling` in it, each distinct frame once.

    Windows must be ascending by start and may overlap; they are taken from the iterable as decoding proceeds, so that
    memory depends on the length of a window, not on that of the video. Starting at a late window gives the same frames
    as decoding from the start. Where a window shows nothing, or nothing could be decoded, its Frames are empty and
    `lost_us` says what was lost. Raises VideoError where the file cannot be read at all, UsageError for an unknown
    decoder. What `sampling.redact` names is hidden before anybody sees the frames (`pipeline.redact.hider`, which
    raises VideoError too). Frames of `HOLD_US` before and after a window are looked at as well, so that what is hidden
    in a frame does not depend on the windows that it is in.
    """
    return (step for step in decode_steps(video, windows, sampling, limits) if step is not None)


def decode_steps(
    video: Video, windows: Iterable[Window], sampling: Sampling, limits: DecodeLimits = DEFAULT_LIMITS
) -> Iterator[tuple[Window, Frames] | None]:
    """As `decode_windows`, with a None after each frame in which something was to be found: that takes long."""
    margin_us, hide = 0, None
    if sampling.redact:
        from pipeline.redact import HOLD_US, hider

        margin_us, hide = HOLD_US, hider(sampling, video.uri).answers
    ahead: deque[Window] = deque()  # windows whose times were asked for, not yet given out
    source = iter(windows)
    last_asked = -1
    exhausted = False

    def pull() -> Window | None:
        nonlocal exhausted
        window = next(source, None)
        exhausted = window is None
        if window is not None:
            ahead.append(window)
        return window

    def wanted() -> Iterator[int]:
        nonlocal last_asked
        while (window := pull()) is not None:
            until_us = max(window.end_us, min(window.end_us + margin_us, video.duration_us))
            for t in sampling.times_us(max(window.start_us - margin_us, last_asked + 1), until_us):
                last_asked = t
                yield t

    width, height = sampling.size(video.width, video.height)
    recent: deque[Answer] = deque()
    decoded = decode_times(video, wanted(), replace(sampling, redact=()), limits)
    for answer in decoded if hide is None else hide(decoded):
        if answer is None:
            yield None
            continue
        while ahead and ahead[0].end_us <= answer.at_us:
            yield _give(ahead.popleft(), recent, height, width)
        recent.append(answer)
    while ahead or (not exhausted and pull()):
        yield _give(ahead.popleft(), recent, height, width)


def _give(window: Window, recent: deque[Answer], height: int, width: int) -> tuple[Window, Frames]:
    """The window's frames from the answers; forgets the answers before it."""
    while recent and recent[0].at_us < window.start_us:
        recent.popleft()
    inside = [a for a in recent if a.at_us < window.end_us]
    return window, frames_of(inside, window.start_us, window.end_us, height, width)


def frames_of(answers: Sequence[Answer], start_us: int, end_us: int, height: int, width: int) -> Frames:
    """The distinct frames among `answers`; neighbouring losses become one span, clipped to `[start_us, end_us)`."""
    good: list[Answer] = []
    lost: list[tuple[int, int]] = []
    after_loss = False
    for answer in answers:
        if answer.pixels is None:
            span = (max(start_us, min(answer.time_us, answer.at_us)), min(end_us, answer.end_us))
            lost[-1:] = [(lost[-1][0], max(lost[-1][1], span[1]))] if after_loss else [*lost[-1:], span]
        elif not good or good[-1].time_us != answer.time_us:
            good.append(answer)
        else:  # a frame still on screen: what is hidden in it grows
            good[-1] = good[-1]._replace(pixels=answer.pixels)
        after_loss = answer.pixels is None
    return Frames(
        pixels=np.stack([a.pixels for a in good]) if good else np.empty((0, height, width, 3), np.uint8),  # type: ignore[misc]
        time_us=np.array([a.time_us for a in good], np.int64),
        end_us=np.array([a.end_us for a in good], np.int64),
        lost_us=tuple(lost),
    )
