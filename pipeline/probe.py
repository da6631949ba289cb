"""What a video is, from its container and its first picture: nothing else is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.clock import parse_time
from pipeline.decode.limits import DecodeLimits
from pipeline.decode.media import has_own_zero, only, open_media, real_videos
from pipeline.decode.pictures import displayed_size, orientation, sample_aspect
from pipeline.decode.timeline import Timeline
from pipeline.errors import UsageError, VideoError
from pipeline.plan import SECOND_US, round_us
from pipeline.video import Video

_FIRST_PICTURE_PACKETS = 600  # how far to look for one picture that can be decoded
_TAIL_US = 2 * SECOND_US


def probe(
    uri: str,
    size_bytes: int,
    video_id: str,
    uris: tuple[str, ...],
    stream_index: int | None = None,
    limits: DecodeLimits | None = None,
) -> Video:
    """Looks at the container at `uri`, at its first pictures and at its last packets.

    The stream is the first moving picture that is marked as default, or `stream_index`. `duration_us` is the end of the
    frame presented last, from the last packets; where those cannot be reached (cut off, not seekable) it is what the
    container claims, which may be rounded, or guessed from the bit rate. Raises VideoError.
    """
    limits = limits or DecodeLimits()
    with open_media(uri, limits, size_bytes) as container:
        stream = _choose(uri, container, stream_index)
        context = stream.codec_context
        limits.check_picture(uri, context.width, context.height)
        only(container, stream)
        start = container.start_time or 0
        offset_us = 0 if has_own_zero(container) else start
        context.thread_count = 1
        context.options = {**context.options, "max_pixels": str(limits.max_pixels)}
        first = _first_picture(uri, container, stream)
        limits.check_picture(uri, first.width, first.height)
        turn = orientation(first)
        width, height = displayed_size(first.width, first.height, sample_aspect(stream), turn)
        limits.check_picture(uri, width, height)
        rate = stream.guessed_rate or stream.average_rate
        duration_us = _end_us(container, stream, Timeline(stream.time_base or Fraction(1, SECOND_US), offset_us))
        if duration_us <= 0 and rate:
            duration_us = _counted_us(uri, limits, stream.index, rate)
        if duration_us > limits.max_duration_us:
            hours = duration_us / SECOND_US / 3600
            raise VideoError(uri, "too_large", f"it claims to last {hours:,.0f} hours, which is not plausible")
        average = stream.average_rate if stream.duration or container.duration else None
        return Video(
            video_id=video_id,
            uris=uris,
            size_bytes=size_bytes,
            duration_us=max(0, duration_us),
            offset_us=offset_us,
            width=width,
            height=height,
            rotation=turn.rotation,
            codec=context.codec.canonical_name,
            frame_rate=float(average or rate or 0),
            stream_index=stream.index,
        )


def _choose(uri: str, container: InputContainer, index: int | None) -> VideoStream:
    streams = real_videos(container)
    if index is not None:
        streams = [s for s in streams if s.index == index]
    if not streams:
        if index is not None:
            raise VideoError(uri, "no_video", f"its stream {index} is no moving picture")
        cover = " (only a cover picture)" if container.streams.video else ""
        raise VideoError(uri, "no_video", f"it holds no moving picture{cover}")
    usable = [s for s in streams if s.codec_context is not None]
    if not usable:
        raise VideoError(uri, "unsupported", "libav has no decoder for its codec")
    return usable[0]


def _first_picture(uri: str, container: InputContainer, stream: VideoStream) -> av.VideoFrame:
    """The first picture that can be decoded."""
    problem = "no picture came out"
    packets: Iterator[av.Packet | None] = container.demux(stream)
    for _ in range(_FIRST_PICTURE_PACKETS):
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            problem, packet = str(error.strerror), None
        try:
            frames = stream.codec_context.decode(packet if packet is not None and packet.size else None)
        except av.error.FFmpegError as error:
            problem, frames = str(error.strerror), []
        if frames:
            return frames[0]
        if packet is None:
            break
    codec = stream.codec_context.name
    raise VideoError(uri, "corrupt", f"not one picture of its {codec} video can be decoded: {problem}")


def _counted_us(uri: str, limits: DecodeLimits, index: int, rate: Fraction) -> int:
    """The length of a stream without any times (a bare H.264 file): its pictures follow each other at its rate."""
    with open_media(uri, limits) as container:
        count = sum(1 for packet in container.demux(container.streams[index]) if packet.size)
    return round_us(count / rate)


def _end_us(container: InputContainer, stream: VideoStream, line: Timeline) -> int:
    """The end of the frame presented last; where a file is cut off before it, what the index or a tag says."""
    header = 0
    if stream.duration and "mov" in container.format.name:
        header = line.us((stream.start_time or 0) + stream.duration)
    elif tag := stream.metadata.get("DURATION"):  # Matroska
        with suppress(UsageError):
            header = parse_time(tag.rstrip("\0"))
    claimed = header
    if not claimed and stream.duration:
        claimed = line.us((stream.start_time or 0) + stream.duration)
    elif not claimed and container.duration:
        claimed = (container.start_time or 0) + container.duration - line.offset_us
    rate = stream.average_rate or stream.guessed_rate
    nominal_us = round(SECOND_US / rate) if rate else 0
    end_us = -1
    for back_us in (_TAIL_US, 15 * _TAIL_US):
        try:
            container.seek(line.last_pts(max(0, claimed - back_us)), stream=stream)
            for packet in container.demux(stream):
                if packet.pts is None or packet.is_discard or not packet.size:
                    continue
                length = packet.duration
                end_us = max(end_us, line.us(packet.pts + length) if length else line.us(packet.pts) + nominal_us)
        except av.error.FFmpegError:
            return max(end_us, claimed)
        if end_us >= 0:
            return end_us if header - end_us <= SECOND_US else header
    return claimed
