"""Real videos read from real servers by libav: the same answers as from a local file, for a fraction of the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest

from pipeline.decode import decode_windows
from pipeline.errors import VideoError
from pipeline.frames import Frames
from pipeline.plan import Sampling, Window
from pipeline.probe import probe
from pipeline.storage import BLOCK, LONGEST_FETCH
from pipeline.video import Video

SECONDS = 12
EACH_SECOND = [Window("v", n, n * 1_000_000, (n + 1) * 1_000_000) for n in range(SECONDS)]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 18 MB of noise in an MP4 with its index at the end, a key frame every second."""
    path = tmp_path_factory.mktemp("noisy") / "noisy.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "8", "preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size = 10
        for _ in range(SECONDS * 10):
            noise = rng.integers(0, 256, (360, 320), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="yuv420p")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert len(data) > 20 * BLOCK and data.rindex(b"moov") > len(data) - BLOCK
    return path


@pytest.fixture
def places(noisy: Path, s3_bucket: str, web: Any) -> dict[str, str]:
    data = noisy.read_bytes()
    fsspec.filesystem("s3").pipe(f"{s3_bucket}/noisy.mp4", data)
    fsspec.filesystem("memory").pipe("/noisy.mp4", data)
    web.objects["/noisy.mp4"] = data
    return {"s3": f"{s3_bucket}/noisy.mp4", "http": f"{web.url}/noisy.mp4", "memory": "memory://noisy.mp4"}


def probed(uri: str, size: int) -> Video:
    return probe(uri, size, "v", (uri,))


def frames(video: Video, start_s: int, end_s: int) -> Iterator[Frames]:
    windows = [Window("v", 0, start_s * 1_000_000, end_s * 1_000_000)]
    return (found for _, found in decode_windows(video, windows, Sampling(Fraction(2), short_side=120)))


@pytest.mark.parametrize("place", ["s3", "http", "memory"])
def test_same_video_and_frames_as_from_the_local_file(place: str, places: dict[str, str], noisy: Path) -> None:
    size = noisy.stat().st_size
    here, there = probed(str(noisy), size), probed(places[place], size)
    assert replace(there, uris=here.uris) == here
    for (one,), (other,) in zip(
        (frames(here, 0, SECONDS), frames(here, 7, 9)), (frames(there, 0, SECONDS), frames(there, 7, 9)), strict=True
    ):
        assert one.time_us.tolist() == other.time_us.tolist() and len(one) >= 4
        assert np.array_equal(one.pixels, other.pixels)


def test_probing_and_one_window_read_a_fraction(places: dict[str, str], noisy: Path, web: Any) -> None:
    size = noisy.stat().st_size
    video = probed(places["http"], size)
    probing = sum(sent for _, sent in web.sent)
    assert probing < size / 4 and len(web.sent) <= 8
    web.sent.clear()
    (found,) = frames(video, 8, 9)
    assert len(found) == 2
    # The index, a twelfth of the video, and what is read ahead.
    assert sum(sent for _, sent in web.sent) < 3 * BLOCK + size / 12 + LONGEST_FETCH / 2


def test_whole_video_is_read_about_once(places: dict[str, str], noisy: Path, web: Any) -> None:
    size = noisy.stat().st_size
    video = probed(places["http"], size)
    web.sent.clear()
    (found,) = frames(video, 0, SECONDS)
    assert len(found) == SECONDS * 2
    assert sum(sent for _, sent in web.sent) < size * 1.1 + 2 * LONGEST_FETCH
    assert len(web.sent) <= 12


@pytest.mark.parametrize(("failure", "reason"), [(503, "storage"), (403, "denied"), ("cut", "storage")])
def test_failing_storage_fails_the_video_with_its_reason(
    failure: int | str, reason: str, places: dict[str, str], noisy: Path, web: Any
) -> None:
    """A lost connection is not the end of the video, nor damage in it: trying again later makes sense."""
    video = probed(places["http"], noisy.stat().st_size)
    found = decode_windows(
        video, [Window("v", n, n * 1_000_000, (n + 1) * 1_000_000) for n in range(SECONDS)], Sampling()
    )
    next(found)
    web.failures = [failure] * 20
    with pytest.raises(VideoError) as caught:
        list(found)
    assert caught.value.reason == reason


def test_replaced_while_decoding(places: dict[str, str], noisy: Path, web: Any) -> None:
    web.tags = True
    video = probed(places["http"], noisy.stat().st_size)
    found = decode_windows(
        video, [Window("v", n, n * 1_000_000, (n + 1) * 1_000_000) for n in range(SECONDS)], Sampling()
    )
    next(found)
    web.objects["/noisy.mp4"] = web.objects["/noisy.mp4"][::-1]
    with pytest.raises(VideoError) as caught:
        list(found)
    assert caught.value.reason == "changed"
