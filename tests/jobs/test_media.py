"""The commands that show pictures and export events, on a log of one real film made without a job."""

from __future__ import annotations

import csv
import json
import re
import xml.dom.minidom
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from jobs.bench.clips import read_number, write_clip
from jobs.cli import main
from pipeline.event import Event
from pipeline.fingerprint import fingerprint
from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
from pipeline.plan import Window
from pipeline.video import Source

S = 1_000_000
X264 = {"preset": "ultrafast", "crf": "20", "g": "30"}
HOSTILE = "1 < 2 & 3 > 2 --> \x1b[31m<b>bold</b>\n\n{\\an8} 出口"
EVENTS = [
    Event(1 * S, 3 * S, "move", "the red star moves left", 0.9, 0, 0, (1 * S,), {}),
    Event(2 * S, 5 * S, "text", HOSTILE, None, 0, 0, (), {"level": 1}),
    Event(4 * S, 4 * S, "cut", "cut", 0.5, 0, 0, (), {}),
    Event(3700 * S, 3701 * S, "move", "much later", 0.5, 0, 0, (), {}),
]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("media") / "film.v1.mp4", "libx264", 180, options=X264)


@pytest.fixture(scope="module")
def log(film: Path) -> str:
    uri = str(film.parent / "log")
    events = EventLog.open(uri, create=True)
    events.begin_run(RunRecord("run-1", "c1", {"sampling": {}}, "m", "w", "0", {}, 1))
    identity = fingerprint(Source(str(film), film.stat().st_size))
    for video_id, path, found in ((identity, str(film), EVENTS), ("f" * 32, "/gone/other.mp4", EVENTS[:1])):
        events.commit([
            VideoResult(
                video_id, "run-1", "c1", (path,), 1000, "done", duration_us=6 * S, offset_us=0, width=320, height=192,
                rotation=0, codec="h264", frame_rate=30.0, windows=(WindowRecord(Window(video_id, 0, 0, 6 * S), (0,)),),
                events=tuple(found),
            )
        ])  # fmt: skip
    events.finish_run("run-1", {}, "done")
    return uri


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files without a name of their own go to the working folder."""
    monkeypatch.chdir(tmp_path)
    yield


def numbers(path: str) -> list[int | None]:
    with av.open(path) as container:
        return [read_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def event_id(log: str, film: Path, event: Event) -> str:
    return event.event_id(fingerprint(Source(str(film), film.stat().st_size)), "run-1")


def test_clip_of_an_event(log: str, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clip", log, event_id(log, film, EVENTS[0]), "--out", "move.mp4"]) == 0
    assert numbers("move.mp4") == list(range(30, 90))
    assert "60 frames, 60 of them copied" in capsys.readouterr().out
    assert main(["clip", log, "cut", "--video", "film.v1.mp4"]) == 0
    assert numbers("film.v1_3.000-5.000.mp4") == list(range(90, 150)), "a moment has a second around it"
    assert main(["clip", log, "--video", "film.v1.mp4", "--between", "0:02.5", "2.9", "--out", "part.mkv"]) == 0
    assert numbers("part.mkv") == list(range(75, 87))


def test_frame_is_the_one_on_screen(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frame", log, "film.v1.mp4", "0:02.51", "--height", "96"]) == 0
    picture = cv2.imread("film.v1_2.500.jpg")
    assert picture.shape == (96, 160, 3) and read_number(picture) == 75
    assert "on screen from 0:02.5" in capsys.readouterr().out


def test_sheet_shows_the_middle_of_each_span(log: str) -> None:
    assert main(["sheet", log, "film.v1.mp4", "--columns", "3", "--rows", "2", "--width", "240", "--out", "s.jpg"]) == 0
    sheet = cv2.imread("s.jpg")[..., ::-1]
    gap, high = 14, 144
    cell = high + 6 + 19 * 4
    shown = [
        read_number(sheet[y : y + high, x : x + 240])
        for y in (2 * gap + 30, 2 * gap + 30 + cell + gap)
        for x in (gap, 2 * gap + 240, 3 * gap + 480)
    ]
    assert shown == [15, 45, 75, 105, 135, 165]
    caption = sheet[2 * gap + 30 + high : 2 * gap + 30 + cell, 2 * gap + 240 : 2 * gap + 480]
    assert np.abs(caption.astype(int) - (0, 114, 178)).sum(2).min() < 60, "the colour of the event that begins there"


def test_timeline_is_an_svg_with_every_event(log: str) -> None:
    assert main(["timeline", log, "film.v1.mp4", "--out", "t.svg"]) == 0
    drawn = xml.dom.minidom.parse("t.svg")
    titles = [t.firstChild.data for t in drawn.getElementsByTagName("title")]
    assert [t for t in titles if "red star" in t] == ["0:01 to 0:03  the red star moves left"]
    assert any("1 < 2 & 3 > 2" in t for t in titles)
    assert len(drawn.getElementsByTagName("image")) == 12


def test_timeline_without_the_file(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timeline", log, "other.mp4"]) == 0
    assert "without stills: /gone/other.mp4: vanished" in capsys.readouterr().err
    assert "red star" in Path("other_timeline.svg").read_text()


def test_activitynet_comes_back_through_evaluate(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", log, "--format", "activitynet", "--out", "events.json"]) == 0
    database = json.loads(Path("events.json").read_text())["database"]
    assert list(database) == ["other", "film.v1"] and database["film.v1"]["annotations"][0]["segment"] == [1.0, 3.0]
    assert main(["evaluate", log, "events.json", "--moment", "cut=1"]) == 0
    line = next(ln for ln in capsys.readouterr().out.splitlines() if ln.startswith("all"))
    assert line.split()[1:] == ["5", "5", "1.000", "1.000", "1.000", "1.000", "1.000"]


CLOCK = r"(\d\d+):([0-5]\d):([0-5]\d)[.,](\d{3})"


def seconds(match: tuple[str, ...]) -> float:
    return int(match[0]) * 3600 + int(match[1]) * 60 + int(match[2]) + int(match[3]) / 1000


def test_webvtt(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", log, "--format", "vtt", "--video", "film.v1.mp4"]) == 0
    text = capsys.readouterr().out
    header, *cues = text.rstrip("\n").split("\n\n")
    assert header == "WEBVTT" and len(cues) == 4
    for cue, event in zip(cues, EVENTS, strict=True):
        identity, times, said = cue.split("\n")
        assert re.fullmatch(r"[0-9a-f]{16}", identity)
        start, end = re.fullmatch(rf"{CLOCK} --> {CLOCK}", times).groups()[:4], times.split(" --> ")[1]  # type: ignore[union-attr]
        assert seconds(start) == event.start_us / S and end > times.split(" --> ")[0]
        assert "<" not in said and "-->" not in said and "\x1b" not in said
    assert "text: 1 &lt; 2 &amp; 3 &gt; 2 --&gt; [31m&lt;b&gt;bold&lt;/b&gt; {\\an8} 出口" in text
    assert "01:01:40.000 --> 01:01:41.000" in text


def test_libav_reads_the_subtitles(log: str) -> None:
    """A player's own parser finds the cues at their times."""
    for kind in ("vtt", "srt"):
        assert main(["export", log, "--format", kind, "--video", "film.v1.mp4", "--out", f"film.{kind}"]) == 0
        with av.open(f"film.{kind}") as container:
            packets = [p for p in container.demux() if p.size]
            starts = [round(float(p.pts * p.time_base), 3) for p in packets]
        assert starts == ([1, 2, 4, 3700] if kind == "vtt" else [1, 2, 3, 4, 3700])


