"""decord: the same answers as PyAV where it is exact, a refusal with its reason everywhere else."""

from __future__ import annotations

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from jobs.bench.clips import read_number, write_clip
from pipeline.decode import decode_times
from pipeline.errors import UsageError, VideoError
from pipeline.plan import Sampling
from pipeline.probe import probe
from pipeline.video import Video

pytest.importorskip("decord")

BY_DECORD = Sampling(fps=Fraction(3), short_side=96, decoder="decord")
CLOSED = {"preset": "veryfast", "crf": "28", "g": "30", "bf": "2"}


def look(path: Path) -> Video:
    return probe(str(path), path.stat().st_size, "0" * 32, (str(path),))


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv"])
def test_where_it_is_exact(tmp_path: Path, name: str) -> None:
    video = look(write_clip(tmp_path / name, "libx264", 90, options=CLOSED))
    times = list(BY_DECORD.times_us(0, video.duration_us))
    theirs = list(decode_times(video, times, BY_DECORD))
    ours = list(decode_times(video, times, replace(BY_DECORD, decoder="pyav")))
    assert [(a.at_us, a.time_us, a.end_us) for a in theirs] == [(a.at_us, a.time_us, a.end_us) for a in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert read_number(a.pixels) == read_number(b.pixels) == round(a.time_us * 30 / 1_000_000)
        assert np.abs(a.pixels.astype(int) - b.pixels).mean() < 6  # it sites chroma differently


def refused(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        list(decode_times(look(path), [0, 1_000_000], BY_DECORD))
    assert caught.value.reason == "inexact"
    return caught.value.detail


def test_where_it_would_be_wrong(tmp_path: Path) -> None:
    open_gop = {**CLOSED, "x264-params": "open-gop=1:keyint=30:bframes=3:b-adapt=0"}
    assert "open" in refused(write_clip(tmp_path / "open.mp4", "libx264", 90, options=open_gop))
    assert "MP4" in refused(write_clip(tmp_path / "a.ts", "libx264", 40, options=CLOSED))
    uneven = [0, 1, 2, 5, 6, 7, 20, 21, 22, 40, 41]
    assert "varies" in refused(write_clip(tmp_path / "vfr.mp4", "libx264", 11, pts=uneven, options=CLOSED))
    late = range(10, 40)
    assert "zero" in refused(write_clip(tmp_path / "late.mkv", "libx264", 30, pts=late, options=CLOSED))
    assert "10" in refused(write_clip(tmp_path / "ten.mp4", "libx264", 40, options=CLOSED, pix_fmt="yuv420p10le"))
    turned = write_clip(
        tmp_path / "turned.mp4", "libx264", 40, options=CLOSED, change=lambda stream: stream.set_display_rotation(90)
    )
    assert "turn" in refused(turned)

    def narrow(stream) -> None:  # type: ignore[no-untyped-def]
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

    assert "square" in refused(write_clip(tmp_path / "narrow.mp4", "libx264", 40, options=CLOSED, change=narrow))
    refresh = {**CLOSED, "x264-params": "intra-refresh=1:keyint=20:bframes=0"}
    assert "cannot begin" in refused(write_clip(tmp_path / "refresh.mkv", "libx264", 80, options=refresh))


def test_reference_clips(shared_videos: Path) -> None:
    """Exact or refused, never wrong."""
    for name, accepted in {
        "h01_base.mp4": True,
        "h03_ts_default.ts": False,
        "h05_vfr.mp4": False,
        "h07_editlist_cut.mp4": False,
        "h09_rotated90.mp4": False,
        "h21_opengop.mp4": False,
        "h27_res_change.ts": False,
    }.items():
        video = look(shared_videos / "hostile" / name)
        times = [0, 700_000, 1_400_000]
        if not accepted:
            refused(shared_videos / "hostile" / name)
            continue
        theirs = list(decode_times(video, times, BY_DECORD))
        ours = list(decode_times(video, times, replace(BY_DECORD, decoder="pyav")))
        assert [a.time_us for a in theirs] == [a.time_us for a in ours]


def test_remote_files_are_refused(tmp_path: Path) -> None:
    video = replace(look(write_clip(tmp_path / "a.mp4", "libx264", 10, options=CLOSED)), uris=("memory://a.mp4",))
    with pytest.raises(VideoError, match="local"):
        list(decode_times(video, [0], BY_DECORD))


def test_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    video = look(write_clip(tmp_path / "a.mp4", "libx264", 10, options=CLOSED))
    with pytest.raises(UsageError, match=r"secondsight\[decord\]"):
        list(decode_times(video, [0], BY_DECORD))
