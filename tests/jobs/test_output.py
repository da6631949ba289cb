"""Where answers go: a standard output that is full, closed, or of another encoding than UTF-8."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.event import Event
from pipeline.log import EventLog
from tests.pipeline.logs import run_record, video_result

S = 1_000_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = EventLog.open(str(tmp_path_factory.mktemp("output") / "log"), create=True)
    made.begin_run(run_record())
    said = Event(0, 2 * S, "text", "红色的圆形 😀", 0.95, 0, 0, (0,), {})
    made.commit([video_result("夜.mp4", [said])])
    return made.uri


ANSWERS = (
    "query LOG", "query LOG --format json", "query LOG --format parquet", "query LOG --density 1",
    "query LOG --video 夜.mp4 --gaps 1", "sql LOG from(events)", "log LOG", "export LOG --format csv",
    "ask LOG 红色?",
)  # fmt: skip


def asked(log: str, command: str) -> int:
    return main([{"LOG": log}.get(word, word) for word in command.split()])


@pytest.mark.parametrize("command", ANSWERS)
def test_a_full_disk_behind_standard_output_is_one_line(
    log: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for unbuffered in (False, True):  # held back to the end, and not
        with open("/dev/full", "wb", buffering=0 if unbuffered else -1) as full:
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full, "utf-8", write_through=unbuffered))
            status = asked(log, command)
            monkeypatch.undo()
        error = capsys.readouterr().err.splitlines()
        assert status == 1 and error[-1] == "secondsight: standard output cannot be written: No space left on device"


@pytest.mark.parametrize("command", ANSWERS)
def test_a_closed_standard_output_is_one_line(
    log: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert asked(log, command) == 1
    assert "secondsight: standard output is closed" in capsys.readouterr().err
    assert asked(log, f"{command} --out {tmp_path / 'out.csv'}") == 0 and (tmp_path / "out.csv").stat().st_size > 0


def test_an_error_of_the_system_elsewhere_is_not_blamed_on_the_output(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "another")

    monkeypatch.setattr("jobs.query.Query", broken)
    with pytest.raises(OSError, match="another"):
        asked(log, "query LOG")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_programs_get_utf_8_and_people_what_their_terminal_has(
    log: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("query LOG --format json", "query LOG --format csv", "ask LOG 红色? --format json", "query LOG",
                    "sql LOG from(events)", "export LOG --format vtt", "log LOG"):  # fmt: skip
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        assert asked(log, command) == 0, command
        if "--format" in command:
            text = written.getvalue().decode()
            assert "红色的圆形 😀" in text
            assert "json" not in command or json.loads(text)
        elif command != "log LOG":
            assert "\\U0001f600" in written.getvalue().decode(encoding), command


def test_confidences_are_said_as_they_were_written(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    """0.95, not 0.949999988079071, whoever is asked."""
    assert asked(log, "query LOG --format json") == 0
    [event] = json.loads(capsys.readouterr().out)
    for command in ("query LOG --format csv", f"query LOG --video 夜.mp4 --event {event['event_id']} --format json",
                    "search LOG 红色 --format jsonl", "ask LOG 红色? --format json", "sql LOG from(events)",
                    *(f"export LOG --format {name}" for name in ("csv", "activitynet"))):  # fmt: skip
        assert asked(log, command) == 0
        said = capsys.readouterr().out
        assert "0.95" in said and "0.9499" not in said, command
    assert event["confidence"] == 0.95
