"""AV1 pictures that no other picture needs (AV1 bitstream specification 5.3 to 5.9, read up to refresh_frame_flags).

All state that one AV1 frame hands to another (pixels, motion vectors, probabilities, loop filter deltas, segmentation,
film grain) travels in the eight reference slots. A frame whose refresh_frame_flags is 0 fills none of them, so that
it can be left out without a trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.decode.bits import Bits

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_KEY_FRAME, _INTRA_ONLY_FRAME, _SWITCH_FRAME = 0, 2, 3
_SELECT = 2  # "the frame header says"


@dataclass(slots=True)
class _Sequence:
    """What a sequence header says about the layout of frame headers (5.5.1)."""

    reduced: bool = False
    equal_interval: bool = False
    decoder_model: bool = False
    removal_time_bits: int = 0
    presentation_time_bits: int = 0
    points: list[tuple[int, bool]] = field(default_factory=list)  # (operating_point_idc, has a decoder model)
    frame_id_bits: int = 0
    screen_content: int = _SELECT
    integer_mv: int = _SELECT
    order_hint_bits: int = 0


class Av1Units:
    """Temporal units of one stream; remembers the sequence header. `extradata`: an AV1CodecConfigurationRecord."""

    def __init__(self, extradata: bytes) -> None:
        self._sequence: _Sequence | None = None
        self.nothing_kept(memoryview(extradata)[4:] if extradata[:1] == b"\x81" else memoryview(extradata))

    def nothing_kept(self, unit: memoryview) -> bool:
        """Whether every frame of a temporal unit leaves all reference slots as they are."""
        frames = 0
        try:
            for kind, layers, payload in _obus(unit):
                if kind == _SEQUENCE_HEADER:
                    self._sequence = _sequence(Bits(bytes(payload)))
                elif kind in (_FRAME_HEADER, _FRAME):
                    frames += 1
                    if self._sequence is None or _refreshes(self._sequence, Bits(bytes(payload[:64])), layers):
                        return False
        except IndexError:  # damaged: let the decoder judge
            return False
        return frames > 0


def _obus(unit: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(type, extension byte, payload) of each OBU (5.3)."""
    position = 0
    while position < len(unit):
        header = unit[position]
        position += 1
        extension = 0
        if header & 4:
            extension, position = unit[position], position + 1
        size = len(unit) - position
        if header & 2:
            size = shift = 0
            while True:
                byte, position = unit[position], position + 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift > 56:
                    break
        yield header >> 3 & 15, extension, unit[position : position + size]
        position += size


def _sequence(b: Bits) -> _Sequence:
    s = _Sequence()
    b.u(3 + 1)  # seq_profile, still_picture
    s.reduced = bool(b.u(1))
    if s.reduced:
        b.u(5)
        s.points = [(0, False)]
    else:
        delay_bits = 0
        if b.u(1):  # timing_info
            b.u(64)
            s.equal_interval = bool(b.u(1))
            if s.equal_interval:
                b.ue()  # uvlc() reads as ue(v) does below 2^32 - 1
            s.decoder_model = bool(b.u(1))
            if s.decoder_model:
                delay_bits = b.u(5) + 1
                b.u(32)
                s.removal_time_bits, s.presentation_time_bits = b.u(5) + 1, b.u(5) + 1
        display_delays = b.u(1)
        for _ in range(b.u(5) + 1):
            idc = b.u(12)
            if b.u(5) > 7:
                b.u(1)
            has_model = bool(s.decoder_model and b.u(1))
            if has_model:
                b.u(2 * delay_bits + 1)
            if display_delays and b.u(1):
                b.u(4)
            s.points.append((idc, has_model))
    width_bits, height_bits = b.u(4) + 1, b.u(4) + 1
    b.u(width_bits + height_bits)
    if not s.reduced and b.u(1):
        delta = b.u(4) + 2
        s.frame_id_bits = b.u(3) + delta + 1
    b.u(3)  # use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
    if not s.reduced:
        b.u(4)  # interintra and masked compound, warped motion, dual filter
        order_hint = b.u(1)
        if order_hint:
            b.u(2)
        s.screen_content = _SELECT if b.u(1) else b.u(1)
        if s.screen_content > 0:
            s.integer_mv = _SELECT if b.u(1) else b.u(1)
        if order_hint:
            s.order_hint_bits = b.u(3) + 1
    return s


def _refreshes(s: _Sequence, b: Bits, layers: int) -> bool:
    """Whether the frame header (5.9.2) fills a reference slot, or may do so."""
    if s.reduced or b.u(1):  # a still picture; show_existing_frame: costs nothing, and a key frame shown so fills all
        return True
    kind, shown = b.u(2), b.u(1)
    if shown and s.decoder_model and not s.equal_interval:
        b.u(s.presentation_time_bits)
    if not shown:
        b.u(1)
    if kind == _SWITCH_FRAME or (kind == _KEY_FRAME and shown):
        return True
    resilient = b.u(1)
    b.u(1)
    screen_content = b.u(1) if s.screen_content == _SELECT else s.screen_content
    if screen_content and s.integer_mv == _SELECT:
        b.u(1)
    b.u(s.frame_id_bits)
    b.u(1 + s.order_hint_bits)
    if kind not in (_KEY_FRAME, _INTRA_ONLY_FRAME) and not resilient:
        b.u(3)
    if s.decoder_model and b.u(1):
        temporal, spatial = layers >> 5, layers >> 3 & 3
        for idc, has_model in s.points:
            if has_model and (idc == 0 or (idc >> temporal & 1 and idc >> (spatial + 8) & 1)):
                b.u(s.removal_time_bits)
    return b.u(8) != 0
