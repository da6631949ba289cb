"""Which packets must be decoded so that the frames shown at the wanted times come out, worked out from packets alone.

Packets are read in decoding order. All later pictures are presented at or after the decoding time stamp of the packet
just read, so that whatever lies before it in presentation order is settled. A wanted time is decided when the frame
after it is settled; then its packet, and those that it may depend on, are sent. A group of pictures (GOP) that nobody
asked for is dropped whole, as are the rest of a GOP after the last picture wanted of it, and pictures that no other
needs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.decode.source import Entry, PacketSource
from pipeline.plan import SECOND_US

_QUEUE_BYTES = 32 << 20  # undecoded packets kept in the hope that nobody needs them
_QUEUE_PACKETS = 20_000
_BLIND_PACKETS = 64  # packets in a row without a decoding time stamp
_JUMP_US = 8 * SECOND_US  # a wanted time this far ahead is worth a seek


class Distrust(Exception):
    """The packets' time stamps do not say which frame is shown when: the frames themselves must be asked."""


@dataclass(slots=True, eq=False)
class Pick:
    """A frame that somebody wants: its span on screen, and what came of it.

    `state`: "waiting"; "good" (then `pixels` is set); "lost": it could not be decoded; "missing": the decoder gave
    neither frame nor error.
    """

    pts: int
    time_us: int
    end_us: int
    state: str = "waiting"
    pixels: npt.NDArray[np.uint8] | None = None


@dataclass(slots=True)
class Batch:
    """Packets to send to a decoder, in order. `fresh`: to one that has been reset, as they begin at an entry point.

    `pause`: nothing to send; everything sent so far must be finished before the next batch is asked for.
    """

    entries: list[Entry] = field(default_factory=list)
    picks: dict[int, Pick] = field(default_factory=dict)
    fresh: bool = False
    pause: bool = False


class Times:
    """Wanted times, ascending, looked at before they are taken. Those at `until_us` and after stay out of sight."""

    def __init__(self, times: Iterator[int]) -> None:
        self._times = times
        self._back: deque[int] = deque()
        self.until_us: int | None = None

    def peek(self) -> int | None:
        if not self._back:
            following = next(self._times, None)
            if following is None:
                return None
            self._back.append(following)
        return self._back[0] if self.until_us is None or self._back[0] < self.until_us else None

    def take(self) -> int:
        time = self.peek()
        assert time is not None
        return self._back.popleft()

    def give_back(self, times: list[int]) -> None:
        self._back.extendleft(reversed(times))


