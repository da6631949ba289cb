"""Who samples frames in `jobs.bench.decode`, each as its users would: (claimed time in s, picture) of every sample."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Sample = tuple[float, Picture]  # (claimed time in s, uint8 [H, W, 3])

RATE = 30  # of the clips, frames per second
SHORT_SIDE = 224

#: of the ffmpeg command that a worker runs
CHILD_PEAK_MB = [0.0]


def peak_mb(process: int | str) -> float:
    """The most memory that a process has held. (getrusage's figure is inherited from the process that started it.)"""
    status = Path(f"/proc/{process}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def secondsight(path: str, fps: Fraction, cores: int) -> Iterator[Sample]:
    from pipeline.decode import DecodeLimits, decode_windows
    from pipeline.plan import SECOND_US, Sampling, Windowing
    from pipeline.probe import probe

    video = probe(path, os.stat(path).st_size, "", (path,))
    windowing = Windowing(16 * SECOND_US, 0)
    windows = (windowing.window("", i, video.duration_us) for i in range(windowing.count(video.duration_us)))
    sampling = Sampling(fps=fps, short_side=SHORT_SIDE)
    for _, frames in decode_windows(video, windows, sampling, DecodeLimits(threads=cores)):
        yield from zip((frames.time_us / SECOND_US).tolist(), frames.pixels, strict=True)


def tolerant(path: str, fps: Fraction, cores: int) -> Iterator[Sample]:
    """Secondsight with --tolerance at its most: just under half of the sampling period."""
    from pipeline.decode import DecodeLimits, decode_windows
    from pipeline.plan import SECOND_US, Sampling, Window
    from pipeline.probe import probe

    video = probe(path, os.stat(path).st_size, "", (path,))
    sampling = Sampling(fps=fps, tolerance_us=int(SECOND_US / fps / 2), short_side=SHORT_SIDE)
    window = Window("", 0, 0, video.duration_us)
    for _, frames in decode_windows(video, [window], sampling, DecodeLimits(threads=cores)):
        yield from zip((frames.time_us / SECOND_US).tolist(), frames.pixels, strict=True)


def pyav_all(path: str, fps: Fraction, cores: int) -> Iterator[Sample]:
    """PyAV, decoding every frame, converting only the samples."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = cores
        stream.codec_context.thread_type = "AUTO"
        wanted = Fraction(0)
        before: Any = None
        for frame in container.decode(stream):
            at = Fraction(frame.pts or 0) * (frame.time_base or 1)
            while before is not None and wanted < at:
                yield _shrunk(before)
                wanted += 1 / fps
            before = frame
        if before is not None and wanted < before.pts * before.time_base + Fraction(1, RATE) - Fraction(1, 1000):
            yield _shrunk(before)


def _shrunk(frame: Any) -> Sample:
    width, height = _size(frame.width, frame.height)
    return float(frame.pts * frame.time_base), frame.to_ndarray(
        format="rgb24", width=width, height=height, interpolation="BICUBIC", threads=1
    )


def _size(width: int, height: int) -> tuple[int, int]:
    return round(width * SHORT_SIDE / height / 2) * 2, SHORT_SIDE


def ffmpeg_pipe(path: str, fps: Fraction, cores: int) -> Iterator[Sample]:
    """The ffmpeg command with its fps filter, raw RGB through a pipe; the time of a frame is its number / fps."""
    width, height = _size(*_shape(path))
    command = ["ffmpeg", "-v", "error", "-threads", str(cores), "-filter_threads", "1", "-i", path, "-an"]
    command += ["-vf", f"fps={fps},scale={width}:{height}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        number = 0
        while data := process.stdout.read(width * height * 3):
            if number % 4 == 0 and process.poll() is None:
                CHILD_PEAK_MB[0] = max(CHILD_PEAK_MB[0], peak_mb(process.pid))
            yield float(number / fps), np.frombuffer(data, np.uint8).reshape(height, width, 3)
            number += 1


def _shape(path: str) -> tuple[int, int]:
    import av

    with av.open(path) as container:
        context = container.streams.video[0].codec_context
        return context.width, context.height


def decord2(path: str, fps: Fraction, cores: int) -> Iterator[Sample]:
    """decord2, asked for frame numbers from its own average rate, as its users do."""
    import decord

    width, height = _size(*_shape(path))
    reader = decord.VideoReader(path, num_threads=cores, width=width, height=height)
    rate = Fraction(reader.get_avg_fps()).limit_denominator(1001)
    numbers = [int(k / fps * rate) for k in range(int(len(reader) / rate * fps) + 1) if k / fps * rate < len(reader)]
    for at in range(0, len(numbers), 16):
        some = numbers[at : at + 16]
        times = reader.get_frame_timestamp(some)[:, 0]
        yield from zip(times.tolist(), reader.get_batch(some).asnumpy(), strict=True)


def torchcodec(path: str, fps: Fraction, cores: int) -> Iterator[Sample]:
    """torchcodec in its exact mode."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    decoder: Any = VideoDecoder(path, num_ffmpeg_threads=cores, seek_mode="exact")
    width, height = _size(decoder.metadata.width, decoder.metadata.height)
    end = Fraction(decoder.metadata.end_stream_seconds).limit_denominator(90_000)
    seconds = [float(k / fps) for k in range(int(end * fps) + 1) if k / fps < end]
    for at in range(0, len(seconds), 4):
        batch = decoder.get_frames_played_at(seconds[at : at + 4])
        data = torch.nn.functional.interpolate(batch.data, (height, width), mode="bilinear", antialias=True)
        yield from zip(batch.pts_seconds.tolist(), data.permute(0, 2, 3, 1).contiguous().numpy(), strict=True)


def opencv(path: str, fps: Fraction, cores: int) -> Iterator[Sample]:
    """OpenCV: grab every frame, retrieve the samples."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, cores])
    rate = Fraction(capture.get(cv2.CAP_PROP_FPS)).limit_denominator(1001)
    number, wanted = 0, 0
    while capture.grab():
        if number == int(wanted / fps * rate):
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            picture = capture.retrieve()[1]
            small = cv2.resize(picture, _size(picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_AREA)
            yield seconds, np.ascontiguousarray(small[..., ::-1])
            wanted += 1
        number += 1


PEERS: dict[str, Callable[[str, Fraction, int], Iterator[Sample]]] = {
    "secondsight": secondsight,
    "ffmpeg-fps": ffmpeg_pipe,
    "decord2": decord2,
    "torchcodec": torchcodec,
    "opencv": opencv,
    "pyav-all": pyav_all,
    "tolerant": tolerant,
}
