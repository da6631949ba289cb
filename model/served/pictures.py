"""Frames of a window as parts of a chat message, each with its own time."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from model.qwen3_vl.vllm_video import as_video
from pipeline.plan import SECOND_US

Encoding = Literal["jpeg", "png"]
JPEG_QUALITY = 95
GRID_FPS = 2  # of SGLang's sampling of videos
_GRID_SLACK_US = 50_000  # half of the tenths of a second in which times are told


def as_images(
    pixels: npt.NDArray[np.uint8], times_us: Sequence[int], encoding: Encoding, decimals: int = 1
) -> list[dict[str, Any]]:
    """Frames [T, H, W, 3] as images, each after the text of its time (relative to the window's start)."""
    parts: list[dict[str, Any]] = []
    for frame, time_us in zip(pixels, times_us, strict=True):
        url = f"data:image/{encoding};base64,{_base64(encoded(frame, encoding))}"
        parts.append({"type": "text", "text": f"<{time_us / SECOND_US:.{decimals}f} seconds>"})
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def as_vllm_video(
    pixels: npt.NDArray[np.uint8], times_us: Sequence[int], encoding: Encoding
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The message's part, and the further fields of the request: the frames are those to be seen."""
    shown, told = as_video(pixels, times_us)
    frames = ",".join(_base64(encoded(frame, encoding)) for frame in shown)
    part = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
    further = {"video": {"num_frames": -1, **told}}
    return [part], {"media_io_kwargs": further, "mm_processor_kwargs": {"do_sample_frames": False}}


def on_grid(times_us: Sequence[int]) -> bool:
    """Whether a server that samples `GRID_FPS` frames a second from 0 on sees these frames at these times: an even
    number, four at least, as Qwen's own sampling wants it."""
    step = SECOND_US // GRID_FPS
    even = len(times_us) >= 4 and len(times_us) % 2 == 0
    return even and all(abs(t - i * step) <= _GRID_SLACK_US for i, t in enumerate(times_us))


def as_mp4(pixels: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Frames at `GRID_FPS` as a video file: H.264, every picture a key frame. Sides are even."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(GRID_FPS), options={"crf": "10", "tune": "stillimage"})
        stream.height, stream.width = pixels.shape[1], pixels.shape[2]
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", 1, 0
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return [{"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{_base64(target.getvalue())}"}}]


def encoded(frame: npt.NDArray[np.uint8], encoding: Encoding) -> bytes:
    """One picture [H, W, 3], RGB, as a file. PNG keeps every pixel; JPEG of quality 95 without chroma subsampling."""
    if encoding == "jpeg":
        full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        done, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full_chroma])
    else:
        done, data = cv2.imencode(".png", frame[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"a frame of {frame.shape} cannot be written as {encoding}")
    return data.tobytes()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