class Schedule:
    """Decides the wanted times and hands out batches. `answers`: (wanted time, its pick or None), in order of time.

    `parallel`: begin a fresh batch wherever possible, not only where packets were left out.
    """

    def __init__(self, source: PacketSource, times: Times, tolerance_us: int, parallel: bool) -> None:
        self.answers: deque[tuple[int, Pick | None]] = deque()
        self._source, self._times = source, times
        self._line = source.timeline
        self._tolerance_us, self._parallel = tolerance_us, parallel
        self._may_jump = True
        rate = source.stream.average_rate or source.stream.guessed_rate
        self._nominal_us = round(SECOND_US / rate) if rate else 0
        self._reset()

    def _reset(self) -> None:
        self._queue: list[Entry] = []
        self._queue_bytes = 0
        self._fresh = True  # the decoder's state does not reach up to the head of the queue
        self._shown: list[int] = []  # settled and unsettled pts of presented pictures, ascending
        self._entries: list[int] = []  # pts of entry points, ascending
        self._boundary: int | None = None  # all times before this pts are decided
        self._settled: int | None = None  # dts of the packet read last
        self._wanted: dict[int, Pick] = {}  # picks not yet sent
        self._last: Pick | None = None
        self._last_hole: Pick | None = None
        self._holes: list[tuple[int, int]] = []  # spans of time in which pictures are missing from the file
        self._end_us = 0  # of the last picture presented, as far as read

    def batches(self) -> Iterator[Batch]:
        """Batches up to the last wanted time. Raises Distrust where packets cannot be relied on."""
        left_at: int | None = None
        while (t := self._times.peek()) is not None:
            if left_at is not None:
                yield Batch(pause=True)
                self._reset()
            blind = 0
            jumped = False
            limit, decide_at = self._next_limits(t)
            for entry in self._source.read(limit):
                if left_at is not None:
                    if entry.pts is None or entry.pts <= left_at:
                        self._may_jump = False  # the entry point lay behind: going on would have been cheaper
                    left_at = None
                blind = 0 if entry.dts is not None else blind + 1
                if blind > _BLIND_PACKETS:
                    raise Distrust("packets without decoding time stamps")
                self._add(entry)
                if self._settled is None or (self._settled <= decide_at and not self._crowded()):
                    continue
                self._decide()
                yield from self._take(everything=False)
                upcoming = self._times.peek()
                if upcoming is None:
                    yield from self._take(everything=True)
                    return
                limit, decide_at = self._next_limits(upcoming)
                if self._far(limit):
                    yield from self._take(everything=True)
                    left_at, jumped = self._settled, True
                    break
            if not jumped:
                yield from self._end()
                return

    def _next_limits(self, t: int) -> tuple[int, int]:
        return self._line.last_pts(t - self._tolerance_us), self._line.last_pts(t + self._tolerance_us)

    def _crowded(self) -> bool:
        return self._queue_bytes > _QUEUE_BYTES or len(self._queue) > _QUEUE_PACKETS

    def _far(self, limit: int) -> bool:
        if not self._may_jump or self._settled is None or limit - self._settled < self._line.ticks(_JUMP_US):
            return False
        key = self._source.key_after(limit)
        return key is not None and key - self._settled > self._line.ticks(_JUMP_US) // 2

    def _add(self, entry: Entry) -> None:
        """Takes note of a packet."""
        if entry.pts is None:
            raise Distrust("packets without presentation time stamps")
        if entry.dts is not None:
            if self._settled is not None and entry.dts < self._settled:
                raise Distrust("decoding time stamps run backwards")
            if entry.after_gap and self._settled is not None:
                self._holes.append((self._settled, max(entry.dts, entry.pts)))
            self._settled = entry.dts
        self._queue.append(entry)
        self._queue_bytes += entry.size
        if entry.entry:
            self._entries.append(entry.pts)
        if not entry.shown:
            return
        if self._boundary is not None and entry.pts < self._boundary:
            raise Distrust("a picture is presented before it can have been decoded")
        i = bisect_left(self._shown, entry.pts)
        if i < len(self._shown) and self._shown[i] == entry.pts:
            raise Distrust("two pictures with one presentation time stamp")
        self._shown.insert(i, entry.pts)
        length = entry.packet.duration
        end_us = self._line.us(entry.pts + length) if length else self._line.us(entry.pts) + self._nominal_us
        self._end_us = max(self._end_us, end_us)

    def _decide(self) -> None:
        """Answers every wanted time whose frame and the one after it are settled."""
        assert self._settled is not None
        i = bisect_right(self._shown, self._settled) - 1
        if i < 0 or self._shown[i] == self._boundary:
            return
        boundary = self._boundary = self._shown[i]
        while (t := self._times.peek()) is not None and self._line.last_pts(t + self._tolerance_us) < boundary:
            self._answer(self._times.take())
        # Keep what a later time can still pick: the frame on screen at the boundary, and those within the tolerance.
        keep = boundary - self._line.ticks(2 * self._tolerance_us) - 1
        del self._shown[: max(0, bisect_right(self._shown, keep) - 1)]

    def _answer(self, t: int) -> None:
        i = bisect_right(self._shown, self._line.last_pts(t)) - 1
        if self._tolerance_us:
            i = self._cheapest(t, i)
        if i < 0:
            self.answers.append((t, None))
            return
        pts = self._shown[i]
        if self._last is None or self._last.pts != pts:
            end_us = self._line.us(self._shown[i + 1]) if i + 1 < len(self._shown) else self._end_us
            self._last = Pick(pts, self._line.us(pts), end_us)
            self._wanted[pts] = self._last
            self._last_hole = None
            if self._holes and i + 1 < len(self._shown):
                self._last_hole = self._hole_after(self._last, self._shown[i + 1])
        self.answers.append((t, self._last_hole if self._last_hole and t >= self._last_hole.time_us else self._last))

    def _hole_after(self, pick: Pick, following: int) -> Pick | None:
        """The lost span, if pictures are missing between a pick and the frame presented next; shortens the pick."""
        length_us = self._nominal_us
        if not length_us or 2 * (pick.end_us - pick.time_us) <= 3 * length_us:
            return None
        reorder = self._line.ticks(16 * length_us)
        if not any(a <= following and b >= pick.pts - reorder for a, b in self._holes):
            return None
        hole = Pick(-1, pick.time_us + length_us, pick.end_us, "lost")
        pick.end_us = hole.time_us
        return hole

    def _cheapest(self, t: int, exact: int) -> int:
        """The index in `_shown` of the frame within the tolerance of `t` that takes least decoding: an entry point
        where there is one (the nearest), else the one decoded first."""
        low = bisect_right(self._shown, self._line.last_pts(t - self._tolerance_us - 1))
        high = bisect_right(self._shown, self._line.last_pts(t + self._tolerance_us))
        candidates = set(self._shown[low:high])
        if self._last is not None:
            candidates = {pts for pts in candidates if pts >= self._last.pts}
        if not candidates:
            return exact
        middle = self._line.last_pts(t)
        keys = [pts for pts in self._entries if pts in candidates]
        if keys:
            return bisect_left(self._shown, min(keys, key=lambda pts: abs(pts - middle)))
        if exact >= 0:
            candidates.add(self._shown[exact])
        first = next((e.pts for e in self._queue if e.pts in candidates and e.shown), None)
        return exact if first is None else bisect_left(self._shown, first)

    def _take(self, everything: bool) -> Iterator[Batch]:
        """Batches of what is decided at the head of the queue; drops what nobody can need any more."""
        if not self._wanted and not self._entries and not self._crowded():
            return
        decided = len(self._queue)
        if not everything:
            boundary = self._boundary
            assert boundary is not None or not self._wanted
            decided = next(
                (i for i, e in enumerate(self._queue) if e.shown and (boundary is None or e.pts >= boundary)),  # type: ignore[operator]
                decided,
            )
        start = 0
        for i in range(decided):
            entry = self._queue[i]
            if not entry.shown or entry.pts not in self._wanted:
                continue
            cut = self._cut(start, i)
            if cut is not None:
                start, self._fresh = cut, True
            picks = {entry.pts: self._wanted.pop(entry.pts)}
            yield Batch(self._needed(start, i + 1, picks), picks, self._fresh)
            self._fresh = False
            start = i + 1
        cut = self._last_clean_entry(start, decided - 1)
        if cut is not None and cut > start:
            self._fresh = self._fresh or any(not e.disposable for e in self._queue[start:cut])
            start = cut
        self._forget(start)
        if self._crowded() and decided > start:  # too much to keep: decode it in vain
            yield Batch(self._needed(0, decided - start, {}), {}, self._fresh)
            self._fresh = False
            self._forget(decided - start)

    def _forget(self, count: int) -> None:
        """Removes the first `count` entries of the queue."""
        if count:
            self._queue_bytes -= sum(e.size for e in self._queue[:count])
            del self._queue[:count]
            self._entries = sorted(e.pts for e in self._queue if e.entry and e.pts is not None)

    def _needed(self, start: int, end: int, picks: dict[int, Pick]) -> list[Entry]:
        return [e for e in self._queue[start:end] if not e.disposable or e.pts in picks]

    def _cut(self, start: int, wanted: int) -> int | None:
        """Where a fresh decoder should begin to reach the wanted packet; None: go on with the one that is running."""
        cut = self._last_clean_entry(start, wanted)
        if cut is None or (cut == start and self._fresh):
            return None
        if cut > start:
            return cut
        leading = any(e.pts < self._queue[cut].pts for e in self._queue[cut + 1 : wanted + 1])  # type: ignore[operator]
        return cut if self._parallel and not leading else None

    def _last_clean_entry(self, start: int, last: int) -> int | None:
        """The last entry point in the queue, from `start` to `last`, none of whose leading pictures is wanted."""
        for i in range(last, start - 1, -1):
            head = self._queue[i]
            if (
                head.entry
                and not any(
                    e.shown and e.pts in self._wanted and e.pts < head.pts  # type: ignore[operator]
                    for e in self._queue[i + 1 :]
                )
            ):
                return i
        return None

    def _end(self) -> Iterator[Batch]:
        """The stream is over: decides the remaining times."""
        duration = self._source.video.duration_us
        cut_short = self._source.broken is not None or duration - self._end_us > max(SECOND_US, 4 * self._nominal_us)
        if not cut_short:
            self._end_us = max(self._end_us, duration)
        lost: Pick | None = None
        while (t := self._times.peek()) is not None:
            self._times.take()
            if t < self._end_us:
                self._answer(t)
            elif t < duration:
                lost = lost or Pick(-1, self._end_us, duration, "lost")
                self.answers.append((t, lost))
            else:
                self.answers.append((t, None))
        yield from self._take(everything=True)
