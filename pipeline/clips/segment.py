"""A few seconds of a video as fragmented MP4 (H.264 and AAC), for players that cannot decode the video itself.

Segments that follow each other play as one: each covers exactly its span of the video's timeline, every frame at its
own microsecond, the first one being what is on screen at the start of the span. Container: ISO/IEC 14496-12 movie
fragments, each segment with its own initialisation, as Media Source Extensions take them ("segments" mode of their byte
stream format for ISO BMFF); times count from the start of the segment.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np

from pipeline.clips.segment_sound import SegmentSound
from pipeline.clips.video import Encoded, Picture, plain
from pipeline.clock import format_time
from pipeline.decode import DecodeLimits
from pipeline.decode.source import PacketSource
from pipeline.errors import UsageError
from pipeline.plan import SECOND_US
from pipeline.stills import opened

#: What a player is told beforehand: H.264 High 4.0, AAC-LC (RFC 6381).
CODECS = "avc1.640028", "mp4a.40.2"

#: Larger pictures are made smaller: who looks at a page sees no more, and the encoder must keep up.
SHORT_SIDE = 1080

_LIMITS = DecodeLimits()
_OPTIONS = {"preset": "veryfast", "crf": "23", "bf": "0", "profile": "high", "level": "4.0"}
_MOVIE = {
    "movflags": "+empty_moov+default_base_moof+frag_discont",
    "use_editlist": "0",
    "avoid_negative_ts": "disabled",
}


def segment(
    uri: str,
    start_us: int,
    end_us: int,
    *,
    short_side: int = SHORT_SIDE,
    edit: Callable[[Picture, int], Picture] | None = None,
) -> bytes:
    """`[start_us, end_us)` of the video at `uri`, its end at the latest. There is always a sound track, silent where
    the video has none: players want to know beforehand.

    Seeks, so that it takes one group of pictures and the span, whatever the length of the video. Raises UsageError (the
    video ends before), VideoError (it cannot be read or decoded).
    """
    video = opened(uri)
    if not 0 <= start_us < min(end_us, video.duration_us):
        raise UsageError(f"{uri} is {format_time(video.duration_us)} long: nothing begins at {format_time(start_us)}")
    end_us = min(end_us, video.duration_us)
    out = io.BytesIO()
    source = PacketSource(video, _LIMITS)
    try:
        with av.open(out, "w", format="mp4", container_options=_MOVIE) as container:
            pictures = _Covering(container, source, start_us, end_us, edit, short_side, _OPTIONS)
            heard = SegmentSound(container, video, start_us, end_us)
            for _, packet in pictures.packets():
                container.mux(packet)
            for packet in heard.packets():
                container.mux(packet)
    finally:
        source.close()
    return out.getvalue()


class _Covering(Encoded):
    """Black where nothing is shown yet: players wait for ever at a time without a picture."""

    def _frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        begun = False
        for at_us, frame in super()._frames():
            if not begun and at_us > 0:
                yield 0, self._black()
            begun = True
            yield at_us, frame
        if not begun:
            yield 0, self._black()

    def _black(self) -> av.VideoFrame:
        pixels = np.zeros((self._height, self._width, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
        return plain(frame, 0, Fraction(1, SECOND_US))