def test_subtitles_in_srt_do_not_overlap(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", log, "--format", "srt", "--video", "film.v1.mp4"]) == 0
    blocks = capsys.readouterr().out.rstrip("\n").split("\n\n")
    assert [b.split("\n")[0] for b in blocks] == ["1", "2", "3", "4", "5"]
    spans = [[seconds(m) for m in re.findall(CLOCK, b.split("\n")[1])] for b in blocks]
    assert spans == [[1, 2], [2, 3], [3, 4], [4, 5], [3700, 3701]]
    assert [len(b.split("\n")) - 2 for b in blocks] == [1, 2, 1, 2, 1], "what goes on together stands together"
    assert "<b>" not in blocks[1] and "{\\" not in blocks[1]


def test_csv_and_folders(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", log, "--format", "csv", "--video", "film.v1.mp4", "--kind", "text"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines(keepends=True))
    assert (row["start"], row["end_us"], row["text"], row["confidence"]) == ("2.000000", "5000000", HOSTILE, "")
    assert main(["export", log, "--format", "vtt", "--out", "subtitles"]) == 0
    assert sorted(p.name for p in Path("subtitles").iterdir()) == ["film.v1.vtt", "other.vtt"]


def test_fiftyone_layout(log: str, film: Path) -> None:
    """What its importer reads: labels by name without suffix, the files by name with one."""
    assert main(["export", log, "--format", "fiftyone", "--out", "set"]) == 0
    labels, data = (json.loads(Path("set", name).read_text()) for name in ("labels.json", "data.json"))
    assert labels["classes"] == ["cut", "move", "text"] and set(labels["labels"]) == {"film.v1", "other"}
    found = labels["labels"]["film.v1"]
    assert [d["label"] for d in found] == ["move", "text", "cut", "move"]
    assert found[0]["timestamps"] == [1.0, 3.0] and found[0]["confidence"] == pytest.approx(0.9)
    assert found[2]["timestamps"][0] < found[2]["timestamps"][1] and "confidence" not in found[1]
    assert {key.rsplit(".", 1)[0]: path for key, path in data.items()}["film.v1"] == str(film)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["clip", "LOG", "ffffffff"], "no event 'ffffffff' in"),
        (["clip", "LOG", "move"], "'move' is not the id of an event"),
        (["clip", "LOG", "goal", "--video", "film.v1.mp4"], "no event of kind or text"),
        (["clip", "LOG"], "say what to cut"),
        (["clip", "LOG", "--between", "1", "2"], "needs --video"),
        (["clip", "LOG", "--video", "film.v1.mp4", "--between", "7", "8"], r"film\.v1\.mp4 is 0:06 long"),
        (["clip", "LOG", "--video", "film.v1.mp4", "--between", "3", "2"], "is empty"),
        (["clip", "LOG", "move", "--video", "film.v1.mp4", "--out", "there.mp4"], r"there\.mp4 exists already"),
        (["clip", "LOG", "move", "--video", "other.mp4"], r"/gone/other\.mp4: vanished"),
        (["frame", "LOG", "film.v1.mp4", "6"], r"film\.v1\.mp4 is 0:06 long: nothing is shown at 0:06"),
        (["frame", "LOG", "film.v1.mp4", "1:99"], "is not a time"),
        (["frame", "LOG", "film.v1.mp4", "1", "--out", "there.mp4"], r"there\.mp4 exists already"),
        (["frame", "LOG", "flim.v1.mp4", "1"], r"did you mean film\.v1\.mp4"),
        (["frame", "nowhere", "film.v1.mp4", "1"], "nowhere"),
        (["sheet", "LOG", "other.mp4"], "vanished"),
        (["sheet", "LOG", "film.v1.mp4", "--width", "9"], "40 to 2000 px wide"),
        (["sheet", "LOG", "film.v1.mp4", "--out", "there.mp4/s.jpg"], r"there\.mp4"),
        (["export", "LOG", "--format", "vtt"], "needs --out with a folder"),
        (["export", "LOG", "--format", "fiftyone"], "needs --out"),
        (["export", "LOG", "--format", "fiftyone", "--out", "there.mp4"], "looks like one file: name a folder"),
        (["export", "LOG", "--format", "csv", "--out", "there.mp4"], "exists already"),
        (["export", "LOG", "--format", "csv", "--video", "none.mp4"], "no video 'none.mp4'"),
    ],
)
def test_bad_input(log: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.mp4").write_text("mine")
    assert main([log if a == "LOG" else a for a in arguments]) == 1
    told = capsys.readouterr().err
    assert re.search(said, told) and told.startswith("secondsight: ") and "Traceback" not in told
    assert Path("there.mp4").read_text() == "mine"


def test_another_film_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "film.mp4", "libx264", 30, options=X264)
    events = EventLog.open(str(tmp_path / "log"), create=True)
    events.begin_run(RunRecord("run-1", "c1", {}, "m", "w", "0", {}, 1))
    events.commit([VideoResult("0" * 32, "run-1", "c1", (str(path),), 1000, "done", duration_us=S, offset_us=0)])
    assert main(["frame", str(tmp_path / "log"), "film.mp4", "0"]) == 1
    assert "film.mp4: changed: it is not the content that the log tells of" in capsys.readouterr().err
