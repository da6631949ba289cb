"""Stills and clips of a video with all hidden in them that a run hid from its model, and what is found in them besides.

The frames that the run saw are looked at again, at the size that its model saw, and what is found is held as in the run
(`pipeline.redact.hidden_at`). A picture larger than that is looked at itself, too.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

from pipeline.decode import DecodeLimits, decode_times
from pipeline.decode.media import translated
from pipeline.decode.pictures import Converter, sample_aspect
from pipeline.decode.plain import shown_frames
from pipeline.decode.source import PacketSource
from pipeline.detectors import FACE_MODEL, Box
from pipeline.errors import LogError, UsageError
from pipeline.plan import SECOND_US, Sampling
from pipeline.redact import HOLD_US, Find, Picture, Redactor, covered, hidden_at, hidden_by, redactor, sampled_by
from pipeline.stills import opened
from pipeline.video import Video

#: left, top, right, bottom as shares of the width and the height
_Share = tuple[float, float, float, float]

_STEP_US = SECOND_US // 2  # no two frames that are looked at lie further apart
_BRIEF_US = SECOND_US // 10
_LIMITS = DecodeLimits()


class Hiding:
    """Hides in pictures of one video what a run with `sampling` hides from its model. `redactor`: by which detectors.

    Calling it makes a still (`pipeline.stills.Edit`), `following` what edits a clip.
    """

    def __init__(self, video: Video, sampling: Sampling, redactor: Redactor) -> None:
        self._video, self._redactor = video, redactor
        self._sampling = replace(sampling, redact=(), redact_identity="", decoder="pyav")
        self._size = sampling.size(video.width, video.height)
        self._seen: dict[int, list[_Share]] = {}  # what was found in the frame shown at a time

    def __call__(self, picture: Picture, at_us: int, time_us: int, end_us: int) -> Picture:
        """A copy of the frame presented in `[time_us, end_us)` and asked for at `at_us` without what is to be hidden:
        what was found up to `HOLD_US` from there, and from the times at which the run saw this frame."""
        grid = self._sampling.times_us
        last = list(grid(max(time_us, end_us - self._period_us()), end_us))[-1:]
        moments = sorted({at_us, *last, *([next(grid(time_us, end_us))] if last else ())})
        times = {at_us, *(t for m in moments for t in grid(m - HOLD_US, m + HOLD_US + 1))}
        if self._period_us() > _STEP_US:
            times |= {at_us + step for step in range(-HOLD_US, HOLD_US + 1, _STEP_US)}
        found = [(t, _in_px(shares, picture)) for t, shares in self._find(times)]
        if picture.shape[0] > self._size[1] or self._sampling.tolerance_us:
            found.append((at_us, self._redactor.boxes(picture)))
            found.sort(key=lambda find: find[0])
        return covered(picture, list(dict.fromkeys(box for m in moments for box in hidden_at(m, found))))

    def following(self, start_us: int, end_us: int) -> Callable[[Picture, int], Picture]:
        """What edits the frames of a clip of `[start_us, end_us)`, given with the time at which each is presented.

        Every frame of the clip and of `HOLD_US` before and after it is looked at, at its own size, when the first one
        is to be edited. That raises VideoError.
        """
        known: list[tuple[list[tuple[int, list[_Share]]], list[int], list[int]]] = []

        def edit(picture: Picture, time_us: int) -> Picture:
            if not known:
                known.append(self._all(start_us, end_us))
            found, times, starts = known[0]
            after = bisect_right(starts, time_us)
            until_us = starts[after] if after < len(starts) else end_us
            near: list[Find] = [
                (t, _in_px(shares, picture))
                for t, shares in found[bisect_left(times, time_us - HOLD_US) : bisect_right(times, until_us + HOLD_US)]
            ]
            return covered(
                picture, list(dict.fromkeys(box for m in (time_us, until_us - 1) for box in hidden_at(m, near)))
            )

        return edit

    def _all(self, start_us: int, end_us: int) -> tuple[list[tuple[int, list[_Share]]], list[int], list[int]]:
        """What was found around a clip and when, the times of that, and the times at which its frames are presented."""
        shown = list(self._frames(start_us - HOLD_US, end_us + HOLD_US))
        found = self._find(self._sampling.times_us(start_us - HOLD_US, end_us + HOLD_US))
        for time_us, until_us, shares in shown:
            found.append((time_us, shares))
            if until_us - time_us > _BRIEF_US:  # it is found as long as it is on screen
                found += [(t, shares) for t in range(time_us + _STEP_US, until_us - 1, _STEP_US)]
                found.append((until_us - 1, shares))
        found.sort(key=lambda find: find[0])
        return found, [t for t, _ in found], [t for t, _, _ in shown]

    def _find(self, times_us: Iterable[int]) -> list[tuple[int, list[_Share]]]:
        """(time, what is found in the frame shown then, as large as the model saw it), ascending."""
        times = sorted(t for t in times_us if 0 <= t < self._video.duration_us)
        last: tuple[int, list[_Share]] = (-1, [])
        for answer in decode_times(self._video, [t for t in times if t not in self._seen], self._sampling, _LIMITS):
            if answer.pixels is None:
                continue
            if answer.time_us != last[0]:
                last = answer.time_us, self._shares(answer.pixels)
            self._seen[answer.at_us] = last[1]
        return [(t, self._seen.get(t, [])) for t in times]

    def _frames(self, start_us: int, end_us: int) -> Iterator[tuple[int, int, list[_Share]]]:
        """(presented at, until, what is found in it) for every frame on screen in the span, at its own size."""
        video = self._video
        source = PacketSource(video, _LIMITS)
        try:
            convert = Converter(
                Sampling(short_side=None).size(video.width, video.height),
                (video.width, video.height),
                sample_aspect(source.stream),
            )
            before = None
            with translated(video.uri):
                for frame, pick in shown_frames(source, _LIMITS, source.timeline.last_pts(max(0, start_us))):
                    if before is not None and pick.time_us > start_us:
                        yield before[1], pick.time_us, self._shares(convert(before[0]))
                    before = frame, pick.time_us
                    if pick.time_us >= end_us:
                        return
                if before is not None:
                    yield before[1], max(before[1] + 1, video.duration_us), self._shares(convert(before[0]))
        finally:
            source.close()

    def _shares(self, picture: Picture) -> list[_Share]:
        high, wide = picture.shape[:2]
        return [(a / wide, b / high, c / wide, d / high) for a, b, c, d in self._redactor.boxes(picture)]

    def _period_us(self) -> int:
        return math.ceil(SECOND_US / self._sampling.fps)


def _in_px(shares: Iterable[_Share], picture: Picture) -> list[Box]:
    high, wide = picture.shape[:2]
    return [
        (math.floor(a * wide), math.floor(b * high), math.ceil(c * wide), math.ceil(d * high)) for a, b, c, d in shares
    ]


def editor(log: str, run_id: str, uri: str) -> Hiding | None:
    """What hides in pictures of the video at `uri` all that was hidden from the model of a run; None where nothing was.

    Raises UsageError where the very detectors of the run are not to be had here: better no picture than one that shows
    too much; LogError, VideoError.
    """
    wanted = hidden_by(log, run_id)
    if not wanted:
        return None
    what = [f"faces={_weights(run_id)}" if d["what"] == "faces" and "weights_hash" in d else d["what"] for d in wanted]
    hider = redactor(tuple(sorted(what)))
    for ours, theirs in zip(hider.identity["detectors"], wanted, strict=True):
        if ours.get("weights_hash") != theirs.get("weights_hash"):
            raise UsageError(
                f"run {run_id} hid {theirs['what']} by other weights than those here, so no picture of it is shown: "
                f"name those that it used in ${FACE_MODEL}"
            )
    said = sampled_by(log, run_id)
    try:
        sampling = Sampling(
            Fraction(said["fps"]), said["tolerance_us"], said["short_side"], said["max_pixels"], said["multiple"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LogError(f"{log}: the configuration of run {run_id} cannot be read: {error}") from error
    return Hiding(opened(uri), sampling, hider)


def _weights(run_id: str) -> str:
    path = os.environ.get(FACE_MODEL)
    if not path:
        raise UsageError(
            f"run {run_id} hid faces by OpenCV's YuNet, so no picture of it is shown without it: name the weights that "
            f"it used in ${FACE_MODEL}"
        )
    return os.path.abspath(os.path.expanduser(path))
