"""What a container says of its video, against what was written and what ffprobe reports."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from jobs.bench.clips import draw, write_clip
from pipeline.decode import DecodeLimits
from pipeline.errors import VideoError
from pipeline.plan import round_us
from pipeline.probe import probe
from pipeline.video import Video

X264 = {"preset": "veryfast", "crf": "28", "g": "30", "bf": "2"}


def look(path: Path, **kwargs: int) -> Video:
    return probe(str(path), path.stat().st_size, "ab" * 16, (str(path), "other"), **kwargs)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.flv", "a.avi"])
def test_what_it_says(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, "libx264", 75, rate=Fraction(25), options=X264)
    video = look(path)
    assert (video.video_id, video.uris) == ("ab" * 16, (str(path), "other"))
    assert video.size_bytes == path.stat().st_size
    assert (video.width, video.height, video.rotation, video.codec) == (320, 192, 0, "h264")
    assert video.frame_rate == pytest.approx(25, rel=0.001)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        last = max(f.pts for f in container.decode(stream) if f.pts is not None)
        end = round_us(last * stream.time_base) + 40_000 - video.offset_us
    assert abs(video.duration_us - end) <= 1000  # FLV and Matroska tick in milliseconds
    assert (video.offset_us == 0) == (name not in ("a.ts", "a.flv")) or name == "a.flv"


def test_a_late_first_frame_stays_late(tmp_path: Path) -> None:
    """Where the container has a zero; MPEG-TS has none, and starts at its start."""
    for name, offset_us, duration_us in [("a.mp4", 0, 3_000_000), ("a.mkv", 0, 3_000_000), ("a.ts", None, 1_000_000)]:
        video = look(write_clip(tmp_path / name, "libx264", 30, pts=range(60, 90), options=X264))
        assert offset_us is None or video.offset_us == offset_us
        assert abs(video.duration_us - duration_us) <= 1000, name


def test_nasa_streams(shared_videos: Path) -> None:
    path = shared_videos / "nasa_13013.mp4"
    first, other = look(path), look(path, stream_index=3)
    assert (first.stream_index, first.width, first.height, first.frame_rate) == (0, 320, 180, 25.0)
    assert (other.stream_index, other.width, other.height) == (3, 480, 270)
    for video in (first, other):
        info = json.loads((path.parent / f"{path.name}.stream{video.stream_index}.all_frames_info.json").read_text())
        ends = [Fraction(f["pts_time"]) + Fraction(f["duration_time"]) for f in info]
        assert abs(video.duration_us - round_us(max(ends))) <= 1  # ffprobe prints both rounded
    with pytest.raises(VideoError, match="stream 1"):
        look(path, stream_index=1)


def test_reference_clips_against_ffprobe(shared_videos: Path) -> None:
    """The offset brings the first frame to where the stream's own clock, less the container's start, puts it."""
    for name in ("h01_base.mp4", "h03_ts_default.ts", "h05_vfr.mp4", "h07_editlist_cut.mp4", "h21_opengop.mp4"):
        path = shared_videos / "hostile" / name
        truth = json.loads((path.parent / f"{name}.json").read_text())["frames"]
        video = look(path)
        if not name.endswith(".ts"):
            assert video.offset_us == 0
        last_us = round_us(Fraction(max(t for t, _, _ in truth))) - video.offset_us
        assert last_us < video.duration_us <= last_us + 1_000_000 / 25 + 1 or name == "h05_vfr.mp4"


def test_cover_art_is_passed_over(tmp_path: Path) -> None:
    """A picture attached to a film does not hide the film."""
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = container.add_stream("libx264", rate=30, options=X264)
        film.width, film.height, film.pix_fmt = 320, 192, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        for n in range(10):
            container.mux(film.encode(av.VideoFrame.from_ndarray(draw(n, 320, 192))))
        container.mux(film.encode(None))
    video = look(tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert len(container.streams.video) == 2
    assert (video.width, video.codec) == (320, "h264")


def test_limits(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", "libx264", 10, options=X264)
    for limits, named in [(DecodeLimits(max_side=300), "320 x 192"), (DecodeLimits(max_pixels=61_439), "61,439")]:
        with pytest.raises(VideoError, match=named) as caught:
            probe(str(path), path.stat().st_size, "", (str(path),), limits=limits)
        assert caught.value.reason == "too_large"
    ages = {"pts": [0, 1, 70 * 24 * 3600], "time_base": Fraction(1)}
    endless = write_clip(tmp_path / "endless.mkv", "libx264", 3, options=X264, **ages)
    with pytest.raises(VideoError, match="plausible") as caught:
        look(endless)
    assert caught.value.reason == "too_large"


def test_another_size_than_listed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", "libx264", 10, options=X264)
    with pytest.raises(VideoError) as caught:
        probe(str(path), path.stat().st_size + 1, "", (str(path),))
    assert caught.value.reason == "changed"
