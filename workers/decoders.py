"""Which segments are decoded next, how much an open decoder may hold, and what is tried again when one fails.

A state machine without Ray, clock or I/O, the decoding half of the schedule (workers/schedule.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import TRANSIENT
from pipeline.plan import Segment, Windowing
from pipeline.video import Video
from workers.budget import Budget
from workers.outage import Outage
from workers.work import Decoded, DecodeOrder

DEPTH = 2  # parcels that an open decoder may hold: one ready, one in the making
PARCEL_BYTES = 2 << 20  # windows that are smaller leave their decoder several at a time
PARCEL_WINDOWS = 256
SHORT_VIDEOS = 32  # that one task decodes, at most

#: How often a segment is begun without one more window coming of it, by what went wrong; once where not listed.
TRIES: dict[str, int] = {"crash": 3, "memory": 3, "storage": 6, "full": 6, "timeout": 2, "changed": 2}
#: After its tries, the video goes on without the window where this happens; with anything else it has failed.
LOSABLE = frozenset({"crash", "memory", "timeout"})
PAUSED = TRANSIENT | {"memory", "full"}  # tried again after a while
BACK_OFF_S = 1.0  # before the second try; doubled before each further one
MAX_MOVES = 10  # times that a segment may lose its node


@dataclass(slots=True)
class _Queued:
    """A video with segments that no decoder has had yet. `head` is the next of them."""

    video: Video
    order: int
    window_bytes: int
    head: Segment
    rest: Iterator[Segment]


@dataclass(slots=True)
class _Pending:
    """A segment that is to be decoded (again), alone. `careful`: window by window, to see which one is to blame."""

    segment: Segment
    order: int
    window_bytes: int
    tries: int
    not_before: float
    careful: bool = False
    moves: int = 0


@dataclass(slots=True)
class _Open:
    """An open decoder. It is at `place` of its segments and gives window `next` of it next."""

    order: DecodeOrder
    of: tuple[_Queued | _Pending, ...]  # whose segments these are
    window_bytes: int
    next: int
    tries: int
    place: int = 0
    taking: int = 0  # bytes of the parcel that is being taken from it
    moves: int = 0

    @property
    def parcel_bytes(self) -> int:
        return self.window_bytes * self.order.parcel_windows

    @property
    def reserved(self) -> int:
        return self.order.depth * self.parcel_bytes

    @property
    def gave_all(self) -> bool:
        return self.place >= len(self.order.segments)

    def gave(self, window: int) -> None:
        """The window came out of the segment at `place`, or its last one did before."""
        self.next = window + 1
        if window >= self.order.segments[self.place].last:
            self.skip()

    def skip(self) -> None:
        self.place += 1
        if not self.gave_all:
            self.next = self.order.segments[self.place].first


class Decoders:
    """`at_once`: how many may be open; may be changed at any time.

    `outages`: by what goes wrong then: "storage" of the archive, and Ray's object store "full".
    `fail(video_id, reason)` is called for a video that cannot be decoded; `lose(video_id, window, reason)` for a window
    that cannot: returns whether the video goes on without it.
    """

    def __init__(
        self,
        windowing: Windowing,
        budget: Budget,
        at_once: int,
        segment_us: int,
        fail: Callable[[str, str], None],
        lose: Callable[[str, int, str], bool],
        outages: Mapping[str, Outage],
    ) -> None:
        self._windowing, self._budget, self._segment_us = windowing, budget, segment_us
        self._fail, self._lose, self._outages = fail, lose, outages
        self.at_once = at_once
        self.retries = 0
        self._queued: dict[str, _Queued] = {}  # by video, in the order of the archive
        self._again: list[_Pending] = []
        self._open: dict[int, _Open] = {}
        self._cancelled: list[int] = []
        self._wanted: set[str] = set()
        self._numbers = 0

    def add(self, video: Video, order: int, window_bytes: int, segments: Iterator[Segment]) -> None:
        """Take up a video with one segment at least."""
        self._wanted.add(video.video_id)
        self._queued[video.video_id] = _Queued(video, order, window_bytes, next(segments), segments)

    def wants_videos(self) -> bool:
        """Whether the videos at hand will soon not keep every decoder busy."""
        return len(self._queued) < 2 * self.at_once * (1 + SHORT_VIDEOS // 4)

    def idle(self) -> bool:
        """Whether there is nothing to decode, now or later."""
        return not (self._queued or self._again or self._open)

    def may_bring_more(self) -> bool:
        """Whether an open decoder has windows that may be taken from it."""
        return any(map(self.may_take, self._open))

    # --- Starting one.

    def next_order(self, now: float) -> DecodeOrder | None:
        """What to decode next; None while there is nothing, no decoder to spare, or no room for its frames."""
        if sum(not d.gave_all for d in self._open.values()) >= self.at_once:
            return None  # one that has given its last window is about to end, and needs no decoder any more
        pending = min(
            (p for p in self._again if p.not_before <= now), key=lambda p: (p.order, p.segment.first), default=None
        )
        first = pending or next(iter(self._queued.values()), None)
        room = None if first is None else self._room(first.window_bytes, pending is not None and pending.careful)
        if first is None or room is None or not all(outage.may_try(now) for outage in self._outages.values()):
            return None
        depth, parcel_windows = room
        if pending is not None:
            self._again.remove(pending)
            of: tuple[_Queued | _Pending, ...] = (pending,)
            segments: tuple[Segment, ...] = (pending.segment,)
        else:
            of, segments = self._take()
        self._numbers += 1
        order = DecodeOrder(self._numbers, segments, depth, parcel_windows)
        tries, moves = (pending.tries, pending.moves) if pending is not None else (1, 0)
        opened = _Open(order, of, first.window_bytes, segments[0].first, tries, moves=moves)
        self._open[order.number] = opened
        self._budget.reserve(opened.reserved)
        return order

    def _take(self) -> tuple[tuple[_Queued, ...], tuple[Segment, ...]]:
        """The next segment of the first video; with it those of the short videos that follow, so that every decoder
        gets some."""
        share = min(SHORT_VIDEOS, max(1, len(self._queued) // max(1, self.at_once)))
        of: list[_Queued] = []
        segments: list[Segment] = []
        length_us = 0
        for queued in list(self._queued.values())[:share]:
            segment = queued.head
            span = self._windowing.length_us * (segment.last - segment.first + 1)
            if of and (length_us + span > self._segment_us or queued.window_bytes > of[0].window_bytes):
                break
            of.append(queued)
            segments.append(segment)
            length_us += span
            following = next(queued.rest, None)
            if following is not None:  # a long video: its segments go one by one
                queued.head = following
                break
            del self._queued[queued.video.video_id]
        return tuple(of), tuple(segments)

    def _room(self, window_bytes: int, careful: bool) -> tuple[int, int] | None:
        """(depth, windows in a parcel) of a new decoder; None: there is no room for it."""
        share = self._budget.limit // (4 * max(1, self.at_once) * window_bytes)
        wanted = 1 if careful else max(1, min(PARCEL_WINDOWS, PARCEL_BYTES // window_bytes, share))
        # Whichever decoder is served first when nothing is held, the parcel taken from it must fit as well.
        largest = max((d.parcel_bytes for d in self._open.values()), default=0)
        for depth, windows in ((DEPTH, wanted), (DEPTH, 1), (1, 1)):
            parcel = windows * window_bytes
            if self._budget.fits(depth * parcel + max(parcel, largest)):
                return depth, windows
        return None if self._open or self._budget.holds else (1, 1)

    # --- Taking from one.

    def may_take(self, number: int) -> bool:
        """Whether there is room to take the next parcel of this decoder."""
        return not self._budget.holds or self._budget.fits(self._open[number].parcel_bytes)

    def taking(self, number: int) -> None:
        """The next parcel of this decoder is about to leave it: from now on it needs room of its own."""
        opened = self._open[number]
        opened.taking = opened.parcel_bytes
        self._budget.hold(opened.taking)

    def taken(self, number: int, windows: Sequence[Decoded], now: float) -> None:
        """The parcel has left its decoder, after `taking`; who takes the windows over holds their bytes from here."""
        opened = self._open[number]
        self._budget.hold(-opened.taking)
        opened.taking = 0
        if windows:
            self._outages["storage"].over()
        for decoded in windows:
            while opened.order.segments[opened.place].video.video_id != decoded.window.video_id:
                self._blame(opened, "crash", f"decoding ended before window {opened.next}", now)
                opened.skip()
            opened.gave(decoded.window.index)

    # --- Ending one.

    def ended(self, number: int, now: float) -> None:
        """A decoder has no more windows."""
        if self._open[number].gave_all:
            self._close(number)
        else:
            self.failed(number, "crash", f"decoding ended before window {self._open[number].next}", now)

    def segment_failed(self, number: int, place: int, reason: str, detail: str, now: float) -> None:
        """One segment of a decoder cannot be decoded further; the decoder goes on with the next."""
        opened = self._open[number]
        while opened.place < place:
            opened.skip()
        if opened.gave_all or opened.place != place:
            return
        self._blame(opened, reason, detail, now)
        opened.skip()

    def failed(self, number: int, reason: str, detail: str, now: float) -> None:
        """A decoder ended with an error: what it has not given is tried again where that can help."""
        opened = self._close(number)
        if opened.gave_all:
            return
        if len(opened.order.segments) - opened.place == 1:
            self._blame(opened, reason, detail, now)
            return
        for place in range(opened.place, len(opened.order.segments)):  # one of them did it: each alone from here
            segment = opened.order.segments[place]
            first = opened.next if place == opened.place else segment.first
            self._try_again(opened, place, Segment(segment.video, first, segment.last), 1, now, careful=True)

    def moved(self, number: int, now: float, began: bool = True) -> None:
        """A decoder went with its node, or (`began` false) never found room on one: nobody is to blame."""
        opened = self._close(number)
        opened.moves += began
        for place in range(opened.place, len(opened.order.segments)):
            segment = opened.order.segments[place]
            if opened.moves > MAX_MOVES:
                self._fail(segment.video.video_id, f"crash: its node went away {opened.moves} times")
                continue
            first = opened.next if place == opened.place else segment.first
            self._try_again(opened, place, Segment(segment.video, first, segment.last), opened.tries, now)

    def again(self, video: Video, order: int, window_bytes: int, window: int, not_before: float) -> None:
        """Decode one window once more: its frames are lost."""
        self.retries += 1
        self._again.append(_Pending(Segment(video, window, window), order, window_bytes, 1, not_before))

    def drop(self, video_id: str) -> None:
        """Nothing more of this video is wanted."""
        self._wanted.discard(video_id)
        self._queued.pop(video_id, None)
        self._again = [p for p in self._again if p.segment.video.video_id != video_id]
        for number, opened in list(self._open.items()):
            rest = opened.order.segments[opened.place :]
            if rest and all(s.video.video_id == video_id for s in rest):
                self._close(number)
                self._cancelled.append(number)

    def cancelled(self) -> list[int]:
        """Decoders whose work nobody wants any more, since the last call."""
        numbers, self._cancelled = self._cancelled, []
        return numbers

    def retry_at(self) -> float | None:
        """The earliest time at which something that failed may be tried again."""
        return min((p.not_before for p in self._again), default=None)

    # --- What is tried again.

    def _blame(self, opened: _Open, reason: str, detail: str, now: float) -> None:
        """The segment that a decoder is at has failed there."""
        segment = opened.order.segments[opened.place]
        video_id = segment.video.video_id
        # Windows that came out before it failed make it a first failure of what comes next.
        tries = opened.tries if opened.next == segment.first else 1
        rest = Segment(segment.video, opened.next, segment.last)
        most, outage = TRIES.get(reason, 1), self._outages.get(reason)
        if outage is not None and outage.failed(segment.video.uri, detail, tries >= most, now):
            self._try_again(opened, opened.place, rest, tries, now)
        elif tries < most:
            pause_s = BACK_OFF_S * 2 ** (tries - 1) if reason in PAUSED else 0.0
            self._try_again(opened, opened.place, rest, tries + 1, now + pause_s, careful=True)
        elif reason not in LOSABLE:
            self._fail(video_id, f"{'storage' if reason == 'full' else reason}: {detail}")
        elif self._lose(video_id, rest.first, f"{reason}: {detail}") and rest.first < rest.last:
            after = Segment(segment.video, rest.first + 1, rest.last)
            # What hangs costs its time limit each time: the windows that follow are given one try, until one comes.
            tries = 1 if reason == "crash" else TRIES[reason]
            self._try_again(opened, opened.place, after, tries, now, careful=True)

    def _try_again(
        self, opened: _Open, place: int, segment: Segment, tries: int, not_before: float, careful: bool = False
    ) -> None:
        if segment.video.video_id not in self._wanted:
            return
        self.retries += 1
        of = opened.of[place]
        self._again.append(_Pending(segment, of.order, of.window_bytes, tries, not_before, careful, moves=opened.moves))

    def _close(self, number: int) -> _Open:
        opened = self._open.pop(number)
        self._budget.reserve(-opened.reserved)
        self._budget.hold(-opened.taking)
        return opened
