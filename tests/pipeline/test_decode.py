"""Decoding by packets against a plain decode of every frame: the same frames, times and pixels, whatever is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.bench.clips import read_number, write_clip
from pipeline.decode import DecodeLimits, decode_times, decode_windows
from pipeline.decode.bitstream import inspector
from pipeline.decode.pictures import Converter
from pipeline.decode.schedule import Schedule, Times
from pipeline.decode.source import PacketSource
from pipeline.errors import UsageError
from pipeline.plan import SECOND_US, Sampling, Window, Windowing, round_us
from pipeline.probe import probe
from pipeline.video import Video

X264 = {"preset": "veryfast", "crf": "28"}
OPEN_GOP = {**X264, "x264-params": "open-gop=1:keyint=40:bframes=4:b-pyramid=normal:b-adapt=0"}
X265 = "log-level=error:pools=none:frame-threads=1:keyint=40:min-keyint=40:bframes=4:b-pyramid=1"

#: name -> arguments of write_clip
CLIPS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "closed.mp4": (("libx264", 150), {"options": {**X264, "g": "60"}}),
    "open.mp4": (("libx264", 150), {"options": OPEN_GOP}),
    "open.ts": (("libx264", 150), {"options": OPEN_GOP}),
    "open.mkv": (("libx264", 150), {"options": OPEN_GOP}),
    "fragmented.mp4": (
        ("libx264", 150),
        {"options": OPEN_GOP, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    "refresh.mkv": (("libx264", 150), {"options": {**X264, "x264-params": "intra-refresh=1:keyint=40"}}),
    "interlaced.ts": (("libx264", 100), {"options": {**X264, "x264-params": "tff=1:keyint=40"}}),
    "hevc_open.mp4": (("libx265", 100), {"options": {"preset": "ultrafast", "x265-params": f"{X265}:open-gop=1"}}),
    "hevc_layers.mkv": (
        ("libx265", 100),
        {"options": {"preset": "ultrafast", "x265-params": f"{X265}:temporal-layers=3"}},
    ),
    "vp8.webm": (("libvpx", 100), {"options": {"deadline": "realtime", "cpu-used": "8", "g": "50", "b": "400k"}}),
    "vp9.webm": (
        ("libvpx-vp9", 100),
        {"options": {"deadline": "realtime", "cpu-used": "8", "g": "50", "b": "400k", "threads": "1"}},
    ),
    "av1.mp4": (("libsvtav1", 130), {"options": {"preset": "12", "g": "64", "svtav1-params": "lp=1"}}),
    "mpeg2.ts": (("mpeg2video", 100), {"options": {"g": "15", "bf": "2", "b": "3M"}}),
    "mpeg4.avi": (("mpeg4", 100), {"options": {"g": "30", "bf": "2", "b": "3M"}}),
    "mjpeg.mov": (("mjpeg", 45), {"options": {"q": "3"}, "pix_fmt": "yuvj420p"}),
    "bare.h264": (("libx264", 90), {"options": {**X264, "g": "40"}}),
    # Times with gaps and bursts; nothing for the first 0.7 s.
    "vfr.mp4": (
        ("libx264", 120),
        {
            "options": OPEN_GOP,
            "pts": np.cumsum(np.random.default_rng(3).choice([150, 900, 3000, 21000, 63000], 120)).tolist(),
            "time_base": Fraction(1, 90_000),
        },
    ),
}
SMALL = Sampling(short_side=96)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a clip of CLIPS when it is first asked for."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            args, kwargs = CLIPS[name]
            write_clip(path, *args, **kwargs)
        return path

    return make


def look(path: Path | str) -> Video:
    return probe(str(path), Path(path).stat().st_size, "0" * 32, (str(path),))


def plainly(path: Path, video: Video, sampling: Sampling) -> list[tuple[int, np.ndarray]]:
    """(time_us, pixels) of every frame, in order, from PyAV's own decode loop."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        convert = Converter(sampling.size(video.width, video.height), (video.width, video.height), 1.0)
        for i, frame in enumerate(container.decode(stream)):
            seconds = Fraction(i) / 30 if frame.pts is None else frame.pts * stream.time_base
            frames.append((round_us(seconds) - video.offset_us, convert(frame)))
    return frames


@pytest.mark.parametrize("name", CLIPS)
def test_the_same_as_a_plain_decode(clip: Callable[[str], Path], name: str) -> None:
    path = clip(name)
    video = look(path)
    truth = plainly(path, video, SMALL)
    assert [read_number(pixels) for _, pixels in truth] == list(range(CLIPS[name][0][1]))
    for fps, threads, start_us in [
        ("1/2", 1, 0),
        (1, 2, 0),
        (3, 1, 2_100_000),
        (3, 2, 0),
        (30, 1, 0),
        (30, 1, 2_900_000),
    ]:
        sampling = replace(SMALL, fps=Fraction(fps))
        times = list(sampling.times_us(start_us, video.duration_us))
        found = {a.at_us: a for a in decode_times(video, times, sampling, DecodeLimits(threads=threads))}
        for t in times:
            shown = max((i for i, (time_us, _) in enumerate(truth) if time_us <= t), default=None)
            if shown is None:
                assert t not in found
                continue
            assert found[t].time_us == truth[shown][0], (fps, threads, start_us, t)
            assert found[t].end_us == (truth[shown + 1][0] if shown + 1 < len(truth) else video.duration_us)
            assert np.array_equal(found[t].pixels, truth[shown][1]), (fps, threads, start_us, t)


