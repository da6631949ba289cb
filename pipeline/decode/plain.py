"""The plain way: decode everything and look at the frames' own times. For files whose packets cannot tell.

Interlaced H.264 (a packet may hold one field), codecs and containers without presentation times on packets, damaged
time stamps. Slower, never wrong: GOPs are passed over only by seeking.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av

from pipeline.decode.decoder import prepare
from pipeline.decode.limits import DecodeLimits
from pipeline.decode.pictures import Converter
from pipeline.decode.schedule import Pick, Times
from pipeline.decode.source import PacketSource
from pipeline.plan import SECOND_US, round_us

_JUMP_US = 20 * SECOND_US  # a wanted time this far ahead is worth a seek


def plain_answers(
    source: PacketSource, times: Times, limits: DecodeLimits, convert: Converter
) -> Iterator[tuple[int, Pick | None]]:
    """(wanted time, its pick or None) for every wanted time, in order."""
    line = source.timeline
    may_jump = True
    left_at: int | None = None
    while (t := times.peek()) is not None:
        before: tuple[av.VideoFrame, Pick] | None = None
        jumped = False
        for frame, pick in shown_frames(source, limits, line.last_pts(t)):
            if left_at is not None:
                may_jump = may_jump and pick.time_us > left_at
                left_at = None
            if before is not None:
                before[1].end_us = pick.time_us
            while (t_next := times.peek()) is not None and t_next < pick.time_us:
                yield times.take(), _converted(before, convert)
            before = frame, pick
            if t_next is None:
                return
            if may_jump and t_next - pick.time_us > _JUMP_US:
                left_at, jumped = pick.time_us, True
                break
        if jumped:
            continue
        end_us = before[1].end_us if before else 0
        duration = source.video.duration_us
        cut_short = source.broken is not None or duration - end_us > SECOND_US
        lost: Pick | None = None
        if before and not cut_short:
            before[1].end_us = end_us = max(end_us, duration)
        while times.peek() is not None:
            t = times.take()
            if t < end_us:
                yield t, _converted(before, convert)
            elif t < duration:
                lost = lost or Pick(-1, end_us, duration, "lost")
                yield t, lost
            else:
                yield t, None
        return


def _converted(shown: tuple[av.VideoFrame, Pick] | None, convert: Converter) -> Pick | None:
    if shown is None:
        return None
    frame, pick = shown
    if pick.state == "waiting":
        try:
            pick.pixels, pick.state = convert(frame), "good"
        except av.error.FFmpegError:  # a format that libswscale does not take
            pick.state = "lost"
    return pick


def shown_frames(source: PacketSource, limits: DecodeLimits, at_pts: int) -> Iterator[tuple[av.VideoFrame, Pick]]:
    """Frames in the order of presentation, from one at or before `at_pts`; those after damage count as lost."""
    line = source.timeline
    rate = source.stream.guessed_rate or source.stream.average_rate or Fraction(25)
    nominal_us = round(SECOND_US / rate)
    context = prepare(source, limits)
    context.flush_buffers()
    damaged = False
    count = 0
    last_us: int | None = None
    entries = source.read(at_pts)
    head_pts: int | None = None
    ended = False
    try:
        while not ended:
            entry = next(entries, None)
            ended = entry is None
            if entry is not None:
                if head_pts is None and entry.entry and not entry.orphan:
                    head_pts = entry.pts
                damaged = damaged or (entry.after_gap and not entry.entry)
            try:
                frames = context.decode(entry.packet if entry is not None else None)
            except av.error.MemoryError:  # not the file's fault
                raise
            except av.error.FFmpegError:
                damaged = True
                continue
            for frame in frames:
                pts = frame.pts if frame.pts is not None else frame.dts
                # A bare stream has no times at all: its frames follow each other at its rate.
                time_us = line.us(pts) if pts is not None else round_us(count / rate)
                count += 1
                if pts is not None and head_pts is not None and pts < head_pts:
                    continue  # it leads the entry point and may lack what it refers to
                if last_us is not None and time_us <= last_us:
                    continue
                if frame.key_frame and not frame.is_corrupt:
                    damaged = False
                elif frame.is_corrupt:
                    damaged = True
                length = frame.duration
                end_us = line.us(pts + length) if pts is not None and length else time_us + nominal_us
                yield frame, Pick(pts or 0, time_us, end_us, "lost" if damaged else "waiting")
                last_us = time_us
    finally:
        context.flush_buffers()
