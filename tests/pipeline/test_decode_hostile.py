"""Files that are broken, lying or changing: a typed error, or the good frames and a note of what was lost."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from jobs.bench.clips import read_number, write_clip
from pipeline.decode import DecodeLimits, decode_windows
from pipeline.errors import VideoError, VideoReason
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Sampling, Window, round_us
from pipeline.probe import probe
from pipeline.video import Video

X264 = {"preset": "veryfast", "crf": "28", "g": "30", "bf": "2"}
FULL = Sampling(fps=Fraction(10), short_side=None)


def look(path: Path | str) -> Video:
    return probe(str(path), os.stat(path).st_size, "0" * 32, (str(path),))


def whole(video: Video, sampling: Sampling = FULL, threads: int = 1) -> Frames:
    windows = [Window("", 0, 0, max(1, video.duration_us))]
    ((_, frames),) = decode_windows(video, windows, sampling, DecodeLimits(threads=threads))
    return frames


def refusal(action: Callable[[], object]) -> VideoError:
    with pytest.raises(VideoError) as caught:
        action()
    assert len(caught.value.detail) > 10
    return caught.value


def read_shared(picture: np.ndarray) -> int | None:
    """The number on a picture of the reference clips: 32 cells, 24 bits of number and 8 of check sum."""
    cell = picture.shape[1] / 32
    rows = picture[int(cell * 0.3) : int(cell * 0.7)].astype(float).mean(axis=(0, 2))
    cells = [rows[int((i + 0.3) * cell) : int((i + 0.7) * cell)].mean() > 126 for i in range(32)]
    value = int("".join("1" if c else "0" for c in cells), 2)
    number = value >> 8
    return number if (number * 0x9E3779B1) >> 13 & 0xFF == value & 0xFF else None


@pytest.mark.parametrize(
    "name",
    [
        "h01_base.mp4",
        "h03_ts_default.ts",
        "h05_vfr.mp4",
        "h07_editlist_cut.mp4",
        "h09_rotated90.mp4",
        "h12_corrupt.mp4",
        "h21_opengop.mp4",
        "h27_res_change.ts",
    ],
)
def test_reference_clips(shared_videos: Path, name: str) -> None:
    """At every wanted time the frame that the truth names, by its bar code; what is missing is reported as lost."""
    path = shared_videos / "hostile" / name
    truth = json.loads((path.parent / f"{name}.json").read_text())
    video = look(path)
    shown: dict[int, set[int | None]] = {}  # time -> numbers shown (two recordings were joined in h27)
    for seconds, number, _ in truth["frames"]:
        shown.setdefault(round_us(Fraction(seconds)) - video.offset_us, set()).add(number)
    for fps, threads in ((Fraction(1, 2), 1), (Fraction(2), 2), (Fraction(5), 1)):
        sampling = Sampling(fps=fps, short_side=180)
        frames = whole(video, sampling, threads)
        found = dict(zip(frames.time_us.tolist(), frames.pixels, strict=True))
        wanted = set()
        for t in sampling.times_us(0, video.duration_us):
            expected = max((at for at in shown if at <= t + 1), default=None)
            if expected is None:
                continue
            match = next((at for at in found if abs(at - expected) <= 1), None)
            if match is None:
                assert name == "h12_corrupt.mp4", (t, expected)
                assert any(a <= t < b for a, b in frames.lost_us), (t, expected, frames.lost_us)
                continue
            wanted.add(match)
            upright = np.rot90(found[match], -1) if video.rotation else found[match]
            assert read_shared(upright) in shown[expected] - {None}, (t, expected)
        assert wanted == set(found)
        assert bool(frames.lost_us) == (name == "h12_corrupt.mp4")
        if name == "h12_corrupt.mp4":
            assert len(frames) > 0.3 * float(fps) * 40


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("h10_trunc_nomoov.mp4", "unreadable"),
        ("h14_audio_only.mp4", "no_video"),
        ("h15_audio_coverart.mp3", "no_video"),
        ("h17_zero.mp4", "empty"),
    ],
)
def test_reference_clips_without_video(shared_videos: Path, name: str, reason: str) -> None:
    error = refusal(lambda: look(shared_videos / "hostile" / name))
    assert error.reason == reason and name in str(error)


@pytest.fixture(scope="module")
def sound_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 (index at the front), a.ts, a.mkv: 5 s, a GOP a second."""
    folder = tmp_path_factory.mktemp("sound")
    write_clip(folder / "a.mp4", "libx264", 150, options=X264, container_options={"movflags": "faststart"})
    write_clip(folder / "a.ts", "libx264", 150, options=X264)
    write_clip(folder / "a.mkv", "libx264", 150, options=X264)
    return folder


