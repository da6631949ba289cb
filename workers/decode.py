"""Decode tasks: one segment of one video, window after window, in a worker process that may be killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import ray

from pipeline.decode import decode_windows
from pipeline.errors import VideoError
from pipeline.plan import Sampling, Segment, Windowing
from workers.limits import memory_limit, room_for
from workers.work import Decoded, DecodeOrder

STARTED = "started"


@ray.remote(num_returns="streaming", max_retries=0)
def _decode_segment(
    segment: Segment, windowing: Windowing, sampling: Sampling, memory_bytes: int | None
) -> Iterator[Any]:
    """Yields `STARTED`, then for each window its `Frames` and its `Decoded`, in this order.

    The driver reads the small `Decoded` and passes on a reference to the `Frames`, which it never fetches.
    """
    yield STARTED
    video = segment.video
    # Some of libav's decoders drop a picture without a word when they get no memory for it (h264: "get_buffer()
    # failed"), so room for one more is looked for beside them. 3 bytes a pixel: 10 bits, with half the chroma.
    picture_bytes = 3 * video.width * video.height
    windows = (windowing.window(video.video_id, i, video.duration_us) for i in range(segment.first, segment.last + 1))
    try:
        with memory_limit(memory_bytes):
            began = time.perf_counter()
            for window, frames in decode_windows(video, windows, sampling):
                decode_s = time.perf_counter() - began
                if not room_for(picture_bytes):
                    raise MemoryError
                yield frames
                yield Decoded(window, tuple(frames.time_us.tolist()), frames.lost_us, decode_s, frames.frame_bytes)
                del frames
                began = time.perf_counter()
    except MemoryError as error:
        limit = f"the limit of {memory_bytes / 2**20:.0f} MiB" if memory_bytes else "the memory there is"
        raise VideoError(video.uri, "memory", f"decoding it needs more than {limit}") from error


def start_decode(
    order: DecodeOrder, windowing: Windowing, sampling: Sampling, memory_bytes: int | None, cpus: float
) -> ray.ObjectRefGenerator:
    """Start decoding. The generator's task waits whenever `order.depth` windows lie ready and untaken."""
    task = _decode_segment.options(num_cpus=cpus, _generator_backpressure_num_objects=2 * order.depth)
    return task.remote(order.segment, windowing, sampling, memory_bytes)
