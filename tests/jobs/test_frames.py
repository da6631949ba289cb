"""secondsight frames: files named by their times, lines for programs, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from jobs.bench.clips import read_number, write_clip
from jobs.cli import main

X264 = {"preset": "veryfast", "crf": "23", "g": "30", "bf": "2"}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("film") / "a film.mp4", "libx264", 90, options=X264)


def number(path: Path | str) -> int | None:
    return read_number(cv2.imread(str(path))[..., ::-1])


def test_stills_at_a_rate(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "stills"
    assert main(["frames", str(film), "--fps", "2", "--out", str(out), "--short-side", "96"]) == 0
    files = sorted(out.iterdir())
    assert [f.name for f in files] == [f"{k // 2:06d}.{k % 2 * 5}00000.png" for k in range(6)]
    assert [number(f) for f in files] == [0, 15, 30, 45, 60, 75]
    assert cv2.imread(str(files[0])).shape == (96, 160, 3)
    assert "6 stills" in capsys.readouterr().out


def test_lines_for_programs(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--fps",
        "1",
        "--start",
        "0:01",
        "--end",
        "2.5",
        "--short-side",
        "0",
        "--image",
        "jpg",
        "--threads",
        "2",
    ]
    assert main(["frames", str(film), "--out", str(tmp_path), "--format", "jsonl", *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["time_us"] for line in lines] == [1_000_000, 2_000_000]
    assert [number(line["file"]) for line in lines] == [30, 60]
    assert cv2.imread(lines[0]["file"]).shape == (192, 320, 3)


def test_a_list_of_times(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--at", "2.99", "--at", "0:00.05", "--at", "0.06", "--at", "99"]
    assert main(["frames", str(film), "--out", str(tmp_path), "--format", "jsonl", *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["time_us"], line["end_us"]) for line in lines] == [(33_333, 66_667), (2_966_667, 3_000_000)]


def test_what_was_lost_is_said(shared_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = shared_videos / "hostile" / "h12_corrupt.mp4"
    assert main(["frames", str(damaged), "--fps", "1", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "could not be decoded" in said.err
    assert len(list(tmp_path.iterdir())) == len([line for line in said.out.splitlines() if line.endswith(".png")]) > 10


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--fps", "0"], "--fps 0"),
        (["--fps", "fast"], "--fps fast"),
        (["--start", "soon"], "soon"),
        (["--start", "5", "--end", "4"], "--end 4"),
        (["--short-side", "-3"], "--short-side"),
        (["--threads", "0"], "--threads"),
        (["--stream", "7"], "stream 7"),
    ],
)
def test_mistakes_are_named(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(["frames", str(film), "--out", str(tmp_path), *arguments]) == 1
    assert named in capsys.readouterr().err


def test_no_such_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frames", str(tmp_path / "none.mp4"), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("secondsight: ") and "none.mp4: vanished" in said and len(said.splitlines()) == 1
