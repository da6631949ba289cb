"""Stills: the very frame that is on screen, its own time, upright, as a JPEG; one clear error otherwise."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from jobs.bench.clips import draw, read_number, write_clip
from pipeline.errors import UsageError, VideoError
from pipeline.stills import still, stills

X264 = {"preset": "ultrafast", "crf": "20", "g": "60"}


def picture(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("stills") / "film.mp4", "libx264", 300, options=X264)


@pytest.mark.parametrize(
    ("t", "number"),
    [(0, 0), (33_332, 0), (33_333, 1), (5_000_000, 150), (9_966_666, 298), (9_966_667, 299), (9_999_999, 299)],
)
def test_the_frame_on_screen(film: Path, t: int, number: int) -> None:
    found = still(str(film), t)
    assert read_number(picture(found.jpeg)) == number
    assert found.time_us == round(number * 1_000_000 / 30)
    assert (found.width, found.height) == (320, 192) == picture(found.jpeg).shape[1::-1]
    shown = draw(number, 320, 192).astype(int)
    assert np.abs(picture(found.jpeg) - shown).mean() < 8, "it looks like the picture that was drawn"


@pytest.mark.parametrize(("asked", "size"), [(96, (160, 96)), (97, (160, 96)), (5, (6, 4)), (4000, (320, 192))])
def test_scaled_to_a_height(film: Path, asked: int, size: tuple[int, int]) -> None:
    found = still(str(film), 1_000_000, height=asked)
    assert (found.width, found.height) == size == picture(found.jpeg).shape[1::-1]


def test_several_in_one_pass(film: Path) -> None:
    found = list(stills(str(film), [0, 10, 4_000_000, 99_000_000]))
    assert [(at, None if s is None else s.time_us) for at, s in found] == [(0, 0), (10, 0), (4_000_000, 4_000_000)]


@pytest.mark.parametrize("t", [10_000_000, 3_600_000_000, -1])
def test_outside_of_the_video(film: Path, t: int) -> None:
    with pytest.raises(UsageError, match=r"film\.mp4 is 0:10 long"):
        still(str(film), t)


def test_before_the_first_frame(tmp_path: Path) -> None:
    late = write_clip(tmp_path / "late.mkv", "libx264", 20, options=X264, pts=range(15, 35))
    with pytest.raises(UsageError, match=r"shows nothing yet at 0:00\.25"):
        still(str(late), 250_000)
    assert still(str(late), 500_000).time_us == 500_000


def test_a_file_that_changed_is_looked_at_again(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.mp4", "libx264", 30, options=X264)
    assert still(str(path), 900_000).width == 320
    write_clip(path, "libx264", 15, options=X264, size=(192, 128))
    assert still(str(path), 0).width == 192
    with pytest.raises(UsageError, match=r"0:00\.5 long"):
        still(str(path), 900_000)


def test_files_that_cannot_be_read(tmp_path: Path, film: Path) -> None:
    with pytest.raises(VideoError, match="vanished"):
        still(str(tmp_path / "gone.mp4"), 0)
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(VideoError, match=r"text\.mp4: unreadable"):
        still(str(tmp_path / "text.mp4"), 0)
    with pytest.raises(UsageError, match="2 at least"):
        still(str(film), 0, height=1)


@pytest.mark.parametrize("name", ["h03_ts_default.ts", "h05_vfr.mp4", "h07_editlist_cut.mp4", "h21_opengop.mp4"])
def test_hostile_timelines(shared_videos: Path, name: str) -> None:
    """Against the truth that was written down when the clips were made, at each frame's first and last microsecond."""
    path = shared_videos / "hostile" / name
    spec = importlib.util.spec_from_file_location("barcode", shared_videos / "hostile" / "barcode.py")
    assert spec and spec.loader
    barcode: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(barcode)
    truth = json.loads((path.parent / f"{name}.json").read_text())
    with av.open(str(path)) as container:  # MPEG-TS has no zero of its own (DESIGN.md, "Time")
        zero = Fraction(container.start_time or 0, 1_000_000) if name.endswith(".ts") else 0
    frames = [(round((Fraction(t) - zero) * 1_000_000), n) for t, n, bad in truth["frames"] if n is not None]
    for (t, number), (following, _) in list(pairwise(frames))[::89]:
        for at in (t + 1, following - 2):
            found = still(str(path), at)
            assert abs(found.time_us - t) <= 1
            assert barcode.read(picture(found.jpeg)) == number


def test_upright(shared_videos: Path) -> None:
    path = shared_videos / "hostile" / "h09_rotated90.mp4"
    with av.open(str(path)) as container:
        coded = container.streams.video[0]
        turned = still(str(path), 0)
        assert (turned.width, turned.height) == (coded.height, coded.width)
