"""What reading a remote video costs in requests and bytes, against fsspec's own caches.

    python -m jobs.bench.storage [--quick] [--json FILE]

libav opens, probes, seeks in and reads through real containers of several sizes. Its reads and seeks are noted once and
then replayed against our block cache (pipeline/storage.py) and against the caches that fsspec opens remote files with,
at their block size of 5 MiB. The time is worked out, not waited for: LATENCY_S a request, its bytes at BANDWIDTH.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from statistics import geometric_mean

import av
import fsspec
import numpy as np
from fsspec.caching import caches

from pipeline.storage import RangeFile

LATENCY_S = 0.03
BANDWIDTH = 100e6  # bytes per second
MEMORY = "memory://bench-storage"

#: fsspec's caches: what s3fs and the HTTP filesystem use by default, and the one that keeps several blocks.
PEERS = (("readahead", 5 << 20), ("bytes", 5 << 20), ("blockcache", 5 << 20))
CONTAINERS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("mp4", ".mp4", {}),
    ("mp4 faststart", ".mp4", {"movflags": "+faststart"}),
    ("mkv", ".mkv", {}),
)
Trace = list[tuple[int, int]]


@dataclass(frozen=True)
class Cost:
    container: str
    megabytes: float
    access: str
    reader: str
    requests: int
    read_share: float  # bytes fetched / size of the object
    seconds: float  # at LATENCY_S and BANDWIDTH


class Noted(io.RawIOBase):
    """A file in memory that notes (offset, size) of every read."""

    def __init__(self, data: bytes) -> None:
        self.inner, self.trace = io.BytesIO(data), Trace()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.inner.seek(offset, whence)

    def tell(self) -> int:
        return self.inner.tell()

    def read(self, size: int = -1) -> bytes:
        self.trace.append((self.inner.tell(), size))
        return self.inner.read(size)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.storage", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="objects of 8 and 32 MB (default: to 256 MB)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    costs: list[Cost] = []
    clip = noise()
    print(f"{LATENCY_S * 1000:.0f} ms a request, {BANDWIDTH / 1e6:.0f} MB/s; ours, and the best of fsspec's caches\n")
    print(f"{'object':22} {'access':14} {'reader':14} {'requests':>8} {'read':>7} {'time':>8}")
    for megabytes in (8, 32) if args.quick else (8, 32, 128, 256):
        for name, suffix, options in CONTAINERS:
            data = repeated(clip, suffix, options, megabytes * 1_000_000)
            for access, act in ACCESSES.items():
                found = replays(data, name, access, trace_of(data, act))
                costs += found
                ours, best = found[0], min(found[1:], key=lambda cost: cost.seconds)
                for cost in (ours, best):
                    what = f"{name} {cost.megabytes:.0f} MB"
                    share = f"{cost.read_share:7.1%} {cost.seconds:7.2f}s"
                    print(f"{what:22} {access:14} {cost.reader:14} {cost.requests:8} {share}")
                print(f"{'':37} ours / best {ours.seconds / best.seconds:22.2f}")
    print()
    ours_all = [cost for cost in costs if cost.reader == "ours"]
    for name, _ in PEERS:
        theirs = [cost for cost in costs if cost.reader == name]
        time = geometric_mean(mine.seconds / other.seconds for mine, other in zip(ours_all, theirs, strict=True))
        less = fetched(ours_all) / fetched(theirs)
        print(f"ours / {name:11} time {time:5.2f} (geometric mean), bytes {less:5.2f} (all)")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump([asdict(cost) for cost in costs], file, indent=1)
    return 0


def fetched(costs: list[Cost]) -> float:
    """Megabytes."""
    return sum(cost.read_share * cost.megabytes for cost in costs)


def noise() -> bytes:
    """Two seconds of coded noise in Matroska, a key frame every second, about 5 Mbit/s."""
    rng = np.random.default_rng(0)
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "42", "preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames, stream.codec_context.thread_count = 25, 0, 1
        for _ in range(50):
            picture = rng.integers(0, 256, (540, 640), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode(None))
    return sink.getvalue()


def repeated(clip: bytes, suffix: str, options: dict[str, str], size: int) -> bytes:
    """The clip's packets over and over, in another container, until it has about `size` bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"long{suffix}")  # a file, for the index is moved to the front by reading it again
        source = av.open(io.BytesIO(clip), "r")
        packets = [(bytes(p), p.is_keyframe) for p in source.demux(video=0) if p.size]
        with source, av.open(str(path), "w", options=options) as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            for n in range(size * len(packets) // sum(len(data) for data, _ in packets)):
                data, key = packets[n % len(packets)]
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 1000), key
                packet.pts, packet.dts, packet.duration = 40 * n, 40 * n, 40
                container.mux(packet)
        return path.read_bytes()


def _look(container: av.container.InputContainer) -> None:
    """What a probe does: the first picture, and the last packets."""
    next(container.decode(video=0))
    container.seek(int((container.duration or 0) - 1_000_000))
    for _ in container.demux(video=0):
        pass


def _middle(container: av.container.InputContainer) -> None:
    """A segment in the middle: a tenth of the video."""
    length = (container.duration or 0) / 1e6
    container.seek(int(length * 0.45e6))
    for packet in container.demux(video=0):
        if packet.pts is not None and packet.time_base is not None and packet.pts * packet.time_base > length * 0.55:
            break


def _whole(container: av.container.InputContainer) -> None:
    for _ in container.demux(video=0):
        pass


ACCESSES: dict[str, Callable[[av.container.InputContainer], None]] = {
    "probe": _look,
    "a tenth of it": _middle,
    "all of it": _whole,
}


def trace_of(data: bytes, act: Callable[[av.container.InputContainer], None]) -> Trace:
    noted = Noted(data)
    with av.open(noted, "r") as container:
        act(container)
    return noted.trace


def replays(data: bytes, container: str, access: str, trace: Trace) -> list[Cost]:
    """The cost of the same reads through our cache, then through each peer's."""

    def cost(reader: str, requests: int, fetched: int) -> Cost:
        share, seconds = fetched / len(data), requests * LATENCY_S + fetched / BANDWIDTH
        return Cost(container, len(data) / 1e6, access, reader, requests, share, seconds)

    fsspec.filesystem("memory").pipe_file("/bench-storage", data)
    file = RangeFile(MEMORY)
    for offset, size in trace:
        file.seek(offset)
        file.read(size)
    costs = [cost("ours", file.requests, file.fetched_bytes)]
    for name, block in PEERS:
        fetches: list[int] = []

        def fetch(start: int, end: int, sizes: list[int] = fetches) -> bytes:
            sizes.append(min(end, len(data)) - start)
            return data[start:end]

        cache = caches[name](block, fetch, len(data))
        for offset, size in trace:
            if offset < len(data):
                cache._fetch(offset, min(offset + size, len(data)))
        costs.append(cost(name, len(fetches), sum(fetches)))
    return costs


if __name__ == "__main__":
    raise SystemExit(main())
