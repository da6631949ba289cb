"""H.264 frames of two encoders in one stream: each refers to parameter sets by ids, so both sets travel in the header.

ITU-T H.264 7.3.1, 7.3.2.1, 7.3.2.2, 7.4.1.2.1 and annex B; ISO/IEC 14496-15 5.3.3.1 for headers of MP4 and Matroska.
"""

from __future__ import annotations

import av

from pipeline.decode.bits import Bits
from pipeline.decode.bitstream import NalUnits

_IDR, _SPS, _PPS = 5, 7, 8
_IDS = 32  # the smaller of the ranges: seq_parameter_set_id


def nal_units(extradata: bytes) -> NalUnits:
    """Walks the NAL units of packets of a stream with these headers."""
    return NalUnits((extradata[4] & 3) + 1 if _is_avcc(extradata) else None)


def is_idr(nals: NalUnits, packet: av.Packet) -> bool:
    """Whether a packet's first slice says that nothing before it stays in the decoder."""
    kinds = (nal[0] & 31 for nal in nals(memoryview(packet)) if len(nal))
    return next((kind for kind in kinds if 1 <= kind <= _IDR), 0) == _IDR


def annex_b(nals: NalUnits, packet: av.Packet) -> bytes:
    """A packet's bytes with start codes."""
    if nals.length_size is None:
        return bytes(packet)
    return b"".join(b"\0\0\0\1" + bytes(nal) for nal in nals(memoryview(packet)))


def parameter_sets(extradata: bytes) -> list[bytes]:
    """The sequence and picture parameter sets of a stream's headers. Raises IndexError where they are damaged."""
    if not _is_avcc(extradata):
        return [bytes(nal).rstrip(b"\0") for nal in NalUnits(None)(memoryview(extradata))]
    found, position = [], 5
    for mask in (31, 255):  # numOfSequenceParameterSets has 5 bits, numOfPictureParameterSets 8
        count, position = extradata[position] & mask, position + 1
        for _ in range(count):
            size = extradata[position] << 8 | extradata[position + 1]
            found.append(extradata[position + 2 : position + 2 + size])
            position += 2 + size
    return found


def free_id(sets: list[bytes]) -> int | None:
    """An id that none of the parameter sets has, or None. Raises IndexError where they are damaged."""
    taken = {_id(nal) for nal in sets if nal[0] & 31 in (_SPS, _PPS)}
    return next((i for i in range(_IDS) if i not in taken), None)


def headers(sets: list[bytes]) -> bytes:
    """Extradata of a stream whose packets have start codes: sequence parameter sets first."""
    ordered = sorted(sets, key=lambda nal: nal[0] & 31)
    return b"".join(b"\0\0\0\1" + nal for nal in ordered if nal[0] & 31 in (_SPS, _PPS))


def _id(nal: bytes) -> int:
    bits = Bits(nal[1:32].replace(b"\0\0\3", b"\0\0"))
    if nal[0] & 31 == _SPS:
        bits.u(24)  # profile_idc, constraint flags, level_idc
    return bits.ue()


def _is_avcc(extradata: bytes) -> bool:
    return len(extradata) > 6 and extradata[0] == 1
