"""The pictures of a clip as packets: copied where planned and encoded anew at the edges, or all encoded anew."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace

from pipeline.clips import h264
from pipeline.clips.plan import EDGE_ENCODERS, Cut
from pipeline.decode import DecodeLimits
from pipeline.decode.bitstream import NalUnits
from pipeline.decode.media import translated
from pipeline.decode.pictures import Converter, orientation, sample_aspect
from pipeline.decode.plain import shown_frames
from pipeline.decode.source import PacketSource
from pipeline.plan import SECOND_US, Sampling

Picture = npt.NDArray[np.uint8]
#: (when it is decoded, microseconds of the clip; packet)
Timed = tuple[float, av.Packet]

_LIMITS = DecodeLimits()
_GLOBAL_HEADER = 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER: parameter sets go into the container's header
_US = Fraction(1, SECOND_US)
_OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "18"},
    "libvpx": {
        "crf": "8",
        "b": "4M",
        "deadline": "realtime",
        "cpu-used": "4",
        "auto-alt-ref": "0",
        "lag-in-frames": "0",
    },
    "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "lag-in-frames": "0"},
}


class VideoPart(Protocol):
    """`frames` and `copied` are known once `packets` has been used up."""

    frames: int
    copied: int

    def packets(self) -> Iterator[Timed]: ...


class Copied:
    """Copied packets, with frames before and after them encoded anew where the cut asks for it."""

    @classmethod
    def made(cls, container: OutputContainer, source: PacketSource, cut: Cut) -> Copied | None:
        """None where the container does not take the codec, or no encoder fits the stream; nothing is written then."""
        codec = source.stream.codec_context.codec
        if container.supported_codecs.isdisjoint({codec.name, codec.canonical_name}):
            return None
        try:
            return cls(container, source, cut)
        except (_Unfit, IndexError):
            return None

    def __init__(self, container: OutputContainer, source: PacketSource, cut: Cut) -> None:
        self.frames, self.copied = len(cut.shown), len(cut.order)
        self._source, self._cut = source, cut
        self._base = source.stream.time_base or _US
        context = source.stream.codec_context
        extradata = context.extradata or b""
        self._edges = bool(cut.head or cut.tail)
        self._nals: NalUnits | None = None
        self._extra: dict[str, str] = {}
        if self._edges and context.codec.canonical_name == "h264":
            sets = h264.parameter_sets(extradata)
            if (number := h264.free_id(sets)) is None or not sets:
                raise _Unfit
            self._nals = h264.nal_units(extradata)
            self._extra = {"bf": "0", "x264-params": f"sps-id={number}:keyint=infinite:scenecut=0"}
            extradata = h264.headers(sets + h264.parameter_sets(self._encoder().extradata or b""))
        elif self._edges:
            self._encoder()  # raises where there is none that fits
        self._stream = container.add_stream_from_template(source.stream, opaque=True)
        if self._nals is not None:
            self._stream.codec_context.extradata = extradata
        if context.codec_tag in ("hvc1", "avc1") and container.format.name in ("mp4", "mov"):
            self._stream.codec_context.codec_tag = context.codec_tag

    def packets(self) -> Iterator[Timed]:
        cut = self._cut
        times = array("q", (max(0, t - cut.zero) for t in cut.shown))
        order = array("q", (max(0, t - cut.zero) for part in (cut.head, cut.order, cut.tail) for t in part))
        # Decoding times are the presentation times in order, so early that no picture is shown before it is decoded.
        delay = max(at - shown for at, shown in zip(times, order, strict=True))
        end = max(cut.end - cut.zero, times[-1] + 1)
        for i, packet in enumerate(self._in_order()):
            after = bisect_right(times, order[i])
            length = (times[after] if after < len(times) else end) - order[i]
            if i == len(order) - 1:  # the track ends with the packet decoded last
                length = end - times[-1]
            packet.stream = self._stream
            packet.time_base = self._base
            packet.pts, packet.dts, packet.duration = order[i], times[i] - delay, length
            yield float(packet.dts * self._base) * SECOND_US, packet

    def _in_order(self) -> Iterator[av.Packet]:
        yield from self._encoded(self._cut.head)
        yield from self._copies()
        yield from self._encoded(self._cut.tail)

    def _copies(self) -> Iterator[av.Packet]:
        wanted = iter(self._cut.order)
        following = next(wanted, None)
        with translated(self._source.video.uri):
            for entry in self._source.read(self._cut.order[0]):
                if entry.pts != following:
                    continue
                packet = entry.packet
                if self._nals is not None:
                    key = packet.is_keyframe
                    packet = av.Packet(h264.annex_b(self._nals, packet))
                    packet.is_keyframe = key
                yield packet
                if (following := next(wanted, None)) is None:
                    return

    def _encoded(self, times: array[int]) -> Iterator[av.Packet]:
        if not times:
            return
        encoder, wanted = self._encoder(), set(times)
        with translated(self._source.video.uri):
            for frame, _ in shown_frames(self._source, _LIMITS, times[0]):
                pts = frame.pts
                if pts is None or pts > times[-1]:
                    break
                if pts in wanted:
                    yield from encoder.encode(plain(frame, pts, self._base))
        yield from encoder.encode(None)

    def _encoder(self) -> av.VideoCodecContext:
        """An encoder whose pictures can stand in the same stream. Raises _Unfit."""
        context = self._source.stream.codec_context
        name = EDGE_ENCODERS[context.codec.canonical_name]
        encoder = av.CodecContext.create(name, "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.width, encoder.height, encoder.pix_fmt = context.width, context.height, context.pix_fmt
        encoder.time_base = self._base
        encoder.framerate = self._source.stream.guessed_rate or Fraction(25)
        encoder.thread_count = 1
        encoder.sample_aspect_ratio = self._source.stream.sample_aspect_ratio or Fraction(0)
        for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(encoder, tag, getattr(context, tag))
        encoder.options = _OPTIONS[name] | self._extra
        encoder.flags |= _GLOBAL_HEADER
        try:
            encoder.open()
        except (av.error.FFmpegError, ValueError) as error:
            raise _Unfit from error
        return encoder


class _Unfit(Exception):
    """The stream cannot be continued by an encoder of ours."""


class Encoded:
    """Every frame encoded anew: H.264, or VP9 in WebM; upright, with square pixels, at its exact microsecond.

    `short_side`: smaller pictures, px; `options`: of the encoder, over its usual ones.
    """

    def __init__(
        self,
        container: OutputContainer,
        source: PacketSource,
        start_us: int,
        end_us: int,
        edit: Callable[[Picture, int], Picture] | None,
        short_side: int | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.frames = self.copied = 0
        self._source, self._start_us, self._end_us, self._edit = source, start_us, end_us, edit
        video, context = source.video, source.stream.codec_context
        self._width, self._height = Sampling(short_side=short_side).size(video.width, video.height)
        self._convert = Converter(
            (self._width, self._height), (video.width, video.height), sample_aspect(source.stream)
        )
        name = "libvpx-vp9" if container.format.name == "webm" else "libx264"
        stream = container.add_stream(
            name, rate=source.stream.guessed_rate or 25, options=_OPTIONS[name] | dict(options or {})
        )
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        encoder = self._stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = self._width, self._height, "yuv420p"
        encoder.time_base = _US
        encoder.thread_count = 1
        encoder.color_range = ColorRange.MPEG
        self._direct = edit is None and (context.width, context.height) == (self._width, self._height)
        self._space = Colorspace.ITU709 if min(self._width, self._height) >= 720 else Colorspace.ITU601
        if self._direct:
            for tag in ("colorspace", "color_primaries", "color_trc"):
                setattr(encoder, tag, getattr(context, tag))
        else:
            encoder.colorspace = 1 if self._space == Colorspace.ITU709 else 6  # ISO/IEC 23091-2, MatrixCoefficients

    def packets(self) -> Iterator[Timed]:
        ends: dict[int, int] = {}  # by the time at which a frame is presented, when the next one is
        before: int | None = None
        for time_us, frame in self._frames():
            if before is not None:
                ends[before] = time_us
            before = time_us
            self.frames += 1
            yield from self._timed(self._stream.encode(frame), ends)
        if before is not None:
            ends[before] = self._end_us - self._start_us
            yield from self._timed(self._stream.encode(None), ends)

    def _timed(self, packets: list[av.Packet], ends: dict[int, int]) -> Iterator[Timed]:
        for packet in packets:
            assert packet.dts is not None and packet.pts is not None
            at_us = round(packet.pts * packet.time_base * SECOND_US)
            if end_us := ends.pop(at_us, None):
                packet.duration = round((end_us - at_us) / SECOND_US / packet.time_base)
            yield float(packet.dts * packet.time_base) * SECOND_US, packet

    def _frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """(microseconds of the clip, frame) for each frame of it."""
        held: tuple[av.VideoFrame, int] | None = None
        with translated(self._source.video.uri):
            for frame, pick in shown_frames(self._source, _LIMITS, self._source.timeline.last_pts(self._start_us)):
                if pick.time_us <= self._start_us:
                    held = frame, pick.time_us
                    continue
                if held is not None:
                    yield 0, self._picture(*held, 0)
                    held = None
                if pick.time_us >= self._end_us:
                    return
                at_us = pick.time_us - self._start_us
                yield at_us, self._picture(frame, pick.time_us, at_us)
            if held is not None:
                yield 0, self._picture(*held, 0)

    def _picture(self, frame: av.VideoFrame, time_us: int, at_us: int) -> av.VideoFrame:
        turn = orientation(frame)
        upright = not (turn.transposed or turn.flip_x or turn.flip_y)
        if self._direct and upright and (frame.width, frame.height) == (self._width, self._height):
            return plain(frame.reformat(format="yuv420p", dst_color_range=ColorRange.MPEG, threads=1), at_us, _US)
        pixels = self._convert(frame)
        if self._edit is not None:
            pixels = self._edit(pixels, time_us)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        picture = picture.reformat(
            format="yuv420p", dst_colorspace=self._space, dst_color_range=ColorRange.MPEG, threads=1
        )
        return plain(picture, at_us, _US)


def plain(frame: av.VideoFrame, pts: int, base: Fraction) -> av.VideoFrame:
    """The frame at another time, its kind of picture for the encoder to choose."""
    frame.pts, frame.time_base = pts, base
    frame.pict_type = 0
    return frame
