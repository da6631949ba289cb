"""From a generated world to a video file: H.264 with exactly the frame times asked for."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np

from jobs.demo.draw import Painter, Picture
from jobs.demo.world import World
from pipeline.plan import SECOND_US, round_us

#: Containers whose own zero is kept by players, so that a late first frame stays late (DESIGN.md, "Time").
OWN_ZERO = (".mp4", ".mov", ".mkv")


@dataclass(frozen=True, slots=True)
class Recording:
    """How a world is recorded. `width` x `height` in px; `rate` in frames per second (of a variable one: the most);
    `gop`: frames from one key frame to the next; `start_us`: raw timestamp of the first frame.
    """

    width: int = 640
    height: int = 360
    rate: Fraction = Fraction(25)
    variable: bool = False
    gop: int = 50
    b_frames: int = 2
    start_us: int = 0
    crf: int = 20


@dataclass(frozen=True, slots=True)
class Ticks:
    """Frame times as a container holds them: `pts` in units of `time_base` seconds, from 0, and the end of the last."""

    pts: tuple[int, ...]
    end: int
    time_base: Fraction

    @property
    def times_us(self) -> list[int]:
        return [self.us(tick) for tick in self.pts]

    @property
    def end_us(self) -> int:
        return self.us(self.end)

    def us(self, tick: int) -> int:
        return round_us(tick * self.time_base)


def ticks(recording: Recording, suffix: str, duration_us: int, seed: int = 0) -> Ticks:
    """When the frames of a recording of `duration_us` are shown. A variable rate holds some frames for two or three
    intervals and lets others come a little early or late, as screen recordings and phones do.
    """
    grid = {".ts": Fraction(1, 90_000), ".mkv": Fraction(1, 1000)}.get(suffix)
    if grid is None:
        grid = Fraction(1, 90_000) if recording.variable else 1 / recording.rate
    frames = int(Fraction(duration_us, SECOND_US) * recording.rate)
    pts = np.array([round(Fraction(n) / recording.rate / grid) for n in range(frames + 1)])
    if recording.variable:
        rng = np.random.default_rng(seed)
        keep, at = [], 0
        while at < frames:
            keep.append(at)
            at += int(rng.choice((1, 2, 3), p=(0.6, 0.3, 0.1)))
        early = rng.integers(0, pts[1] // 3 + 1, len(keep))
        early[0] = 0
        pts = np.append(pts[keep] - early, pts[frames])
    return Ticks(tuple(int(p) for p in pts[:-1]), int(pts[-1]), grid)


def encode(path: Path, world: World, recording: Recording, when: Ticks) -> None:
    """Write `world` as the video `path`; its suffix chooses the container (.mp4, .mov, .mkv, .ts)."""
    painter = Painter(world, recording.width, recording.height)
    # MPEG-TS: our own timestamps, without an added delay. MP4: the index in front, as for the web.
    options = {".ts": {"mpegts_copyts": "1"}, ".mp4": {"movflags": "+faststart"}}.get(path.suffix, {})
    options["fflags"] = "+bitexact"  # no random identifiers, no dates
    first = round(Fraction(recording.start_us, SECOND_US) / when.time_base)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=recording.rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = recording.width, recording.height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = when.time_base
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = recording.gop, recording.b_frames
        stream.codec_context.thread_count = 1  # and so the same bytes every time
        stream.options = {"crf": str(recording.crf), "preset": "veryfast"}
        held = {first + t: end - t for t, end in zip(when.pts, (*when.pts[1:], when.end), strict=True)}
        for tick in when.pts:
            # Ten times as fast as swscale; BT.601 as that, and as players take small pictures to be.
            planes = cast(Picture, cv2.cvtColor(painter.frame(when.us(tick)), cv2.COLOR_RGB2YUV_I420))
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = first + tick, when.time_base
            _mux(container, stream.encode(frame), held)
        _mux(container, stream.encode(None), held)


def _mux(container: av.container.OutputContainer, packets: list[av.Packet], held: dict[int, int]) -> None:
    for packet in packets:
        if packet.pts is not None:
            packet.duration = held[packet.pts]
        container.mux(packet)
