"""`secondsight evaluate` on a log made without a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.evaluate import parse_moments, score
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.groundtruth import Truth
from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
from pipeline.plan import Window

S = 1_000_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two videos of 20 s, each seen in two windows that overlap from 10 s to 12 s."""
    uri = str(tmp_path_factory.mktemp("evaluate") / "log")
    events = EventLog.open(uri, create=True)
    events.begin_run(RunRecord("run-1", "c1", {}, "m", "w", "0", {}, 1))
    seen = {
        "a.mp4": [(1 * S, 3 * S, "move", "the red star moves left", 0.9), (11 * S, 13 * S, "text", "RIVER", 0.8),
                  (11 * S, 12 * S, "text", "RIVER", 0.3), (15 * S, 15 * S + 1, "cut", "cut", 0.7)],
        "v_b.webm": [(5 * S, 6 * S, "move", "the blue star moves up", 0.4)],
    }  # fmt: skip
    for number, (name, found) in enumerate(seen.items()):
        identity = f"{number:032x}"
        windows = [Window(identity, 0, 0, 12 * S), Window(identity, 1, 10 * S, 20 * S)]
        result = VideoResult(
            identity, "run-1", "c1", (f"/archive/{name}",), 1000, "done", duration_us=20 * S, offset_us=0,
            width=320, height=240, rotation=0, codec="h264", frame_rate=25.0,
            windows=tuple(WindowRecord(w, (w.start_us,)) for w in windows),
            events=tuple(Event(s, e, kind, text, c, 0, 1, (), {}) for s, e, kind, text, c in found),
        )  # fmt: skip
        events.commit([result])
    events.finish_run("run-1", {}, "done")
    return uri


def truth() -> dict[str, list[Truth]]:
    return {
        "a.mp4": [
            Truth(1 * S, 3 * S, "move", "the red star moves left"),
            Truth(11 * S, 13 * S, "text", "RIVER"),
            Truth(15 * S + 200_000, 15 * S + 240_000, "cut", "cut"),
        ],
        "b": [Truth(5 * S, 6 * S, "move", "the blue star moves down"), Truth(11 * S, 12 * S, "leave")],
    }


def test_a_log_is_scored(log: str) -> None:
    scores = score(log, truth(), moments={"cut": S})
    everything = scores.detection[0.5][""]
    assert (everything.truths, everything.predictions, everything.matched) == (5, 5, 4)
    assert scores.exact_text == 0.75
    assert scores.start_error_s.p95 == pytest.approx(0.17)
    assert scores.seams is not None
    assert (scores.seams.truths, scores.seams.lost, scores.seams.doubled) == (2, 1, 1)


def test_the_command_prints_and_writes_all_figures(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = {
        name: {"annotations": [
            {"segment": [e.start_us / S, e.end_us / S], "label": e.kind, "text": e.text} for e in found
        ]}
        for name, found in {**truth(), "missing.mp4": [Truth(0, S, "move")]}.items()
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    file = tmp_path / "scores.json"
    assert main(["evaluate", log, str(tmp_path / "truth.json"), "--moment", "cut=1", "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "missing.mp4: not in" in err
    assert "text exactly right   75.0%" in out and "2 events, 1 lost" in out
    figures = json.loads(file.read_text())
    assert figures["detection"]["0.5"]["all"] == {
        "truths": 6, "predictions": 5, "matched": 4, "precision": 0.8, "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(8 / 11),
    }  # fmt: skip


def test_wrong_calls_are_told_in_one_line(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", log, str(tmp_path / "none.json")]) == 1
    assert "none.json: cannot be read" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds none of the 1 videos"):
        score(log, {"other.mp4": []})
    with pytest.raises(UsageError, match="--moment cut"):
        parse_moments(["cut"])
