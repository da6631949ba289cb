"""What is found in one frame is hidden around it: across windows, in stills of any size, in clips; or nothing is shown.

The finder here sees a white square only in pictures that are marked, and are not small: it misses all others.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from jobs.configure import configure
from model.registry import find_model
from pipeline.clips import clip
from pipeline.decode import decode_windows
from pipeline.detectors import FACE_MODEL, Box
from pipeline.errors import VideoError
from pipeline.plan import Sampling, Segment, Window, Windowing
from pipeline.redact import Redactor, parse, pledged
from pipeline.redacted import Hiding
from pipeline.stills import opened, still
from pipeline.timeline import even_stills
from pipeline.video import Video
from tests.pipeline.yunet import write_square_finder

S = 1_000_000
FOUND_US = 2_500_000
SEEN = Sampling(fps=Fraction(2), short_side=180, redact=("squares",))


class Squares(Redactor):
    """Finds the square (a tenth to two tenths of either side) where the lower left corner is bright."""

    def __init__(self) -> None:
        self.identity = {"version": 1, "hold_us": S, "detectors": [{"what": "squares"}]}
        self.looked: list[tuple[int, int]] = []

    def boxes(self, picture: np.ndarray) -> list[Box]:
        high, wide = picture.shape[:2]
        self.looked.append((wide, high))
        if high < 170 or picture[-8:, :8].mean() < 128:
            return []
        return [(wide // 10 - 3, high // 10 - 3, 2 * wide // 10 + 3, 2 * high // 10 + 3)]


def write_film(path: Path, fps: int, seconds: float = 6) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "12", "g": str(fps)})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 640, 360, "yuv420p", 1
        for i in range(round(fps * seconds)):
            picture = np.full((360, 640, 3), 60, np.uint8)
            picture[36:72, 64:128] = 255
            if i * S // fps == FOUND_US:
                picture[-20:, :20] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("redacted") / "film.mp4", 10)


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> Squares:
    finder = Squares()
    monkeypatch.setattr("pipeline.redact.redactor", lambda what: finder)
    return finder


def hidden(picture: np.ndarray) -> bool:
    high, wide = picture.shape[:2]
    return bool(picture[high // 8 : high // 6, wide // 8 : wide // 6].mean() < 220)


def near(time_us: int) -> bool:
    return abs(time_us - FOUND_US) <= S


@pytest.mark.parametrize(
    "spans", [[(0, 3), (3, 6)], [(0, 3), (2, 5), (4, 6)], [(3, 6)], [(0, 2)], [(i / 2, i / 2 + 0.5) for i in range(12)]]
)
def test_windows_do_not_matter(film: Path, squares: Squares, spans: list[tuple[float, float]]) -> None:
    windows = [Window("v", i, round(a * S), round(b * S)) for i, (a, b) in enumerate(spans)]
    seen = {}
    for window, frames in decode_windows(opened(str(film)), windows, SEEN):
        assert frames.time_us.tolist() == list(range(window.start_us, window.end_us, S // 2))
        for time_us, picture in zip(frames.time_us.tolist(), frames.pixels, strict=True):
            assert (seen.setdefault(time_us, picture) == picture).all(), "the same in each window"
            assert hidden(picture) == near(time_us), time_us
    assert len(squares.looked) <= 12, "each frame once"


def hiding(film: Path, finder: Squares, sampling: Sampling = SEEN) -> Hiding:
    return Hiding(opened(str(film)), sampling, finder)


def jpeg(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


@pytest.mark.parametrize("height", [None, 120])
def test_stills_hide_what_the_frames_around_show(film: Path, height: int | None) -> None:
    """Also such as are smaller than what the finder can see."""
    for time_us in (1_600_000, 2_200_000, 3_400_000):
        assert hidden(jpeg(still(str(film), time_us, height=height, edit=hiding(film, Squares())).jpeg)), time_us
    for time_us in (1_000_000, 4_000_000):
        assert not hidden(jpeg(still(str(film), time_us, height=height, edit=hiding(film, Squares())).jpeg)), time_us


def test_timelines_are_looked_at_as_large_as_the_model_saw_them(film: Path) -> None:
    finder = Squares()
    stills = even_stills(str(film), 6, edit=hiding(film, finder))
    assert [hidden(jpeg(data)) for _, data in stills] == [near(at) for at, _ in stills] and any(map(near, dict(stills)))
    assert set(finder.looked) == {(320, 180)}


def test_a_run_that_saw_few_frames_has_more_looked_at(film: Path) -> None:
    seldom = Sampling(fps=Fraction(1, 5), short_side=180)
    assert hidden(jpeg(still(str(film), 3_000_000, edit=hiding(film, Squares(), seldom)).jpeg))


def test_a_frame_that_stays_on_screen(tmp_path: Path, squares: Squares) -> None:
    """One frame for two seconds, of which the run saw the last half near the find; one for two seconds after it, whose
    begin is near. Both are hidden for as long as they are on screen, in stills too."""
    path = tmp_path / "slides.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"preset": "ultrafast", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 640, 360, "yuv420p", 1
        for at in (0, 4, 5, 6, 10, 11):  # halves of a second
            picture = np.full((360, 640, 3), 60, np.uint8)
            picture[36:72, 64:128] = 255
            if at == 5:
                picture[-20:, :20] = 255
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 2)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    windows = [Window("v", i, a * S, b * S) for i, (a, b) in enumerate([(0, 3), (2, 5), (4, 6)])]
    for _, frames in decode_windows(opened(str(path)), windows, SEEN):
        for time_us, picture in zip(frames.time_us.tolist(), frames.pixels, strict=True):
            assert hidden(picture) == (time_us < 5 * S)
    for time_us in (300_000, 1_900_000, 4_900_000, 5_000_000):
        assert hidden(jpeg(still(str(path), time_us, edit=hiding(path, squares)).jpeg)) == (time_us < 5 * S), time_us
    made = clip(str(path), S // 2, 6 * S, tmp_path / "c.mp4", edit=hiding(path, squares).following(S // 2, 6 * S))
    with av.open(str(made.path)) as container:
        assert [hidden(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(("start", "end"), [(0.5, 4.5), (3.0, 4.5), (0.5, 2.0)])
def test_clips_hide_a_second_before_and_after(film: Path, tmp_path: Path, start: float, end: float) -> None:
    """A find outside of the clip too."""
    edit = hiding(film, Squares()).following(round(start * S), round(end * S))
    made = clip(str(film), round(start * S), round(end * S), tmp_path / "clip.mp4", edit=edit)
    with av.open(str(made.path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    times = [round(start * S) + i * S // 10 for i in range(made.frames)]
    assert len(frames) == made.frames == round((end - start) * 10)
    # A frame of a tenth of a second is near where its last moment is, and where the find's last one is.
    around = range(FOUND_US - S - S // 10 + 1, FOUND_US + S + S // 10)
    assert [t for t, f in zip(times, frames, strict=True) if hidden(f)] == [t for t in times if t in around]


# --- The detectors of a run, and no others.


def windows_of(video: Video, sampling: Sampling) -> None:
    list(decode_windows(video, [Window("v", 0, 0, S)], sampling))


def test_workers_refuse_to_hide_by_other_detectors(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = find_model("signals").profile({})
    weights = write_square_finder(tmp_path / "squares.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(FACE_MODEL, raising=False)
    config = configure(profile, redact="faces=squares.onnx")
    assert config.sampling.redact == (f"faces={weights}",), "whole: workers stand elsewhere"
    assert configure(profile, redact=f"faces={weights}").config_hash == config.config_hash
    monkeypatch.setenv(FACE_MODEL, "squares.onnx")
    assert configure(profile, redact="faces") == config, "the variable is the driver's alone"
    told = config.as_json()["sampling"]
    assert "redact_identity" not in told and str(tmp_path) not in str(told)

    video = opened(str(film))
    windows_of(video, config.sampling)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv(FACE_MODEL)
    windows_of(video, config.sampling)
    (elsewhere / "squares.onnx").write_bytes(weights.read_bytes())
    weights.unlink()
    windows_of(video, config.sampling)  # a job's files lie where its processes stand
    (elsewhere / "squares.onnx").write_bytes((elsewhere / "squares.onnx").read_bytes() + b"\x7a\x00")
    with pytest.raises(VideoError, match=r"redaction: node .* has other detectors .*weights_hash") as caught:
        windows_of(video, config.sampling)
    assert caught.value.reason == "redaction"
    (elsewhere / "squares.onnx").unlink()
    with pytest.raises(VideoError, match=r"redaction: node .* cannot hide .*squares\.onnx' is no file"):
        windows_of(video, config.sampling)


def test_a_decode_task_says_once_why_it_refuses_and_that_it_lives(
    film: Path, squares: Squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers import decode
    from workers.work import Parcel

    monkeypatch.setattr(decode, "ALIVE_S", 0.0)
    monkeypatch.setattr(decode.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    video = opened(str(film))

    def pieces(sampling: Sampling) -> list[Parcel]:
        task = decode._decode_segments._function
        given = task((Segment(video, 0, 0),), Windowing(6 * S, 0), sampling, None, 1)
        return [piece for piece in given if isinstance(piece, Parcel)]

    parcels = pieces(pledged(SEEN))
    assert [len(p.windows) for p in parcels if p.windows] == [1] and len(parcels) >= 12, "a sign of life for each frame"
    squares.identity["detectors"] = [{"what": "squares", "weights_hash": "a"}]
    held_to = pledged(SEEN)
    squares.identity["detectors"] = [{"what": "squares", "weights_hash": "b"}]
    (refused,) = pieces(held_to)
    assert refused.failed[0][0] == "redaction" and '"weights_hash": "b"' in refused.failed[0][1]


def test_submitted_jobs_take_the_weights_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    from jobs.package import localise

    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    folder = tmp_path / "job"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FACE_MODEL, "yunet.onnx")
    values = Namespace(archive=["a.mp4"], log="LOG", model="signals", redact="text,faces")
    localise(values, folder)
    assert values.redact == "faces=yunet.onnx,text" and (folder / "yunet.onnx").read_bytes() == b"weights"
    monkeypatch.chdir(folder)
    monkeypatch.delenv(FACE_MODEL)
    assert parse(values.redact) == (f"faces={folder / 'yunet.onnx'}", "text")


def test_the_bench_finds_portraits_in_wheels_and_draws_in_pictures_of_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.bench.redact import scenes
    from jobs.bench.redact_faces import installed_portraits, portrait

    assert all(len(frames) == 3 for frames in scenes(3, 3, (398, 224)))
    photograph = tmp_path / "skimage" / "data" / "astronaut.png"
    photograph.parent.mkdir(parents=True)
    (tmp_path / "skimage" / "__init__.py").touch()
    cv2.imwrite(str(photograph), np.full((512, 512, 3), 9, np.uint8))
    monkeypatch.syspath_prepend(tmp_path)
    (told,) = [said for said in installed_portraits() if "skimage" in said]
    picture, box = portrait(told)
    assert picture.shape == (512, 512, 3) and box == (177, 70, 268, 172)
