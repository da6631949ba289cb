"""Exports of videos whose names are not their own: each keeps its events, in every format."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.export import Exported, short_names
from pipeline.log import EventLog
from tests.pipeline.logs import event, run_record, video_result

#: (id, path, what is seen): two contents under one path, and two paths that are one when written as a file's name.
VIDEOS = [
    ("a" * 32, "/archive/film.mp4", "old"),
    ("b" * 32, "/archive/film.mp4", "new"),
    ("c" * 32, "/archive/x:y.mp4", "colon"),
    ("d" * 32, "/archive/x_y.mp4", "line"),
    ("e" * 32, "/archive/other", "no suffix"),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = EventLog.open(str(tmp_path_factory.mktemp("export") / "log"), create=True)
    made.begin_run(run_record())
    for video_id, path, text in VIDEOS:
        result = video_result(path, [event(0, 5_000_000, text=text)])
        made.commit([replace(result, video_id=video_id, uris=(path,), windows=())])
    return made.uri


TEXTS = {text for _, _, text in VIDEOS}


def test_activitynet(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "events.json"
    assert main(["export", log, "--format", "activitynet", "--out", str(out)]) == 0
    database = json.loads(out.read_text())["database"]
    assert set(database) == {"film_aaaaaaaa", "film_bbbbbbbb", "x:y", "x_y", "other"}
    assert database["film_aaaaaaaa"]["annotations"][0]["text"] == "old"
    assert database["film_bbbbbbbb"]["video_id"] == "b" * 32 and database["film_bbbbbbbb"]["url"] == "/archive/film.mp4"
    assert main(["evaluate", log, str(out)]) == 0
    line = next(ln for ln in capsys.readouterr().out.splitlines() if ln.startswith("all"))
    assert line.split()[1:5] == ["5", "5", "1.000", "1.000"]


@pytest.mark.parametrize("suffix", ["vtt", "srt"])
def test_subtitles(log: str, tmp_path: Path, suffix: str) -> None:
    assert main(["export", log, "--format", suffix, "--out", str(tmp_path / "out")]) == 0
    files = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert len(files) == len(VIDEOS) and {f"film_{c * 8}.{suffix}" for c in "ab"} < set(files)
    assert {t for t in TEXTS if any(f": {t}\n" in said for said in files.values())} == TEXTS


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (["vtt", "--video", "other", "--out", "x.vtt"], ["x.vtt"]),
        (["vtt", "--video", "other", "--out", "x.VTT"], ["x.VTT"]),
        (["srt", "--video", "other", "--out", "x"], ["x/other.srt"]),
        (["srt", "--video", "other", "--out", "x.srt/"], ["x.srt/other.srt"]),
        (["srt", "--video", "other", "--out", "-"], []),
        (["csv", "--out", "-"], []),
        (["csv", "--out", "events.tsv"], ["events.tsv"]),
        (["activitynet", "--out", "-"], []),
    ],
)
def test_where_it_goes(
    log: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    made: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", log, "--format", *arguments]) == 0
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == made
    assert ("no suffix" in capsys.readouterr().out) == (not made)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vtt", "--video", "other", "--out", "x.srt"], "x.srt is no name for vtt: name a .vtt file"),
        (["srt", "--out", "all.srt"], "the subtitles of 5 videos are a file each, and all.srt looks like one file"),
        (["srt", "--out", "-"], "--format FORMAT needs --out with a folder: the subtitles of 5 videos are a file each"),
        (["vtt"], "--format FORMAT needs --out with a folder: the subtitles of 5 videos are a file each"),
        (["fiftyone", "--out", "x.json"], "fiftyone is several files, and x.json looks like one file"),
        (["fiftyone", "--out", "-"], "--format fiftyone needs --out with a folder: fiftyone is several files"),
        (["csv", "--out", "x/"], "x/ is a folder, and csv is one file: name a .csv file"),
        (["activitynet", "--out", "x.vtt"], "x.vtt is no name for activitynet: name a .json file"),
    ],
)
def test_where_it_cannot_go(
    log: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", log, "--format", *arguments]) == 1
    assert said.replace("FORMAT", arguments[0]) in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_fiftyone(log: str, tmp_path: Path) -> None:
    assert main(["export", log, "--format", "fiftyone", "--out", str(tmp_path / "out")]) == 0
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]
    data = json.loads((tmp_path / "out" / "data.json").read_text())
    assert {found[0]["attributes"]["text"] for found in labels.values()} == TEXTS
    assert {Path(key).with_suffix("").name for key in data} == set(labels) and len(data) == len(VIDEOS)


def test_csv(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", log, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {(row["video_id"], row["video"], row["text"]) for row in rows} == set(VIDEOS)


def test_names_are_different_whatever_videos_are_called() -> None:
    def named(*names: str) -> list[str]:
        films = [Exported(f"{i:032x}", name, None, None, None, []) for i, name in enumerate(names)]
        return list(short_names(films).values())

    assert named("a/x.mp4", "b/y.mp4") == ["x", "y"]
    assert named("a/x.mp4", "b/x.mp4") == ["a/x.mp4", "b/x.mp4"]
    strange = ["x", "a/x.mp4", "x.b", "c/x.b.mp4", "a/x.mp4", f"d/x_{'0' * 8}.mp4", f"d/x_{'0' * 32}.mp4", ""]
    assert len(set(named(*strange))) == len(strange)
