"""decord as the decoder, for files where it is exact; it refuses all others and says why.

decord (here its maintained fork, decord2) numbers frames and knows times only as 32-bit floats. It is silently wrong on
edit lists, open GOPs, variable frame rates, rotation, pixels that are not square, 10 bit, MPEG-TS and fragmented MP4.
So the container's own packets say which times its frame numbers stand for, and every such file is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from pipeline.decode.engine import Answer
from pipeline.decode.limits import DecodeLimits
from pipeline.decode.pictures import Converter
from pipeline.decode.source import PacketSource
from pipeline.errors import UsageError, VideoError
from pipeline.plan import SECOND_US, Sampling
from pipeline.storage import local_path
from pipeline.video import Video

_DIFFERENCE = 4.0  # mean difference of pixels, of 255, beyond which decord shows another picture


def decord_answers(video: Video, times: Iterator[int], sampling: Sampling, limits: DecodeLimits) -> Iterator[Answer]:
    """As `engine.answers`. Raises VideoError (inexact) before the first answer where decord would be wrong."""
    try:
        import decord
    except ImportError as error:
        raise UsageError("--decoder decord needs its library: pip install 'secondsight[decord]'") from error
    path = local_path(video.uri)
    if path is None:
        raise _inexact(video, "it reads local files only")
    spans = _spans(video, limits)
    try:
        reader = decord.VideoReader(path, num_threads=max(1, limits.threads))
        if len(reader) != len(spans):
            raise _inexact(video, f"it counts {len(reader)} frames where the container presents {len(spans)}")
        starts = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)[:, 0] * SECOND_US
        off = np.abs(starts - [start for start, _ in spans])
        # a 32-bit float resolves a 10-hour time to 2 ms; half of a frame's length would already be another frame
        if off.max() > max(1000.0, spans[-1][0] * 2e-7):
            raise _inexact(video, f"its times are {off.max() / 1000:.1f} ms off the container's")
        yield from _read(video, reader, spans, times, sampling, limits)
    except decord.DECORDError as error:
        raise VideoError(video.uri, "corrupt", f"decord failed ({str(error).splitlines()[0][:200]})") from error


def _read(
    video: Video,
    reader: Any,
    spans: list[tuple[int, int]],
    times: Iterator[int],
    sampling: Sampling,
    limits: DecodeLimits,
) -> Iterator[Answer]:
    convert = Converter(sampling.size(video.width, video.height), (video.width, video.height), 1.0)
    starts = [start for start, _ in spans]
    shown = -1
    pixels = None
    for t in times:
        i = bisect_right(starts, t) - 1
        if i < 0 or t >= video.duration_us:
            continue
        if i != shown:
            picture = np.ascontiguousarray(reader[i].asnumpy())
            if shown < 0:
                _compare(video, starts[i], picture, limits)
            pixels = convert(av.VideoFrame.from_ndarray(picture, "rgb24"))
            shown = i
        yield Answer(t, spans[i][0], spans[i][1], pixels)


def _compare(video: Video, time_us: int, picture: np.ndarray, limits: DecodeLimits) -> None:
    """Refuses where decord's first picture is not the one that libav gives (its colours, its cropping, its frame)."""
    from pipeline.decode.engine import answers

    own = next(answers(video, iter([time_us]), Sampling(short_side=None), limits), None)
    if own is None or own.pixels is None or own.time_us != time_us:
        raise _inexact(video, "its first picture cannot be checked")
    height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    if own.pixels.shape != (height, width, 3):
        raise _inexact(video, f"it gives {picture.shape[1]}x{picture.shape[0]} pictures")
    if np.abs(own.pixels.astype(np.int16) - picture[:height, :width]).mean() > _DIFFERENCE:
        raise _inexact(video, "its pictures have other colours or are other pictures")


def _spans(video: Video, limits: DecodeLimits) -> list[tuple[int, int]]:
    """[start, end) of every presented frame, from the packets. Raises VideoError (inexact) where decord would err."""
    source = PacketSource(video, limits)
    try:
        if not source.timed(frozenset({"mov", "matroska"})):
            raise _inexact(video, "it takes the times of MP4, MOV, Matroska and WebM files only")
        if video.offset_us or video.rotation:
            raise _inexact(video, "it does not turn the picture" if video.rotation else "it does not know its zero")
        context = source.stream.codec_context
        if context.pix_fmt != "yuv420p" or context.color_range == 2:
            raise _inexact(video, f"it shows {context.pix_fmt} pictures in other colours")
        aspect = source.stream.sample_aspect_ratio
        if aspect and aspect != 1:
            raise _inexact(video, "its pixels are not square, which it leaves out of account")
        if source.stream.index != source.first_video():
            raise _inexact(video, "it reads a file's first video stream only")
        times: list[int] = []
        head: int | None = None
        for entry in source.read(source.timeline.last_pts(0)):
            if entry.pts is None:
                raise _inexact(video, "the container has no presentation times")
            if not entry.shown:
                raise _inexact(video, "an edit list hides frames, which it shows")
            if entry.packet.is_keyframe:
                head = entry.pts
                if not entry.entry:
                    raise _inexact(video, "key frames are marked where decoding cannot begin")
            elif head is not None and entry.pts < head:
                raise _inexact(video, "its GOPs are open, and it drops or misplaces the frames between them")
            times.append(source.timeline.us(entry.pts))
    finally:
        source.close()
    times.sort()
    if not times or times[0] != 0:
        raise _inexact(video, "its first frame is not at zero, where it puts it")
    steps = np.diff(times)
    if len(steps) and steps.max() - steps.min() > 1001:
        raise _inexact(video, "its frame rate varies")
    return list(zip(times, [*times[1:], video.duration_us], strict=True))


def _inexact(video: Video, why: str) -> VideoError:
    return VideoError(video.uri, "inexact", f"decord would be wrong here: {why}; use --decoder pyav")
