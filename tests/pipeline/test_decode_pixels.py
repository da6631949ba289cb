"""The picture a player shows: colours by the standards' own formulas, scaling by ffmpeg's own filter, shape, turns."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace

from jobs.bench.clips import draw, read_number, write_clip
from pipeline.decode import decode_times
from pipeline.decode.pictures import Converter, Turn
from pipeline.plan import Sampling
from pipeline.probe import probe
from pipeline.video import Video

LOSSLESS = {"qp": "0", "preset": "ultrafast"}
FULL = Sampling(short_side=None)
#: Kr, Kb of ITU-R BT.601, BT.709, BT.2020
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
SPACES = {"bt601": 6, "bt709": 1, "bt2020": 9}  # ISO/IEC 23091-2, MatrixCoefficients


def look(path: Path) -> Video:
    return probe(str(path), path.stat().st_size, "0" * 32, (str(path),))


def picture_at(path: Path, t: int = 0, sampling: Sampling = FULL) -> np.ndarray:
    (answer,) = decode_times(look(path), [t], sampling)
    assert answer.pixels is not None
    return answer.pixels


def rgb_of(y: int, cb: int, cr: int, space: str, full: bool, bits: int) -> np.ndarray:
    """R'G'B' in 0 to 255 of a Y'CbCr triple, by the equations of the three recommendations."""
    one = 1 << (bits - 8)
    luma = y / ((1 << bits) - 1) if full else (y - 16 * one) / (219 * one)
    span = (1 << bits) - 1 if full else 224 * one
    blue, red = (cb - 128 * one) / span, (cr - 128 * one) / span
    kr, kb = WEIGHTS[space]
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    return 255 * np.clip([r, (luma - kr * r - kb * b) / (1 - kr - kb), b], 0, 1)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("space", WEIGHTS)
@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
def test_colours(tmp_path: Path, layout: str, space: str, full: bool) -> None:
    bits = 10 if "10" in layout else 8
    rng = np.random.default_rng(1)
    path = tmp_path / "colours.mkv"
    samples = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options=LOSSLESS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, layout
        stream.codec_context.colorspace = SPACES[space]
        stream.codec_context.color_range = 2 if full else 1
        for i in range(12):
            low, high = (0, 255) if full else (16, 235)
            triple = [int(v) << (bits - 8) for v in (rng.integers(low, high), *rng.integers(80, 176, 2))]
            samples.append(triple)
            frame = av.VideoFrame(64, 48, layout)
            for plane, value in zip(frame.planes, triple, strict=True):
                plane.update(np.full(plane.buffer_size // (bits + 7 >> 3), value, np.uint16 if bits > 8 else np.uint8))
            frame.colorspace, frame.color_range, frame.pts = SPACES[space], 2 if full else 1, i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    times = [i * 1_000_000 for i in range(12)]
    for sampling in (FULL, Sampling(short_side=24)):
        for answer, triple in zip(decode_times(look(path), times, sampling), samples, strict=True):
            expected = rgb_of(*triple, space, full, bits)
            worst = np.abs(answer.pixels.astype(float) - expected).max()
            assert worst <= 2.0, (triple, expected, answer.pixels[5, 5])


@pytest.mark.parametrize("layout", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("short_side", [60, 96, None])
def test_scaling_is_that_of_ffmpeg(tmp_path: Path, layout: str, short_side: int | None) -> None:
    path = write_clip(tmp_path / "a.mkv", "libx264", 2, options=LOSSLESS, pix_fmt=layout)
    ours = picture_at(path, 0, Sampling(short_side=short_side))
    height, width = ours.shape[:2]
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        graph = Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        flags = "bicubic+accurate_rnd+full_chroma_int"
        # Chroma lies left in H.264 (Annex E, chroma_loc_info); a filter graph must be told.
        scale = graph.add("scale", f"{width}:{height}:flags={flags}:in_chroma_loc=left")
        layout_filter, sink = graph.add("format", "rgb24"), graph.add("buffersink")
        for a, b in ((source, scale), (scale, layout_filter), (layout_filter, sink)):
            a.link_to(b)
        graph.configure()
        graph.push(frame)
        theirs = graph.pull().to_ndarray()
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("angle", "rotation"), [(0, 0), (90, 270), (180, 180), (270, 90)])
def test_rotation(tmp_path: Path, angle: int, rotation: int) -> None:
    """A phone held upright: coded lying down, with a display matrix. `angle` counter-clockwise, as libav writes it."""

    def lie_down(n: int) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(draw(n, 192, 320) if angle % 180 else draw(n, 320, 192), -angle // 90))

    path = write_clip(
        tmp_path / "turned.mp4",
        "libx264",
        5,
        picture=lie_down,
        options=LOSSLESS,
        change=lambda stream: stream.set_display_rotation(angle),
    )
    video = look(path)
    assert video.rotation == rotation
    assert (video.width, video.height) == ((192, 320) if angle % 180 else (320, 192))
    for sampling in (FULL, Sampling(short_side=96)):
        picture = picture_at(path, 100_000, sampling)
        assert picture.shape[:2] == sampling.size(video.width, video.height)[::-1]
        assert picture.flags["C_CONTIGUOUS"]
        assert read_number(picture) == 3


def test_turns_and_mirrors() -> None:
    """Every right-angled matrix against moving the pixels one by one."""
    grid = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for transposed in (False, True):
        for flip_x in (False, True):
            for flip_y in (False, True):
                turned = Turn(transposed, flip_x, flip_y).apply(grid)
                for y in range(2):
                    for x in range(3):
                        to_x, to_y = (y, x) if transposed else (x, y)
                        height, width = turned.shape[:2]
                        at = (height - 1 - to_y if flip_y else to_y, width - 1 - to_x if flip_x else to_x)
                        assert np.array_equal(turned[at], grid[y, x])
    assert [
        Turn(*t).rotation
        for t in [(False, False, False), (True, True, False), (False, True, True), (True, False, True)]
    ] == [
        0,
        90,
        180,
        270,
    ]


@pytest.mark.parametrize(
    ("aspect", "shown"), [(Fraction(2), (640, 192)), (Fraction(1, 2), (160, 192)), (Fraction(8, 9), (284, 192))]
)
def test_pixels_that_are_not_square(tmp_path: Path, aspect: Fraction, shown: tuple[int, int]) -> None:
    def change(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    path = write_clip(tmp_path / "wide.mp4", "libx264", 3, options=LOSSLESS, change=change)
    video = look(path)
    assert (video.width, video.height) == shown
    picture = picture_at(path, 0, Sampling(short_side=96))
    assert abs(picture.shape[1] / picture.shape[0] - shown[0] / shown[1]) < 0.03
    assert read_number(picture) == 0


def test_never_enlarged(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "small.mp4", "libx264", 2, size=(192, 96), options=LOSSLESS)
    assert picture_at(path, 0, Sampling(short_side=224)).shape == (96, 192, 3)


def test_another_shape_in_mid_stream(tmp_path: Path) -> None:
    """A frame of another shape is fitted whole between black bars: windows have one size."""
    convert = Converter((160, 96), (320, 192), 1.0)
    bright = np.full((96, 96, 3), 200, np.uint8)
    picture = convert(av.VideoFrame.from_ndarray(bright, "rgb24"))
    assert picture.shape == (96, 160, 3)
    assert picture[:, :32].max() == 0 and picture[:, 128:].max() == 0 and picture[:, 33:127].min() >= 198


@pytest.mark.parametrize("size", [(640, 360), (640, 480), (360, 640), (1920, 1080), (854, 480)])
def test_no_bars_where_the_size_is_rounded_to_a_large_multiple(tmp_path: Path, size: tuple[int, int]) -> None:
    """Both sides are scaled on their own, as the image processor of Qwen3-VL does: every pixel shows something."""
    bright = np.full((size[1], size[0], 3), 200, np.uint8)
    for sampling in (Sampling(short_side=None, max_pixels=8192, multiple=32), Sampling(multiple=32)):
        picture = Converter(sampling.size(*size), size, 1.0)(av.VideoFrame.from_ndarray(bright, "rgb24"))
        assert picture.shape[1::-1] == sampling.size(*size)
        assert picture.min() >= 198


def test_enums_are_those_of_the_standard() -> None:
    assert (Colorspace.ITU709, Colorspace.BT2020) == (1, 9) and ColorRange.JPEG == 2
