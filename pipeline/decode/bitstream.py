"""What a coded picture says about itself before it is decoded: can decoding start here, does any other picture need it.

Containers mark "key" packets, but a key flag can also stand on an intra refresh point, from which the picture becomes
right only after a while. H.264 and HEVC are therefore asked themselves (ITU-T H.264 7.3.1, 7.4.1, D.2.8; ITU-T H.265
7.3.1.2, 7.4.2.2), AV1 for pictures that no other needs (see av1.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import av

from pipeline.decode.av1 import Av1Units
from pipeline.decode.bits import Bits

_HEAD_BYTES = 1 << 16  # where the first slice of an Annex B picture must begin


@dataclass(frozen=True, slots=True)
class Picture:
    """`entry`: decoding can start here; every picture from here on in presentation order comes out exactly.
    `disposable`: no other picture needs it. `parameters`: the parameter sets that it carries itself."""

    entry: bool
    disposable: bool
    parameters: bytes = b""


class Inspector(Protocol):
    def picture(self, packet: av.Packet) -> Picture: ...


class ByKeyFlag:
    """Codecs whose key flag can be trusted and whose pictures are all taken as needed by others."""

    def picture(self, packet: av.Packet) -> Picture:
        return _KEY if packet.is_keyframe else _NEEDED


_KEY, _NEEDED, _DISPOSABLE = Picture(True, False), Picture(False, False), Picture(False, True)


def inspector(codec: str, extradata: bytes | None) -> Inspector:
    """The inspector for a codec (libav's canonical name) with its out-of-band headers."""
    if codec == "h264":
        return H264(extradata or b"")
    if codec == "hevc":
        return Hevc(extradata or b"")
    if codec == "av1":
        return Av1(extradata or b"")
    return ByKeyFlag()


class Av1:
    def __init__(self, extradata: bytes) -> None:
        self._units = Av1Units(extradata)

    def picture(self, packet: av.Packet) -> Picture:
        if packet.is_keyframe:
            self._units.nothing_kept(memoryview(packet))  # for its sequence header
            return _KEY
        return _DISPOSABLE if self._units.nothing_kept(memoryview(packet)) else _NEEDED


class NalUnits:
    """Walks the NAL units of a packet: length-prefixed (ISO/IEC 14496-15) or with start codes (Annex B)."""

    def __init__(self, length_size: int | None) -> None:
        self.length_size = length_size

    def __call__(self, data: memoryview) -> Iterator[bytes | memoryview]:
        return self._prefixed(data) if self.length_size else self._annex_b(data)

    def _prefixed(self, data: memoryview) -> Iterator[memoryview]:
        n, position, end = self.length_size or 4, 0, len(data)
        while position + n < end:
            start = position + n
            position = start + int.from_bytes(data[position:start], "big")
            yield data[start:position]

    def _annex_b(self, data: memoryview) -> Iterator[bytes]:
        head = bytes(data[:_HEAD_BYTES])
        start = head.find(b"\0\0\1")
        while start >= 0:
            following = head.find(b"\0\0\1", start + 3)
            nal = head[start + 3 : following if following >= 0 else len(head)]
            if nal:
                yield nal
            start = following


class H264:
    """`interlaced_possible`: a packet may hold one field, so that packets and frames need not pair up."""

    _frame_num_bits = 0  # 0: unknown

    def __init__(self, extradata: bytes) -> None:
        prefixed = len(extradata) > 6 and extradata[0] == 1
        self._nals = NalUnits((extradata[4] & 3) + 1 if prefixed else None)
        if prefixed:
            sets = NalUnits(2)(memoryview(extradata)[6:]) if extradata[5] & 31 else iter(())
        else:
            sets = self._nals(memoryview(extradata))
        self.interlaced_possible = False
        for nal in sets:
            if len(nal) and nal[0] & 31 == 7:
                self._frame_num_bits, frames_only = _sequence_parameters(bytes(nal))
                self.interlaced_possible |= not frames_only

    def picture(self, packet: av.Packet) -> Picture:
        key = packet.is_keyframe
        recovery, parameters = False, b""
        for nal in self._nals(memoryview(packet)):
            if not len(nal):
                continue
            kind = nal[0] & 31
            if 1 <= kind <= 5:  # a slice
                if not key:
                    return _NEEDED if nal[0] & 0x60 else _DISPOSABLE
                return Picture(kind == 5 or recovery, not nal[0] & 0x60, parameters)
            if key:
                if kind == 6 and not recovery:
                    recovery = _recovers_at_once(bytes(nal))
                elif kind in (7, 8):
                    parameters += bytes(nal).rstrip(b"\0")
        return _NEEDED

    def misses_between(self, before: av.Packet, after: av.Packet) -> bool:
        """Whether reference pictures are missing between two packets in decoding order (frame_num, 7.4.3)."""
        if not self._frame_num_bits:
            return False
        (a, a_is_reference), (b, _) = self._frame_num(before), self._frame_num(after)
        return a is not None and b is not None and (b - a - a_is_reference) % (1 << self._frame_num_bits) > 0

    def _frame_num(self, packet: av.Packet) -> tuple[int | None, bool]:
        for nal in self._nals(memoryview(packet)):
            if len(nal) and 1 <= nal[0] & 31 <= 5:
                bits = Bits(bytes(nal[1:32]).replace(b"\0\0\3", b"\0\0"))
                try:
                    bits.ue(), bits.ue(), bits.ue()  # first_mb_in_slice, slice_type, pic_parameter_set_id
                    return bits.u(self._frame_num_bits), bool(nal[0] & 0x60)
                except IndexError:
                    break
        return None, False


def _recovers_at_once(sei: bytes) -> bool:
    """Whether an SEI NAL unit holds a recovery point with recovery_frame_cnt 0 and exact_match_flag 1 (D.1.8)."""
    position = 1
    while position + 2 < len(sei):
        kind = size = 0
        while sei[position] == 255 and position + 2 < len(sei):
            kind, position = kind + 255, position + 1
        kind, position = kind + sei[position], position + 1
        while sei[position] == 255 and position + 1 < len(sei):
            size, position = size + 255, position + 1
        size, position = size + sei[position], position + 1
        if kind == 6 and position < len(sei):
            return sei[position] & 0xC0 == 0xC0  # ue(v) of 0 is one bit "1", then the flag
        position += size
    return False


class Hevc:
    """Sub-layer non-reference pictures are disposable only in the highest temporal sub-layer (7.4.2.2, table 7-1)."""

    interlaced_possible = False

    def __init__(self, extradata: bytes) -> None:
        prefixed = len(extradata) > 22 and extradata[0] == 1
        self._nals = NalUnits((extradata[21] & 3) + 1 if prefixed else None)
        self._top_layer = 0
        self._set_layers(_hvcc_sets(extradata) if prefixed else self._nals(memoryview(extradata)))

    def _set_layers(self, nals: Iterator[bytes | memoryview]) -> None:
        for nal in nals:
            if len(nal) > 2 and (nal[0] >> 1) & 63 == 33:  # SPS: sps_video_parameter_set_id u(4), max_sub_layers u(3)
                self._top_layer = max(self._top_layer, (nal[2] >> 1) & 7)

    def picture(self, packet: av.Packet) -> Picture:
        parameters = b""
        for nal in self._nals(memoryview(packet)):
            if len(nal) < 2:
                continue
            kind, layer = (nal[0] >> 1) & 63, (nal[1] & 7) - 1
            if kind < 32:
                if 16 <= kind <= 23:
                    return Picture(True, False, parameters)
                return _DISPOSABLE if kind < 16 and not kind & 1 and layer >= self._top_layer else _NEEDED
            if 32 <= kind <= 34:
                self._set_layers(iter((nal,)))
                parameters += bytes(nal).rstrip(b"\0")
        return _NEEDED


def _hvcc_sets(extradata: bytes) -> Iterator[memoryview]:
    """The parameter sets in an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3.1)."""
    view, position = memoryview(extradata), 23
    for _ in range(extradata[22]):
        if position + 3 > len(view):
            return
        count, position = int.from_bytes(view[position + 1 : position + 3], "big"), position + 3
        for _ in range(count):
            size = int.from_bytes(view[position : position + 2], "big")
            yield view[position + 2 : position + 2 + size]
            position += 2 + size


def _sequence_parameters(sps: bytes) -> tuple[int, bool]:
    """(bits of frame_num, frame_mbs_only_flag) of an H.264 sequence parameter set (7.3.2.1.1).

    (0, False) where it cannot be read, or where the colour planes are coded apart.
    """
    bits = Bits(sps[1:].replace(b"\0\0\3", b"\0\0"))
    try:
        profile = bits.u(8)
        bits.u(16)
        bits.ue()  # seq_parameter_set_id
        if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
            chroma = bits.ue()
            if chroma == 3 and bits.u(1):
                return 0, False
            bits.ue(), bits.ue(), bits.u(1)  # bit depths, qpprime_y_zero_transform_bypass_flag
            if bits.u(1):
                for i in range(8 if chroma != 3 else 12):
                    if bits.u(1):
                        _skip_scaling_list(bits, 16 if i < 6 else 64)
        frame_num_bits = bits.ue() + 4
        order = bits.ue()
        if order == 0:
            bits.ue()
        elif order == 1:
            bits.u(1), bits.se(), bits.se()
            for _ in range(min(bits.ue(), 255)):
                bits.se()
        bits.ue(), bits.u(1), bits.ue(), bits.ue()  # references, gaps allowed, width, height
        return frame_num_bits, bool(bits.u(1))
    except IndexError:
        return 0, False


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last
