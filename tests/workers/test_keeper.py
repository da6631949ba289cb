"""The keeper of unfinished windows: what it wrote comes back to the next driver; memory holds only what is fresh."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from pipeline.event import WindowEvent, WindowEvents
from pipeline.kept import kept_files
from pipeline.log import EventLog
from pipeline.log.store import open_store
from pipeline.plan import SECOND_US, Windowing
from pipeline.video import Video
from workers import keeper as module
from workers.keeper import LEVELS, MAX_FILES, Keeper
from workers.work import Answer, Decoded

WINDOWING = Windowing(4 * SECOND_US, SECOND_US)
COUNT = 3000
VIDEO = Video("v", ("/v.mp4",), 1, 3 * COUNT * SECOND_US, 0, 64, 48, 0, "h264", 25.0, 0)


def answer(index: int) -> Answer:
    window = WINDOWING.window("v", index, VIDEO.duration_us)
    said = WindowEvents(window, (WindowEvent(0, SECOND_US, "level", f"window {index}"),))
    return Answer(Decoded(window, (window.start_us,), (), 0.1, 9216), said, 1, "replica-1")


def keeper(log: Path) -> Keeper:
    return Keeper(str(log), "c", every_s=0.0)


def back(log: Path) -> list[Answer]:
    """What the next driver finds."""
    loading = keeper(log).load(VIDEO, WINDOWING)
    return [] if loading is None else list(loading.result())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    EventLog.open(str(tmp_path / "log"), create=True)
    return tmp_path / "log"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Nothing can be written while there is something in it."""
    real, full = module.keep, {"disk"}

    def keep(*given: Any) -> str:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    monkeypatch.setattr(module, "keep", keep)
    return full


def test_thousands_of_small_files_become_few_and_hold_every_window(log: Path) -> None:
    wrote = keeper(log)
    for first in range(0, COUNT, 2):  # out of order, as they come
        wrote.note([answer(first + 1), answer(first)])
        wrote.pump(now=True)
        kept = wrote._videos["v"]
        if kept.writing is not None:
            kept.writing.result()
        assert len(kept.fresh) <= 2, "what is written is held no longer"
    wrote.finish()
    files = kept_files(open_store(str(log)), "c")["v"]
    assert len(files) < LEVELS * MAX_FILES
    assert back(log) == [answer(index) for index in range(COUNT)]


def test_a_store_that_fails_is_given_the_same_answers_again(log: Path, full: set[str]) -> None:
    wrote = keeper(log)
    for index in range(3):
        wrote.note([answer(index)])
        wrote.pump(now=True)
        kept = wrote._videos["v"]
        assert kept.writing is None or kept.writing.exception() is not None
    full.clear()
    wrote.finish()
    assert back(log) == [answer(index) for index in range(3)]


def test_joining_that_fails_leaves_the_small_files(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def join(*given: Any) -> tuple[str, list[str]]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "join", join)
    wrote = keeper(log)
    for index in range(MAX_FILES + 5):
        wrote.note([answer(index)])
        wrote.finish() if index == MAX_FILES + 4 else wrote.pump(now=True)
        if (writing := wrote._videos["v"].writing) is not None:
            writing.result()
    assert len(kept_files(open_store(str(log)), "c")["v"]) == MAX_FILES + 5
    assert len(back(log)) == MAX_FILES + 5


def test_what_was_taken_up_and_what_came_since_is_forgotten_when_the_video_is_done(log: Path) -> None:
    first = keeper(log)
    first.note([answer(0)])
    first.finish()
    second = keeper(log)
    assert second.begun(skip=()) == 1
    loading = second.load(VIDEO, WINDOWING)
    assert loading is not None and list(loading.result()) == [answer(0)]
    second.loaded("v")
    second.note([answer(1)])
    second.pump(now=True)  # may still be under way when the video is done
    second.forget(["v"])
    second.finish()
    assert back(log) == []


def test_a_video_that_ended_otherwise_leaves_its_answers_and_no_memory(log: Path, full: set[str]) -> None:
    """Also what was being written just then, and could not be."""
    wrote = keeper(log)
    wrote.note([answer(0)])
    wrote.pump(now=True)
    wrote.note([answer(1)])
    wrote.leave(["v"])
    writing = wrote._videos["v"].writing
    assert writing is not None and writing.exception() is not None
    full.clear()
    wrote.pump(now=True)
    writing = wrote._videos["v"].writing
    assert writing is not None and writing.exception() is None
    wrote.pump(now=True)
    assert not wrote._videos
    wrote.finish()
    assert back(log) == [answer(0), answer(1)]
