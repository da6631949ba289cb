"""Which packets of a stream can be copied into a clip, worked out from the packets alone.

In decoding order a copied run must begin at a picture from which decoding can start, and end where no picture left
out is needed by one that stays: a place where all pictures decoded before are presented before all that follow.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from pipeline.clips import h264
from pipeline.decode.bitstream import H264
from pipeline.decode.media import translated
from pipeline.decode.source import PacketSource

#: Codecs whose frames can be encoded anew in front of and after copied ones, by which encoder.
EDGE_ENCODERS = {"h264": "libx264", "vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True, slots=True)
class Cut:
    """Times in ticks of the stream. `shown`: of every frame of the clip, ascending; `order`: of those copied, in
    decoding order. `zero`: where the clip's time begins; `end`: where its last frame ends."""

    shown: array[int]
    order: array[int]
    zero: int
    end: int

    @property
    def head(self) -> array[int]:
        """Frames before the copied ones."""
        return self.shown[: bisect_left(self.shown, min(self.order))]

    @property
    def tail(self) -> array[int]:
        """Frames after the copied ones."""
        return self.shown[bisect_right(self.shown, max(self.order)) :]


def plan_cut(source: PacketSource, start_us: int, end_us: int) -> Cut | None:
    """The cut for `[start_us, end_us)`, or None where no packet can be copied or the packets do not tell."""
    with translated(source.video.uri):
        packets = _read(source, source.timeline.last_pts(start_us), source.timeline.last_pts(end_us - 1))
    if packets is None:
        return None
    line = source.timeline
    last = line.last_pts(end_us - 1)
    presented = sorted(t for t in packets.pts if t not in packets.hidden)
    at_start = bisect_right(presented, line.last_pts(start_us)) - 1
    shown = array("q", presented[max(0, at_start) : bisect_right(presented, last)])
    if not shown or len(set(presented)) < len(presented):
        return None
    order = _longest_run(packets, shown[0], last, source.stream.codec_context.codec.canonical_name)
    if order is None or not packets.hidden.isdisjoint(order):
        return None
    zero = shown[0] if line.us(shown[0]) >= start_us else line.last_pts(start_us)
    if at_start < 0:  # the first frame comes late, in the clip too
        zero = line.last_pts(start_us)
    end = line.last_pts(end_us - 1) + 1
    return Cut(shown, order, zero, end)


@dataclass(slots=True)
class _Packets:
    """What is known of each packet, in decoding order. `entry`: decoding can start there; `clean`: even after other
    pictures, because nothing of the decoder's state before it stays."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    entry: bytearray = field(default_factory=bytearray)
    clean: bytearray = field(default_factory=bytearray)
    hidden: set[int] = field(default_factory=set)  # times of those that an edit list hides


def _read(source: PacketSource, start: int, last: int) -> _Packets | None:
    """The packets from an entry point at or before `start` to the one after which all are presented after `last`."""
    inspect = source.inspector()
    if isinstance(inspect, H264) and inspect.interlaced_possible:
        return None
    packets = _Packets()
    nals = h264.nal_units(source.stream.codec_context.extradata or b"")
    parameters = b""
    for entry in source.read(start):
        if entry.pts is None or entry.packet.is_corrupt or (entry.after_gap and not entry.entry):
            return None
        packets.pts.append(entry.pts)
        if not entry.shown:
            packets.hidden.add(entry.pts)
        packets.entry.append(entry.entry)
        clean = entry.entry
        if isinstance(inspect, H264) and entry.entry:
            carried = inspect.picture(entry.packet).parameters
            if carried and parameters and carried != parameters:
                return None
            parameters = parameters or carried
            clean = h264.is_idr(nals, entry.packet)
        packets.clean.append(clean)
        if entry.dts is not None and entry.dts > last:
            break
    return None if source.broken else packets


def _longest_run(packets: _Packets, first: int, last: int, codec: str) -> array[int] | None:
    """The times of the packets that are copied, in decoding order."""
    pts = packets.pts
    begin = next(
        (i for i in range(len(pts)) if first <= pts[i] <= last and _may_begin(packets, i, first, codec)), len(pts)
    )
    run = array("q", (t for t in pts[begin:] if t >= pts[begin]))  # without what leads the entry point
    later = _smallest_after(run)
    best, latest = 0, first
    for i, t in enumerate(run):
        latest = max(latest, t)
        if latest > last:
            break
        # The rest is encoded anew; where the codec does not allow that there must be no rest.
        if later[i] > latest and (codec in EDGE_ENCODERS or later[i] > last):
            best = i + 1
    return run[:best] or None


def _may_begin(packets: _Packets, i: int, first: int, codec: str) -> bool:
    if packets.pts[i] == first:
        return bool(packets.entry[i])
    return codec in EDGE_ENCODERS and bool(packets.clean[i])


def _smallest_after(values: array[int]) -> array[int]:
    """For each value the smallest of those that follow it."""
    smallest = array("q", bytes(8 * len(values)))
    so_far = 2**62
    for i in range(len(values) - 1, -1, -1):
        smallest[i] = so_far
        so_far = min(so_far, values[i])
    return smallest
