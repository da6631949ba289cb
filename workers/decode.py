"""Decode tasks: segments of videos, window after window, in a worker process that may be killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.decode.windows import decode_steps
from pipeline.errors import VideoError
from pipeline.frames import Frames
from pipeline.plan import Sampling, Segment, Window, Windowing
from workers.limits import memory_limit, room_for
from workers.work import Decoded, DecodeOrder, Parcel

STARTED = "started"
PARCEL_S = 0.2  # a parcel leaves after so long even if it is not full
ALIVE_S = 5.0  # while what is to be hidden is looked for, an empty one leaves after so long: it is no standstill


@ray.remote(num_returns="streaming", max_retries=0)
def _decode_segments(
    segments: tuple[Segment, ...],
    windowing: Windowing,
    sampling: Sampling,
    memory_bytes: int | None,
    parcel_windows: int,
) -> Iterator[Any]:
    """Yields the id of its node, then for each parcel the list of its `Frames` and its `Parcel`, in this order.

    The driver reads the small `Parcel` and passes on a reference to the frames, which it never fetches. What goes wrong
    with one segment is told in the parcel, and the next one is decoded; only when memory ran out the task ends there.
    """
    node = ray.get_runtime_context().get_node_id()
    yield node
    frames: list[Frames] = []
    decoded: list[Decoded] = []
    since = time.monotonic()
    for place, segment in enumerate(segments):
        failed: dict[int, tuple[str, str]] = {}
        exhausted = False
        try:
            with memory_limit(memory_bytes):
                for step in _windows(segment, windowing, sampling):
                    if step is None:
                        if time.monotonic() - since >= ALIVE_S:
                            yield frames
                            yield Parcel(tuple(decoded), node=node)
                            frames, decoded, since = [], [], time.monotonic()
                        continue
                    window, seen, decode_s = step
                    frames.append(seen)
                    decoded.append(
                        Decoded(window, tuple(seen.time_us.tolist()), seen.lost_us, decode_s, seen.frame_bytes)
                    )
                    if len(decoded) >= parcel_windows or time.monotonic() - since >= PARCEL_S:
                        yield frames
                        yield Parcel(tuple(decoded), node=node)
                        frames, decoded, since = [], [], time.monotonic()
        except VideoError as error:
            failed[place] = error.reason, error.detail
        except MemoryError:
            limit = f"the limit of {memory_bytes / 2**20:.0f} MiB" if memory_bytes else "the memory there is"
            failed[place] = "memory", f"decoding it needs more than {limit}"
            exhausted = True
        except Exception as error:  # noqa: BLE001 - whatever a library does with hostile bytes
            failed[place] = "crash", f"{type(error).__name__}: {str(error)[:300]}"
        if failed or (decoded and place + 1 == len(segments)):
            yield frames
            yield Parcel(tuple(decoded), failed, node)
            frames, decoded, since = [], [], time.monotonic()
        if exhausted:
            return


def _windows(
    segment: Segment, windowing: Windowing, sampling: Sampling
) -> Iterator[tuple[Window, Frames, float] | None]:
    """Each window of a segment with its frames and how long decoding it took; None between (`decode_steps`). Raises
    MemoryError, VideoError."""
    video = segment.video
    # Some of libav's decoders drop a picture without a word when they get no memory for it (h264: "get_buffer()
    # failed"), so room for one more is looked for beside them. 3 bytes a pixel: 10 bits, with half the chroma.
    picture_bytes = 3 * video.width * video.height
    windows = (windowing.window(video.video_id, i, video.duration_us) for i in range(segment.first, segment.last + 1))
    began = time.perf_counter()
    for step in decode_steps(video, windows, sampling):
        if step is None:
            yield None
            continue
        window, frames = step
        decode_s = time.perf_counter() - began
        if not room_for(picture_bytes):
            raise MemoryError
        yield window, frames, decode_s
        began = time.perf_counter()


def start_decode(
    order: DecodeOrder,
    windowing: Windowing,
    sampling: Sampling,
    memory_bytes: int | None,
    cpus: float,
    near: str | None = None,
    task: Any = _decode_segments,
) -> ray.ObjectRefGenerator:
    """Start decoding, on node `near` if it has room. Its task waits when `order.depth` parcels lie ready and untaken.

    `task`: a stand-in for `_decode_segments`, with the same arguments and pieces.
    """
    options: dict[str, Any] = {"num_cpus": cpus, "_generator_backpressure_num_objects": 2 * order.depth}
    if near is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(near, soft=True, _spill_on_unavailable=True)
    return task.options(**options).remote(order.segments, windowing, sampling, memory_bytes, order.parcel_windows)
