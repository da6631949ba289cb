"""How fast the generated world is: telling stories, drawing them at several sizes, and, beside that, encoding them.

    python -m jobs.bench.world [--quick] [--json FILE]

CPU time of one thread. Drawing is set beside encoding the same frames by x264 at its quickest preset; and a story with
the 16 pictures of a training sample is timed as a whole.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from io import BytesIO
from statistics import median
from typing import Any

import av
import cv2
import numpy as np

from jobs.demo.draw import Painter, Picture
from jobs.demo.story import story
from jobs.demo.truth import events
from pipeline.plan import SECOND_US

SIZES = ((96, 96), (224, 224), (448, 448), (1080, 1080))
LENGTHS_S = (8, 60, 1200)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.world", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, no 1080 px")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    repeat = 3 if args.quick else 7
    figures: dict[str, Any] = {"stories": {}, "drawing": {}}

    print("a story of ...      CPU     events")
    for length_s in LENGTHS_S:
        seeds = range(max(2, 240 // length_s))
        worlds = [story(np.random.default_rng(seed), length_s * SECOND_US, 1.0, 1.0) for seed in seeds]
        seconds = cpu(partial(_tell, seeds, length_s), repeat) / len(seeds)
        found = sum(len(events(world)) for world in worlds) / len(worlds)
        figures["stories"][length_s] = {"cpu_s": seconds, "events": found}
        print(f"{length_s:6} s      {seconds * 1e3:7.1f} ms {found:8.1f}")

    sample = cpu(partial(_samples, range(20)), repeat) / 20
    figures["sample_cpu_s"] = sample
    print(f"\na story of 8 s and 16 pictures of 96 x 96: {sample * 1e3:.1f} ms, {1 / sample:.0f} a second\n")

    print("pictures of ...      drawn a second      drawing / encoding")
    for width, height in SIZES[: 3 if args.quick else 4]:
        painter = Painter(story(np.random.default_rng(0), 20 * SECOND_US, 1.0, 1.0), width, height)
        times = [n * 20 * SECOND_US // 150 for n in range(150)]
        pictures = [painter.frame(t) for t in times]
        drawing = cpu(partial(_draw, painter, times), repeat) / len(times)
        encoding = cpu(partial(_encode, pictures), repeat) / len(times)
        figures["drawing"][f"{width}x{height}"] = {"draw_s": drawing, "encode_s": encoding}
        print(f"{width:4} x {height:<4}      {1 / drawing:14.0f}      {drawing / encoding:14.2f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
    return 0


def cpu(act: Callable[[], object], repeat: int) -> float:
    """Seconds of CPU that `act` takes: the median of some repetitions."""
    taken = []
    for _ in range(repeat):
        began = time.process_time()
        act()
        taken.append(time.process_time() - began)
    return median(taken)


def _tell(seeds: range, length_s: int) -> None:
    for seed in seeds:
        story(np.random.default_rng(seed), length_s * SECOND_US, 1.0, 1.0)


def _samples(seeds: range) -> None:
    for seed in seeds:
        painter = Painter(story(np.random.default_rng(seed), 8 * SECOND_US, 1.0, 1.0), 96, 96)
        _draw(painter, [n * SECOND_US // 2 for n in range(16)])


def _draw(painter: Painter, times_us: list[int]) -> None:
    for time_us in times_us:
        painter.frame(time_us)


def _encode(pictures: list[Picture]) -> None:
    with av.open(BytesIO(), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    raise SystemExit(main())
