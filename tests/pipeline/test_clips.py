"""Clips: exactly the frames of the span at their times, by ffprobe and by decoding; untouched where copied."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from jobs.bench.clips import read_number, write_clip
from pipeline.clips import clip
from pipeline.errors import UsageError, VideoError

X264 = {"preset": "veryfast", "crf": "20", "g": "40", "bf": "3", "sc_threshold": "0"}
VP = {"g": "40", "deadline": "realtime", "cpu-used": "8"}
KINDS: dict[str, dict[str, Any]] = {
    "gop.mp4": {"codec": "libx264", "options": X264},
    "gop.ts": {"codec": "libx264", "options": X264},
    "open.mp4": {"codec": "libx264", "options": X264 | {"x264-params": "open-gop=1"}},
    "vfr.mp4": {
        "codec": "libx264",
        "options": X264,
        "pts": [3000 * i + 900 * (i % 3) + 20_000 * (i // 10) for i in range(120)],
        "time_base": Fraction(1, 90_000),
    },
    "hevc.mkv": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "keyint=40:log-level=error"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP},
    "vp8.webm": {"codec": "libvpx", "options": VP},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, how in KINDS.items():
        write_clip(folder / name, count=120, size=(192, 128), **how)
    return folder


def frames_of(path: Path) -> list[tuple[int, np.ndarray]]:
    """(microseconds on the container's timeline, luma) of each frame, decoded plainly from the start."""
    with av.open(str(path)) as container:
        zero = container.start_time if path.suffix == ".ts" else 0
        return [
            (round(f.pts * f.time_base * 1_000_000) - (zero or 0), f.to_ndarray(format="rgb24"))
            for f in container.decode(video=0)
        ]


def span_of(path: Path, start: int, end: int) -> list[tuple[int, np.ndarray]]:
    """What is on screen in [start, end) of a film, at times counted from `start`."""
    frames = frames_of(path)
    first = max(i for i, (t, _) in enumerate(frames) if t <= start)
    return [(max(0, t - start), picture) for t, picture in frames[first:] if t < end]


#: From a key frame or not, to one or not, inside one group of pictures, the whole film, from between two frames.
SPANS = [(0, 4_000_000), (1_333_334, 2_666_667), (700_000, 3_500_000), (1_500_000, 1_900_000), (210_000, 3_000_010)]


@pytest.mark.parametrize("name", KINDS)
def test_exactly_the_frames_of_the_span(films: Path, tmp_path: Path, name: str) -> None:
    source = films / name
    for i, (start, end) in enumerate(SPANS):
        out = tmp_path / f"{i}{'.webm' if name.endswith('webm') else ('.mp4', '.mkv')[i % 2]}"
        made = clip(str(source), start, end, out)
        got, want = frames_of(out), span_of(source, start, end)
        assert [read_number(p) for _, p in got] == [read_number(p) for _, p in want]
        coarse = {source.suffix, out.suffix} & {".mkv", ".webm"}  # milliseconds
        assert max(abs(a - b) for (a, _), (b, _) in zip(got, want, strict=True)) <= (1001 if coarse else 67)
        assert made.frames == len(got)
        untouched = sum(np.array_equal(a, b) for (_, a), (_, b) in zip(got, want, strict=True))
        assert untouched >= made.copied, "what is said to be copied is the same to the last bit"
        worst = max(np.abs(a.astype(int) - b).mean() for (_, a), (_, b) in zip(got, want, strict=True))
        assert worst < 8, "what is encoded anew looks the same"


@pytest.mark.parametrize(
    ("name", "span", "copied"),
    [
        ("gop.mp4", (0, 4_000_000), 120),  # all
        ("gop.mp4", (1_333_334, 2_666_667), 40),  # one whole group
        ("gop.mp4", (1_300_000, 2_700_000), 41),  # with a picture before it, and the key picture of the next
        ("gop.mp4", (1_500_000, 1_900_000), 0),  # inside of a group
        ("open.mp4", (700_000, 3_500_000), 0),  # nothing can follow other pictures
        ("vp9.webm", (1_300_000, 2_667_000), 40),
        ("hevc.mkv", (0, 4_000_000), 120),
        ("hevc.mkv", (1_000_000, 3_000_000), 0),
    ],
)
def test_whole_groups_are_copied(films: Path, tmp_path: Path, name: str, span: tuple[int, int], copied: int) -> None:
    assert clip(str(films / name), *span, tmp_path / "clip.mkv").copied == copied


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
@pytest.mark.parametrize("name", ["gop.mp4", "vfr.mp4", "hevc.mkv"])
def test_ffprobe_finds_nothing_amiss(films: Path, tmp_path: Path, name: str) -> None:
    start, end = 700_000, 3_210_000
    clip(str(films / name), start, end, tmp_path / "clip.mp4")
    command = ["ffprobe", "-v", "warning", "-of", "json", "-show_frames", "-show_format", "-select_streams", "v:0"]
    told = subprocess.run([*command, str(tmp_path / "clip.mp4")], capture_output=True, text=True, check=True)
    assert told.stderr == ""
    found = json.loads(told.stdout)
    times = [round(float(f["pts_time"]) * 1_000_000) for f in found["frames"]]
    want = [t for t, _ in span_of(films / name, start, end)]
    assert len(times) == len(want) and max(abs(a - b) for a, b in zip(times, want, strict=True)) <= 67
    assert abs(float(found["format"]["duration"]) - 2.51) <= 0.002


@pytest.fixture(scope="module")
def with_sound(films: Path) -> Path:
    """The film with a tone that doubles its pitch each second, in AAC."""
    path = films / "sound.mp4"
    with av.open(str(films / "gop.mp4")) as film, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(film.streams.video[0], opaque=True)
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
        for second in range(4):
            wave = np.sin(2 * np.pi * 220 * 2**second * np.arange(48_000) / 48_000).astype(np.float32) * 0.5
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, 48_000 * second
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_sound_stays_beside_its_pictures(with_sound: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"clip{suffix}"
    clip(str(with_sound), 1_500_000, 3_500_000, out)
    samples, clock = [], []
    with av.open(str(out)) as container:
        rate = container.streams.audio[0].rate
        for frame in container.decode(audio=0):
            mono = frame.to_ndarray().astype(float).reshape(-1, frame.samples)[0]
            samples.append(mono)
            clock.append(float(frame.pts * frame.time_base) + np.arange(frame.samples) / rate)
    wave, at = np.concatenate(samples), np.concatenate(clock)
    assert -0.03 < at[0] < 0.05 and 1.95 < at[-1] < 2.05
    for moment, pitch in ((0.25, 440), (1.0, 880), (1.75, 1760)):
        here = wave[np.abs(at - moment) < 0.1]
        spectrum = np.abs(np.fft.rfft(here * np.hanning(len(here))))
        assert abs(np.argmax(spectrum) * rate / len(here) - pitch) < 15, f"at {moment} s of the clip"


def test_an_edit_is_on_every_picture(films: Path, tmp_path: Path) -> None:
    seen = []

    def edit(picture: np.ndarray, time_us: int) -> np.ndarray:
        assert time_us == round(len(seen) * 1e6 / 30)
        seen.append(picture.shape)
        return np.full_like(picture, 200)

    made = clip(str(films / "gop.mp4"), 0, 1_000_000, tmp_path / "clip.mp4", edit=edit)
    assert (made.copied, made.frames, seen) == (0, 30, [(128, 192, 3)] * 30)
    assert all(np.abs(p.astype(int) - 200).max() <= 3 for _, p in frames_of(tmp_path / "clip.mp4"))


@pytest.mark.parametrize("name", ["h09_rotated90.mp4", "h05_vfr.mp4", "h07_editlist_cut.mp4", "h03_ts_default.ts"])
def test_hostile_clips(shared_videos: Path, tmp_path: Path, name: str) -> None:
    """As a player shows them: turned, without what an edit list hides, at any frame rate."""
    from pipeline.stills import opened, pictures

    source = str(shared_videos / "hostile" / name)
    start, end = 300_000, min(2_000_000, opened(source).duration_us)
    clip(source, start, end, tmp_path / "clip.mp4")
    times = list(range(start, end - 50_000, 100_000))
    want = [p for _, _, p in pictures(source, times)]
    got = [p for _, _, p in pictures(str(tmp_path / "clip.mp4"), [t - start + 100 for t in times])]
    for a, b in zip(got, want, strict=True):
        assert a is not None and b is not None and a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 6


def test_bad_input(films: Path, tmp_path: Path) -> None:
    film, out = str(films / "gop.mp4"), tmp_path / "clip.mp4"
    with pytest.raises(UsageError, match=r"gop\.mp4 is 0:04 long: no clip can begin at 0:05"):
        clip(film, 5_000_000, 6_000_000, out)
    with pytest.raises(UsageError, match=r"from 0:02 to 0:01 is empty"):
        clip(film, 2_000_000, 1_000_000, out)
    with pytest.raises(UsageError, match=r"clip\.avi: a clip is written as one of \.mp4"):
        clip(film, 0, 1_000_000, tmp_path / "clip.avi")
    with pytest.raises(VideoError, match=r"gone\.mp4: vanished"):
        clip(str(tmp_path / "gone.mp4"), 0, 1_000_000, out)
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(VideoError, match=r"text\.mp4: unreadable"):
        clip(str(tmp_path / "text.mp4"), 0, 1_000_000, out)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(UsageError, match=r"clip\.mp4 exists already"):
        clip(film, 0, 1_000_000, out)
    assert out.read_text() == "mine"
    assert clip(film, 0, 1_000_000, out, overwrite=True).frames == 30
    with pytest.raises(UsageError, match=r"text\.mp4.* cannot be written"):
        clip(film, 0, 1_000_000, tmp_path / "text.mp4" / "clip.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "text.mp4"], "no half-written file stays"


def test_a_span_that_outlasts_the_video_ends_with_it(films: Path, tmp_path: Path) -> None:
    made = clip(str(films / "gop.mp4"), 3_000_000, 99_000_000, tmp_path / "clip.mp4")
    assert (made.end_us, made.frames) == (4_000_000, 30)


def test_a_clip_has_the_rights_of_any_new_file(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")  # it is the whole process's: other threads make files meanwhile
            made = clip(str(films / "gop.mp4"), 0, 500_000, tmp_path / "a.mp4")
    finally:
        os.umask(before)
    assert made.path.stat().st_mode & 0o777 == 0o640 and list(tmp_path.iterdir()) == [made.path]
