"""Redaction: what is found is gone for good, in its neighbours too; part of the configuration; never left out."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.decode import decode_times, decode_windows
from pipeline.decode.engine import Answer
from pipeline.detectors import FACE_MODEL, detector
from pipeline.errors import LogError, UsageError
from pipeline.fingerprint import fingerprint
from pipeline.log import EventLog, RunRecord, VideoResult
from pipeline.plan import Sampling, Window, Windowing
from pipeline.redact import Redactor, covered, hidden_at, parse, redactor
from pipeline.redacted import editor
from pipeline.stills import opened, pictures
from pipeline.video import Source

S = 1_000_000


def page(words: str = "AB 123 CD", x: int = 60, code: str = "https://example.org/7") -> np.ndarray:
    picture = np.full((360, 640, 3), 120, np.uint8)
    cv2.putText(picture, words, (x, 200), (250, 250, 250), cv2.FontFace("sans"), 40, 500)
    if code:
        drawn = cv2.resize(cv2.QRCodeEncoder.create().encode(code), (110, 110), interpolation=cv2.INTER_NEAREST)
        picture[230:340, 500:610] = drawn[..., None]
    return picture


@pytest.fixture(scope="module")
def hider() -> Redactor:
    return redactor(("codes", "text"))


def test_text_and_codes_are_gone(hider: Redactor) -> None:
    before = page()
    after = hider.picture(before)
    words, code = np.s_[165:205, 58:250], np.s_[235:335, 505:605]
    assert (before[words] > 200).any() and not (after[words] > 200).any()
    assert cv2.QRCodeDetector().detectAndDecode(before)[0] and not cv2.QRCodeDetector().detectAndDecode(after)[0]
    assert after[code].std() < 30, "one colour, or two where two finds overlap"
    assert (after[:120] == before[:120]).all(), "the rest stays as it is"
    assert before is not after and (before == page()).all()


@pytest.mark.parametrize(
    ("degrees", "sizes"),
    [
        (0, [(95, 42), (142, 99), (237, 106), (285, 60), (380, 60)]),
        (8, [(142, 64), (285, 60)]),
        (45, [(190, 86)]),
        (90, [(142, 64), (285, 60)]),
    ],
)
def test_bar_codes_are_hidden_to_the_last_row(degrees: float, sizes: list[tuple[int, int]]) -> None:
    """Each row of bars that stays open tells the whole number. On plain grounds and on uneven ones."""
    from jobs.bench.bar_codes import draw, with_check

    hide, reader, random = redactor(("codes",)), cv2.barcode.BarcodeDetector(), np.random.default_rng(7)
    uneven = cv2.resize(random.integers(60, 200, (6, 9)).astype(np.uint8), (640, 360), interpolation=cv2.INTER_CUBIC)
    readable = 0
    for wide, high in sizes:
        for ground in (np.full((360, 640), 120, np.uint8), uneven):
            picture = ground.copy()
            bars = draw(picture, with_check(f"4006381{wide:05d}"), wide, high, 320, 180, degrees)
            before = np.ascontiguousarray(np.repeat(picture[..., None], 3, 2))
            boxes = hide.boxes(before)
            hidden = np.zeros_like(bars)
            for left, top, right, bottom in boxes:
                hidden[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
            assert hidden[bars].all(), f"{wide}x{high}: {1 - hidden[bars].mean():.1%} of it are open"
            assert hidden.sum() < 6 * bars.sum() + 2000 or degrees == 45
            readable += bool(any(reader.detectAndDecodeMulti(before)[1] or ()))
            assert not any(reader.detectAndDecodeMulti(covered(before, boxes))[1] or ())
    assert readable, "else this shows nothing"


def test_what_a_detector_found_of_bars_is_never_less_for_growing() -> None:
    """Also of finds that are no code, hardly anything, or lie outside; and pictures of a pixel do no harm."""
    from pipeline.bars import whole

    random = np.random.default_rng(0)
    for number in range(60):
        high, wide = random.integers(2, 120, 2)
        picture = random.integers(0, 255, (high, wide)).astype(np.uint8) // (1 + 254 * (number % 3 == 0))
        size = random.choice([0, 0.3, 3, 60, 300])
        found = random.uniform(-20, 130, (1, 2)) + random.uniform(-1, 1, (4, 2)) * size
        points = whole(picture, found)
        assert np.isfinite(points).all()
        assert (points.min(0) <= found.min(0)).all() and (points.max(0) >= found.max(0)).all()
    for shape in ((1, 1, 3), (41, 1, 3), (2, 7, 3)):
        assert redactor(("codes",)).boxes(np.zeros(shape, np.uint8)) == []


def test_what_is_filled_says_nothing_of_what_was_there() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (40, 60, 3)).astype(np.uint8)
    after = covered(picture, [(10, 5, 30, 25), (50, 30, 99, 99), (-9, -9, -1, -1)])
    assert len(np.unique(after[5:25, 10:30].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(after[30:, 50:].reshape(-1, 3), axis=0)) == 1
    outside = np.ones((40, 60), bool)
    outside[5:25, 10:30] = outside[30:, 50:] = False
    assert (after[outside] == picture[outside]).all()


def test_a_find_is_held_in_time_and_on_its_way() -> None:
    found = [
        (0, [(0, 0, 10, 10)]),
        (S // 2, []),
        (S, [(16, 0, 26, 10)]),
        (3 * S // 2, []),
        (2 * S, []),
        (5 * S // 2, []),
    ]
    assert (0, 0, 26, 10) in hidden_at(S // 2, found), "all of the way between two finds"
    assert hidden_at(3 * S // 2, found) == [(16, 0, 26, 10)] == hidden_at(2 * S, found), "a second after the last find"
    assert hidden_at(5 * S // 2, found) == []
    far = [(0, [(0, 0, 10, 10)]), (S // 2, []), (S, [(300, 0, 310, 10)])]
    assert sorted(hidden_at(S // 2, far)) == [(0, 0, 10, 10), (300, 0, 310, 10)], "two things are not one that moved"


def test_what_is_always_found_does_not_end_the_way_of_what_is_not() -> None:
    caption = (0, 200, 300, 220)
    found = [(i * S // 2, [caption]) for i in range(5)]
    found[0] = (0, [caption, (0, 0, 10, 10)])
    found[3] = (3 * S // 2, [caption, (16, 0, 26, 10)])
    assert (0, 0, 26, 10) in hidden_at(S, found) and (0, 0, 26, 10) in hidden_at(S // 2, found)


def test_frames_that_the_detector_misses(hider: Redactor) -> None:
    """A frame so dark that nothing is found in it, between two in which the same words are."""
    pixels = [page(code=""), page(code="") // 40, page(code="")]
    assert hider.boxes(pixels[1]) == []
    answers = [Answer(i * S // 2, i * S // 2, (i + 1) * S // 2, p) for i, p in enumerate(pixels)]
    given = list(hider.answers(answers))
    assert given.count(None) == 3, "a sign of life for each frame"
    after = [a for a in given if a is not None]
    assert [a.at_us for a in after] == [a.at_us for a in answers] and after[1].pixels is not None
    assert len(np.unique(after[1].pixels[170:205, 60:240].reshape(-1, 3), axis=0)) <= 2


def film_of(path: Path, words: str = "AB 123 CD") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"preset": "ultrafast", "crf": "16"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 640, 360, "yuv420p", 1
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(page(words, x=60 + 8 * i, code=""), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film_of(tmp_path_factory.mktemp("redact") / "film.mp4")


def bright(picture: np.ndarray) -> bool:
    """Whether anything as bright as the words is to be seen."""
    return bool((picture.min(axis=2) > 200).sum() > 40)


def test_no_frame_leaves_the_decode_room_unredacted(film: Path) -> None:
    video = opened(str(film))
    plain = Sampling(fps=Fraction(2), short_side=None)
    windows = [Window("v", 0, 0, 1_500_000), Window("v", 1, 1_000_000, 2_000_000)]
    for _, frames in decode_windows(video, windows, plain):
        assert len(frames) and all(bright(p) for p in frames.pixels)
    hidden = Sampling(fps=Fraction(2), short_side=None, redact=("text",))
    for (_, frames), (_, seen) in zip(
        decode_windows(video, windows, hidden), decode_windows(video, windows, plain), strict=True
    ):
        assert frames.time_us.tolist() == seen.time_us.tolist()
        assert not any(bright(p) for p in frames.pixels)
    with pytest.raises(UsageError, match="not redacted"):
        list(decode_times(video, [0], hidden))


def config(**sampling: object) -> RunConfig:
    return RunConfig(Sampling(**sampling), Windowing(), "m", "w")  # type: ignore[arg-type]


def test_redaction_is_part_of_the_configuration(tmp_path: Path) -> None:
    from tests.pipeline.yunet import write_square_finder

    assert "redact" not in config().as_json()["sampling"], "logs made before go on as they are"
    told = config(redact=("text",)).as_json()["sampling"]["redact"]
    (used,) = told["detectors"]
    assert used["what"] == "text" and len(used["weights_hash"]) == 32
    assert config(redact=("text",)).config_hash != config().config_hash
    here, there = write_square_finder(tmp_path / "a.onnx"), write_square_finder(tmp_path / "b.onnx")
    one, other = (config(redact=(f"faces={p}",)) for p in (here, there))
    assert one.config_hash == other.config_hash, "the weights count, not where they lie"
    assert str(tmp_path) not in json.dumps(one.as_json())


def test_faces_are_covered_whole_by_opencvs_detector(tmp_path: Path) -> None:
    """With weights made here that find white squares of 32 px: what is tested is the way to the detector and back."""
    from tests.pipeline.yunet import write_square_finder

    hide = Redactor((f"faces={write_square_finder(tmp_path / 'squares.onnx')}",))
    for shape, scale in (((480, 640), 1), ((240, 320), 2), ((608, 480), 1)):
        picture = np.full((*shape, 3), 60, np.uint8)
        at = [v // scale for v in (96, 128, 160, 192)]
        picture[at[0] : at[1], at[2] : at[3]] = 255
        after = hide.picture(picture)
        assert after[at[0] : at[1], at[2] : at[3]].max() < 250 and (after[: at[0] // 2] == 60).all()
        (box,) = hide.boxes(picture)
        assert box[0] < at[2] and box[1] < at[0] and box[2] > at[3] and box[3] > at[1], "with room around it"


def log_of(folder: Path, film: Path, redact: tuple[str, ...]) -> str:
    uri = str(folder / "log")
    events = EventLog.open(uri, create=True)
    events.begin_run(RunRecord("run-1", "c1", config(redact=redact).as_json(), "m", "w", "0", {}, 1))
    identity = fingerprint(Source(str(film), film.stat().st_size))
    events.commit([VideoResult(identity, "run-1", "c1", (str(film),), 1000, "done", duration_us=2 * S, offset_us=0)])
    events.finish_run("run-1", {}, "done")
    return uri


def test_pictures_of_a_redacted_run_are_redacted(
    tmp_path: Path, film: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.cli import main

    monkeypatch.chdir(tmp_path)
    log = log_of(tmp_path, film, ("text",))
    assert main(["frame", log, "film.mp4", "1", "--out", "still.jpg"]) == 0
    (shown,) = [picture for _, _, picture in pictures(str(film), [S])]
    assert shown is not None and bright(shown)
    assert not bright(cv2.imread("still.jpg"))
    assert main(["clip", log, "--video", "film.mp4", "--between", "0", "1.5", "--out", "clip.mp4"]) == 0
    with av.open("clip.mp4") as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 3 and not any(bright(f) for f in frames)
    assert "0 of them copied" in capsys.readouterr().out


def test_pictures_are_refused_where_the_detectors_are_others(
    tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.pipeline.yunet import write_square_finder

    weights = write_square_finder(tmp_path / "squares.onnx")
    log = log_of(tmp_path, film, (f"faces={weights}",))
    monkeypatch.delenv(FACE_MODEL, raising=False)
    with pytest.raises(UsageError, match=r"hid faces by OpenCV's YuNet.*name the weights"):
        editor(log, "run-1", str(film))
    monkeypatch.setenv(FACE_MODEL, str(weights))
    assert editor(log, "run-1", str(film)) is not None
    weights.write_bytes(weights.read_bytes() + b"\x7a\x00")  # with an empty field that nobody knows
    with pytest.raises(UsageError, match="by other weights than those here"):
        editor(log, "run-1", str(film))
    with pytest.raises(LogError, match="no row tells what run run-2 was to hide"):
        editor(log, "run-2", str(film))
    (tmp_path / "open").mkdir()
    assert editor(log_of(tmp_path / "open", film, ()), "run-1", str(film)) is None, "a run that hid nothing"


def test_frames_writes_redacted_stills(tmp_path: Path, film: Path) -> None:
    from jobs.cli import main

    common = [str(film), "--redact", "text", "--short-side", "0", "--out", str(tmp_path)]
    assert main(["frames", *common, "--at", "1"]) == 0 and main(["frames", *common, "--fps", "1", "--end", "0.9"]) == 0
    stills = sorted(tmp_path.iterdir())
    assert len(stills) == 2 and not any(bright(cv2.imread(str(p))) for p in stills)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("smiles", "what can be hidden is faces, text, codes"),
        ("text=x", "what can be hidden is"),
        ("faces=/nowhere/yunet.onnx", "'/nowhere/yunet.onnx' is no file"),
    ],
)
def test_bad_names(what: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        detector(what)


def test_weights_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a net")
    with pytest.raises(UsageError, match=r"bad\.onnx: OpenCV cannot find faces with these weights"):
        detector(f"faces={tmp_path / 'bad.onnx'}")


def test_parse() -> None:
    assert parse(" text, faces=/a/b.onnx,text") == ("faces=/a/b.onnx", "text")
    with pytest.raises(UsageError, match="say what to hide"):
        parse(" , ")


def test_faces_without_weights_are_found_by_dlib_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are in its code; where it is not installed, one error says what to install."""
    monkeypatch.delenv("SECONDSIGHT_FACE_MODEL", raising=False)
    dlib = pytest.importorskip("dlib")
    find = detector("faces")
    assert find.identity()["dlib"] == dlib.__version__
    assert find(np.full((90, 160, 3), 128, np.uint8)) == []
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(UsageError, match=r"secondsight\[faces\]"):
        detector("faces")


@pytest.mark.parametrize(("size", "px"), [((640, 360), 56), ((398, 224), 34)])
def test_a_photographed_face_is_hidden_whole(size: tuple[int, int], px: int) -> None:
    from jobs.bench.redact_faces import installed_portraits, portrait, scene

    pytest.importorskip("dlib")
    people = installed_portraits()
    if not people:
        pytest.skip("no portrait here: pip install --no-deps scikit-image (or matplotlib)")
    hide = redactor(("faces",))
    for number, person in enumerate(people):
        picture, (left, top, right, bottom) = scene(portrait(person), px, np.random.default_rng(number), size)
        face = (hide.picture(picture) != picture).any(2)[top:bottom, left:right]
        assert face.mean() > 0.95
        assert (hide.picture(picture) == picture).all(2).mean() > 0.8, "and little else"