def test_windows_begun_late_are_the_same(clip: Callable[[str], Path]) -> None:
    """Overlapping windows of one pass equal each window asked for alone."""
    video = look(clip("vfr.mp4"))
    sampling = replace(SMALL, fps=Fraction(3))
    windowing = Windowing(2 * SECOND_US, SECOND_US // 2)
    windows = [windowing.window("", i, video.duration_us) for i in range(windowing.count(video.duration_us))]
    together = list(decode_windows(video, iter(windows), sampling))
    assert [w for w, _ in together] == windows
    assert sum(len(f) for _, f in together) > 40
    for window, frames in together:
        ((_, alone),) = decode_windows(video, [window], sampling)
        assert np.array_equal(frames.pixels, alone.pixels)
        assert frames.time_us.tolist() == alone.time_us.tolist()
        assert frames.end_us.tolist() == alone.end_us.tolist()
        assert (np.diff(frames.time_us) > 0).all() and (frames.end_us > frames.time_us).all()
        assert frames.lost_us == ()


def test_nothing_is_upsampled(tmp_path: Path) -> None:
    """Each frame of a 0.2 fps video comes once per window at 2 fps, with its span."""
    path = write_clip(tmp_path / "slow.mp4", "libx264", 4, rate=Fraction(1, 5), options=X264)
    video = look(path)
    assert video.duration_us == 20_000_000
    ((_, frames),) = decode_windows(video, [Window("", 0, 0, 20_000_000)], SMALL)
    assert frames.time_us.tolist() == [0, 5_000_000, 10_000_000, 15_000_000]
    assert frames.end_us.tolist() == [5_000_000, 10_000_000, 15_000_000, 20_000_000]
    ((_, frames),) = decode_windows(video, [Window("", 1, 7_000_000, 9_000_000)], SMALL)
    assert frames.time_us.tolist() == [5_000_000]  # on screen since before the window


def test_windows_in_which_nothing_is_shown(clip: Callable[[str], Path]) -> None:
    video = look(clip("vfr.mp4"))
    late = video.duration_us + SECOND_US
    windows = [Window("", 0, 0, 1000), Window("", 1, 1001, 1002), Window("", 2, late, late + SECOND_US)]
    for (window, frames), expected in zip(decode_windows(video, windows, SMALL), windows, strict=True):
        assert window == expected and len(frames) == 0 and frames.lost_us == ()
        assert frames.pixels.shape == (0, 96, 160, 3)


def test_sparse_times_jump(clip: Callable[[str], Path], tmp_path: Path) -> None:
    """Times far apart are sought, not read up to; a list of times need not be steady."""
    path = write_clip(
        tmp_path / "long.mp4", "libx264", 600, rate=4, size=(192, 96), options={**X264, "g": "8", "bf": "2"}
    )
    video = look(path)
    times = [0, 10, 40_000_001, 40_300_000, 111_111_111, 149_999_999]
    answers = list(decode_times(video, times, SMALL))
    assert [read_number(a.pixels) for a in answers] == [t * 4 // SECOND_US for t in times]
    source = PacketSource(video, DecodeLimits())
    schedule = Schedule(source, Times(iter(times)), 0, parallel=False)
    sent = sum(len(batch.entries) for batch in schedule.batches())
    source.close()
    assert sent < 30


def test_what_nobody_needs_is_not_decoded(clip: Callable[[str], Path]) -> None:
    """Counts the packets that are sent: the point of it all."""
    for name, most in [("closed.mp4", 0.62), ("hevc_open.mp4", 0.5), ("av1.mp4", 0.75)]:
        video = look(clip(name))
        source = PacketSource(video, DecodeLimits())
        times = Sampling(fps=Fraction(1)).times_us(0, video.duration_us)
        sent = sum(len(b.entries) for b in Schedule(source, Times(times), 0, parallel=False).batches())
        source.close()
        assert 0 < sent < most * CLIPS[name][0][1], name


@pytest.mark.parametrize("name", ["closed.mp4", "open.ts", "vfr.mp4"])
def test_tolerance_takes_cheaper_frames_with_true_times(clip: Callable[[str], Path], name: str) -> None:
    path = clip(name)
    video = look(path)
    truth = dict(plainly(path, video, SMALL))
    near = replace(SMALL, fps=Fraction(1), tolerance_us=300_000)
    times = list(near.times_us(0, video.duration_us))
    exact = {a.at_us: a for a in decode_times(video, times, replace(near, tolerance_us=0))}
    off = 0
    for answer in decode_times(video, times, near):
        assert np.array_equal(answer.pixels, truth[answer.time_us])
        if answer.time_us != exact[answer.at_us].time_us:
            assert abs(answer.time_us - answer.at_us) <= 300_000
            off += 1
    assert off


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.integers(0, 5_100_000), min_size=1, max_size=12, unique=True), threads=st.integers(1, 2))
def test_any_list_of_times(clip: Callable[[str], Path], times: list[int], threads: int) -> None:
    video = look(clip("open.mkv"))
    times = sorted(times)
    for answer in decode_times(video, times, SMALL, DecodeLimits(threads=threads)):
        number = min(answer.at_us * 30 // SECOND_US + 1, 149)
        while abs(answer.time_us - number * SECOND_US / 30) > 501:  # Matroska's clock ticks in milliseconds
            number -= 1
        assert read_number(answer.pixels) == number
        assert answer.time_us <= answer.at_us < answer.end_us or answer.at_us >= video.duration_us - 1000


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """One endless GOP: nothing is ever complete, and still nothing piles up. In processes of their own: peaks stay."""
    options = {**X264, "g": "9999"}
    peaks_kb = []
    for count in (300, 2400):
        path = write_clip(tmp_path / f"{count}.mp4", "libx264", count, size=(192, 96), options=options)
        code = f"""
import os
from pipeline.decode import decode_windows
from pipeline.plan import Sampling, Windowing
from pipeline.probe import probe
video = probe({str(path)!r}, os.path.getsize({str(path)!r}), "", ({str(path)!r},))
windowing = Windowing(4_000_000, 0)
windows = (windowing.window("", i, video.duration_us) for i in range(windowing.count(video.duration_us)))
print(sum(len(frames) for _, frames in decode_windows(video, windows, Sampling(short_side=96))))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
        )
        frames, peak_kb = map(int, done.stdout.split())
        assert frames == count // 15
        peaks_kb.append(peak_kb)
    assert peaks_kb[1] - peaks_kb[0] < 12 * 1024, peaks_kb


def test_remote_files_are_read_by_range(clip: Callable[[str], Path]) -> None:
    data = clip("open.mp4").read_bytes()
    fsspec.filesystem("memory").pipe_file("/films/open.mp4", data)
    uri = "memory://films/open.mp4"
    video = probe(uri, len(data), "0" * 32, (uri,))
    local = look(clip("open.mp4"))
    assert replace(video, uris=()) == replace(local, uris=())
    times = [0, 1_500_000, 4_400_000]
    for there, here in zip(decode_times(video, times, SMALL), decode_times(local, times, SMALL), strict=True):
        assert there.time_us == here.time_us and np.array_equal(there.pixels, here.pixels)


def test_nasa_times_are_those_of_ffprobe(shared_videos: Path) -> None:
    """Every sampled time equals ffprobe's presentation time; both video streams, many rates."""
    path = shared_videos / "nasa_13013.mp4"
    for index in (0, 3):
        info = json.loads((shared_videos / f"nasa_13013.mp4.stream{index}.all_frames_info.json").read_text())
        reference = [round_us(Fraction(frame["pts_time"])) for frame in info]
        video = probe(str(path), path.stat().st_size, "0" * 32, (str(path),), stream_index=index)
        assert (video.stream_index, video.codec, video.offset_us) == (index, "h264", 0)
        for fps in (Fraction(1), Fraction(2), Fraction(30000, 1001)):
            window = Window("", 0, 0, video.duration_us)
            ((_, frames),) = decode_windows(video, [window], replace(SMALL, fps=fps))
            wanted = {max(r for r in reference if r <= t) for t in Sampling(fps=fps).times_us(0, video.duration_us)}
            assert frames.time_us.tolist() == sorted(wanted)
            following = dict(pairwise(reference))
            for time_us, end_us in zip(frames.time_us.tolist(), frames.end_us.tolist(), strict=True):
                assert end_us == following.get(time_us, video.duration_us)


def test_an_intra_refresh_point_is_no_entry(clip: Callable[[str], Path]) -> None:
    with av.open(str(clip("refresh.mkv"))) as container:
        stream = container.streams.video[0]
        inspect = inspector("h264", stream.codec_context.extradata)
        packets = [(p.is_keyframe, inspect.picture(p).entry) for p in container.demux(stream) if p.size]
    assert sum(key for key, _ in packets) > 1
    assert [entry for _, entry in packets] == [True] + [False] * (len(packets) - 1)


def test_an_unknown_decoder_is_named(clip: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="nonesuch"):
        list(decode_times(look(clip("closed.mp4")), [0], replace(SMALL, decoder="nonesuch")))
