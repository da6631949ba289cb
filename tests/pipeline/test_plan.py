"""Sampling grid, windows and segments: nothing missed, nothing shifted, whatever the cut."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import Sampling, Windowing, round_us, segments
from pipeline.video import Video

rates = st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(2), Fraction(3), Fraction(24000, 1001), Fraction(7, 3)])
instants = st.integers(0, 20_000_000)


def a_video(duration_us: int) -> Video:
    return Video("0" * 32, ("clip.mp4",), 1, duration_us, 0, 640, 360, 0, "h264", 25.0, 0)


@given(rates, instants, instants, instants)
def test_grid_does_not_depend_on_where_the_span_is_cut(fps: Fraction, a: int, b: int, c: int) -> None:
    start, middle, end = sorted((a, b, c))
    sampling = Sampling(fps=fps)
    whole = list(sampling.times_us(start, end))
    assert whole == list(sampling.times_us(start, middle)) + list(sampling.times_us(middle, end))


@given(rates, instants, instants)
def test_grid_is_every_multiple_of_the_period(fps: Fraction, a: int, b: int) -> None:
    start, end = sorted((a, b))
    every = [round_us(k / fps) for k in range(int(end * fps / 1_000_000) + 2)]
    assert list(Sampling(fps=fps).times_us(start, end)) == [t for t in every if start <= t < end]


@pytest.mark.parametrize(
    ("seconds", "us"),
    [
        (Fraction(1, 3), 333_333),
        (Fraction(2, 3), 666_667),
        (Fraction(1, 2_000_000), 1),
        (Fraction(-1, 2_000_000), -1),
        (Fraction(-1, 3), -333_333),
    ],
)
def test_rounding_is_to_nearest_and_halves_away_from_zero(seconds: Fraction, us: int) -> None:
    assert round_us(seconds) == us


@given(st.integers(1, 100_000_000), st.integers(1_000_000, 20_000_000), st.integers(0, 900_000))
def test_windows_cover_the_video_and_none_is_superfluous(duration: int, length: int, overlap: int) -> None:
    windowing = Windowing(length, overlap)
    windows = [windowing.window("v", i, duration) for i in range(windowing.count(duration))]
    assert windows[0].start_us == 0 and windows[-1].end_us == duration
    for before, after in pairwise(windows):
        assert before.end_us - after.start_us == overlap
        assert after.end_us > before.end_us


def test_an_empty_video_has_no_windows() -> None:
    assert Windowing().count(0) == 0
    assert list(segments(a_video(0), Windowing(), 60_000_000)) == []


@given(st.integers(1, 400_000_000), st.integers(1, 90_000_000))
def test_segments_hold_each_window_once_in_order(duration: int, segment_us: int) -> None:
    windowing = Windowing()
    cut = list(segments(a_video(duration), windowing, segment_us))
    indices = [i for s in cut for i in range(s.first, s.last + 1)]
    assert indices == list(range(windowing.count(duration)))


@pytest.mark.parametrize(
    ("sampling", "shown", "expected"),
    [
        (Sampling(short_side=224), (1920, 1080), (398, 224)),
        (Sampling(short_side=224), (1080, 1920), (224, 398)),
        (Sampling(short_side=224), (160, 120), (160, 120)),
        (Sampling(short_side=None), (641, 359), (640, 360)),
        (Sampling(short_side=None, max_pixels=100_000, multiple=32), (1920, 1080), (416, 224)),
        (Sampling(short_side=224), (30_000, 2), (30_000, 2)),
        (Sampling(short_side=2), (1, 1), (2, 2)),
    ],
)
def test_sizes_are_even_never_enlarged_and_keep_the_shape(
    sampling: Sampling, shown: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert sampling.size(*shown) == expected