def check(video: Video, frames: Frames) -> None:
    """Every frame given is the right one at the right time."""
    for time_us, picture in zip(frames.time_us.tolist(), frames.pixels, strict=True):
        number = read_number(picture)
        assert number is not None and abs(round(number * SECOND_US / 30) - time_us) <= 501, (number, time_us)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_cut_off(sound_clips: Path, tmp_path: Path, name: str) -> None:
    data = (sound_clips / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) * 6 // 10])
    video = look(path)
    frames = whole(video)
    check(video, frames)
    assert len(frames) >= 25
    if name == "a.mp4":  # its index tells what is missing
        assert video.duration_us == 5_000_000
        assert frames.lost_us and frames.lost_us[-1][1] == 5_000_000


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_overwritten_in_the_middle(sound_clips: Path, tmp_path: Path, name: str) -> None:
    data = bytearray((sound_clips / name).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = random.Random(5).randbytes(3000)
    path = tmp_path / name
    path.write_bytes(data)
    video = look(path)
    frames = whole(video)
    check(video, frames)
    assert len(frames) >= 30
    asked = list(FULL.times_us(0, 5_000_000))
    held = [any(a <= t < b for a, b in zip(frames.time_us, frames.end_us, strict=True)) for t in asked]
    gone = [any(a <= t < b for a, b in frames.lost_us) for t in asked]
    assert any(gone)
    assert all(h or g for h, g in zip(held, gone, strict=True))


def test_fuzz(sound_clips: Path, tmp_path: Path) -> None:
    """Random damage anywhere: an error of ours or frames at true times, and never for long."""
    rng = random.Random(11)
    outcomes = set()
    for i in range(36):
        name = ("a.mp4", "a.ts", "a.mkv")[i % 3]
        data = bytearray((sound_clips / name).read_bytes())
        for _ in range(rng.choice((1, 4, 16))):
            at = rng.randrange(len(data)) if rng.random() < 0.7 else rng.randrange(min(2000, len(data)))
            data[at : at + rng.choice((1, 2, 8))] = rng.randbytes(2)
        path = tmp_path / f"{i}_{name}"
        path.write_bytes(data)
        began = time.process_time()
        try:
            video = look(path)
            if video.duration_us < 3600 * SECOND_US:
                frames = whole(video, Sampling(fps=Fraction(5), short_side=96), threads=1 + i % 2)
                assert (np.diff(frames.time_us) > 0).all() and (frames.end_us > frames.time_us).all()
                outcomes.add("lost" if frames.lost_us else "whole")
        except VideoError as error:
            outcomes.add(error.reason)
        assert time.process_time() - began < 20
    assert {"lost", "whole"} <= outcomes


def test_text_and_playlists_are_no_videos(tmp_path: Path) -> None:
    """A playlist would open what it names; a subtitle or a plain text is "video" to some of libav's demuxers."""
    secret = write_clip(tmp_path / "secret.mp4", "libx264", 5, options=X264)
    for text in (
        "The quick brown fox jumps over the lazy dog.\n" * 50,
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "1\n00:00:01,000 --> 00:00:02,000\nhello\n\n",
        "<?xml version='1.0'?><MPD></MPD>",
        "\x1b[2J\x1b[31mhello",
    ):
        path = tmp_path / "text.mp4"
        path.write_text(text)
        assert refusal(lambda: look(path)).reason == "unreadable", text[:20]  # noqa: B023
    path.write_bytes(random.Random(2).randbytes(50_000))
    assert refusal(lambda: look(path)).reason == "unreadable"


def test_pictures_beyond_the_limits(tmp_path: Path) -> None:
    wide = np.zeros((16, 30_000, 3), np.uint8)
    path = write_clip(tmp_path / "wide.mkv", "ffv1", 2, size=(30_000, 16), pix_fmt="yuv444p", picture=lambda _: wide)
    error = refusal(lambda: look(path))
    assert error.reason == "too_large" and "30000 x 16" in error.detail


def test_a_decompression_bomb(tmp_path: Path) -> None:
    """A picture that claims 60 000 x 60 000 px inside a container that says 64 x 64: gigabytes, were it believed."""
    path = write_clip(
        tmp_path / "bomb.mov",
        "png",
        3,
        size=(64, 64),
        pix_fmt="rgb24",
        picture=lambda n: np.full((64, 64, 3), n, np.uint8),
    )
    data = path.read_bytes()
    assert data.count(b"IHDR\0\0\0\x40\0\0\0\x40") == 3
    path.write_bytes(data.replace(b"IHDR\0\0\0\x40\0\0\0\x40", b"IHDR" + struct.pack(">II", 60_000, 60_000)))
    code = f"""
import os, resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from pipeline.probe import probe
from pipeline.errors import VideoError, VideoReason
try:
    probe({str(path)!r}, os.path.getsize({str(path)!r}), "", ({str(path)!r},))
except VideoError as error:
    print(error.reason)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() in ("too_large", "corrupt"), done.stderr[-500:]


def test_a_picture_that_grows_beyond_the_limits(tmp_path: Path) -> None:
    """The limit holds for every picture, not only for the first."""
    small = write_clip(tmp_path / "small.ts", "libx264", 30, size=(192, 96), options=X264)
    large = write_clip(tmp_path / "large.ts", "libx264", 30, size=(960, 480), options=X264, pts=range(30, 60))
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    limits = DecodeLimits(max_pixels=400 * 300)
    video = probe(str(path), path.stat().st_size, "", (str(path),), limits=limits)
    assert (video.width, video.height) == (192, 96)
    ((_, frames),) = decode_windows(video, [Window("", 0, 0, 2 * SECOND_US)], FULL, limits)
    assert 9 <= len(frames) <= 11 and frames.pixels.shape[1:] == (96, 192, 3)
    assert frames.lost_us


def test_no_sound_file_and_no_still_is_a_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert refusal(lambda: look(tmp_path / "a.m4a")).reason == "no_video"
    with av.open(str(tmp_path / "still.mp4"), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
    assert refusal(lambda: look(tmp_path / "still.mp4")).reason == "unreadable"


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    fifo = str(tmp_path / "fifo.mp4")
    assert refusal(lambda: probe(fifo, 100, "", (fifo,))).reason == "not_a_file"
    folder = str(tmp_path)
    assert refusal(lambda: probe(folder, 100, "", (folder,))).reason == "not_a_file"
    gone = str(tmp_path / "gone.mp4")
    assert refusal(lambda: probe(gone, 100, "", (gone,))).reason == "vanished"
    (tmp_path / "zero.mp4").touch()
    zero = str(tmp_path / "zero.mp4")
    assert refusal(lambda: probe(zero, 0, "", (zero,))).reason == "empty"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path, sound_clips: Path) -> None:
    path = tmp_path / "locked.mp4"
    path.write_bytes((sound_clips / "a.mp4").read_bytes())
    path.chmod(0)
    assert refusal(lambda: look(path)).reason == "denied"


def test_permission_lost_between_looking_and_opening(sound_clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = look(sound_clips / "a.mp4")

    def refuse(*_: object, **__: object) -> None:
        raise av.error.PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.decode.media.av.open", refuse)
    assert refusal(lambda: whole(video)).reason == "denied"


def test_files_that_change(sound_clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "growing.ts"
    data = (sound_clips / "a.ts").read_bytes()
    path.write_bytes(data)
    video = look(path)
    path.write_bytes(data + data)
    assert refusal(lambda: whole(video)).reason == "changed"
    path.write_bytes(data)
    windows = decode_windows(video, [Window("", i, i * SECOND_US, (i + 1) * SECOND_US) for i in range(5)], FULL)
    next(windows)
    path.write_bytes(data[:1000])
    assert refusal(lambda: list(windows)).reason == "changed"
    path.unlink()
    assert refusal(lambda: whole(video)).reason == "vanished"


def test_a_start_in_the_middle_of_a_gop(sound_clips: Path, tmp_path: Path) -> None:
    """A recording that begins between entry points: nothing can be shown up to the first, and that is said."""
    with av.open(str(sound_clips / "a.ts")) as source:
        stream = source.streams.video[0]
        keys = [p.pos for p in source.demux(stream) if p.is_keyframe]
    data = (sound_clips / "a.ts").read_bytes()
    path = tmp_path / "late.ts"
    head = data[: 188 * 3]  # the tables
    path.write_bytes(head + data[(keys[0] + keys[1]) // 2 // 188 * 188 :])
    video = look(path)
    frames = whole(video)
    assert len(frames) > 35
    numbers = [read_number(picture) for picture in frames.pixels]
    shifts = {
        round(n * SECOND_US / 30) - t for n, t in zip(numbers, frames.time_us.tolist(), strict=True) if n is not None
    }
    assert None not in numbers and max(shifts) - min(shifts) <= 2


def test_a_bad_clock_is_decoded_plainly(sound_clips: Path, tmp_path: Path) -> None:
    """Two recordings joined so that the second begins before the first ends: times stay in order and true."""
    second = write_clip(tmp_path / "b.ts", "libx264", 60, options=X264, pts=range(142, 202), first=140)
    path = tmp_path / "joined.ts"
    path.write_bytes((sound_clips / "a.ts").read_bytes() + second.read_bytes())
    video = look(path)
    frames = whole(video)
    check(video, frames)
    assert len(frames) == 67 and not frames.lost_us
    assert (np.diff(frames.time_us) > 0).all()


@pytest.mark.parametrize("reason", ["storage", "changed", "vanished"])
def test_storage_that_fails_while_reading(
    sound_clips: Path, monkeypatch: pytest.MonkeyPatch, reason: VideoReason
) -> None:
    """An error of the storage stays that error; it is no end of the file."""
    data = (sound_clips / "a.ts").read_bytes()

    class Failing(io.BytesIO):
        size = len(data)

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > budget:
                raise VideoError("memory://a.ts", reason, "it failed in the middle of the test")
            return super().read(size)

    budget = len(data)
    monkeypatch.setattr("pipeline.decode.media.open_object", lambda uri: Failing(data))
    video = probe("memory://a.ts", len(data), "", ("memory://a.ts",))
    assert len(whole(video)) == 50
    budget = len(data) // 2
    for threads in (1, 2):
        assert refusal(lambda: whole(video, threads=threads)).reason == reason  # noqa: B023
