"""`secondsight demo`, from drawing to answers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.demo import archive, command
from jobs.demo.truth import TruthEvent

S = 1_000_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One film of the archive, at a quarter of its size."""
    films = (replace(archive.FILMS[0], width=320, height=180),)
    monkeypatch.setattr(command, "FILMS", films)
    monkeypatch.setattr(command, "write_archive", lambda folder, seed: archive.write_archive(folder, seed, films))


def test_whole_demo(
    small: None, ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--model", "signals"]) == 0
    said = capsys.readouterr().out
    assert "1 videos, 0:22 in all, in demo/archive" in said
    assert "What happened at second" in said and "first light.mp4?" in said
    assert "needs a model" in said
    assert "text 2 of 2" in said  # the title, and the words that the question is about
    assert "secondsight query demo/log --video 'first light.mp4' --at" in said
    drawn = os.stat("demo/archive/first light.mp4").st_mtime_ns
    assert main(["demo", "--model", "signals"]) == 0
    again = capsys.readouterr().out
    assert "there already" in again
    assert again[again.index("What happened") :] == said[said.index("What happened") :]
    assert os.stat("demo/archive/first light.mp4").st_mtime_ns == drawn


def test_archive_only(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--archive-only", str(tmp_path / "here")]) == 0
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["again", "first light.mp4", "truth.json"]
    assert "made in" in capsys.readouterr().out


def test_damaged_archive_is_made_again(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo", "--archive-only", str(tmp_path)])
    (tmp_path / "first light.mp4").unlink()
    (tmp_path / "truth.json").write_text("[]")
    assert main(["demo", "--archive-only", str(tmp_path)]) == 0
    assert (tmp_path / "first light.mp4").stat().st_size > 10_000
    assert capsys.readouterr().out.count("made in") == 2


def test_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--archive-only", str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_questions_ask_where_most_goes_on() -> None:
    truth = {
        "a.mp4": [TruthEvent(5 * S, 8 * S, "text", "ONE"), TruthEvent(6 * S, 9 * S, "move", "it moves")],
        "b.mp4": [TruthEvent(5 * S, 8 * S, "text", "TWO"), TruthEvent(9 * S, 12 * S, "black", "black")],
    }
    assert command.questions(truth, ("text", "black")) == [("a.mp4", 6), ("b.mp4", 10)]


@pytest.mark.parametrize(
    ("kind", "text", "start", "end", "same"),
    [
        ("text", "one", 5.2, 7.9, True),
        ("text", "other", 5.0, 8.0, False),
        ("move", "ONE", 5.0, 8.0, False),
        ("text", "ONE", 6.9, 8.0, False),
        ("text", "ONE", 2.0, 12.0, False),
    ],
)
def test_what_counts_as_found(kind: str, text: str, start: float, end: float, same: bool) -> None:
    row = {"kind": kind, "text": text, "start_us": start * S, "end_us": end * S}
    assert command._same(TruthEvent(5 * S, 8 * S, "text", "ONE"), row) is same
    cut = {"kind": "cut", "text": "cut", "start_us": start * S, "end_us": end * S}
    assert command._same(TruthEvent(5 * S, 5 * S + 40_000, "cut", "cut"), cut) is (abs(start - 5) <= 0.5)
