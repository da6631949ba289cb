"""Grouped commits in a thread, and what a log that fails does to a run."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pytest

from pipeline.errors import LogError
from pipeline.event import KindRule, WindowEvent, WindowEvents
from pipeline.log.records import VideoResult
from pipeline.plan import Window
from pipeline.video import Video
from workers.commit import BACKLOG, GROUP, Committer, video_result
from workers.work import Answer, Decoded, Watched


class _Log:
    """Keeps what it is given; waits for `go`, fails when told to."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.names: dict[str, list[str]] = {}
        self.go = threading.Event()
        self.broken = False
        self.threads: set[str] = set()

    def commit(self, results: Sequence[VideoResult]) -> None:
        self.go.wait(10)
        if self.broken:
            raise LogError("no space left")
        self.threads.add(threading.current_thread().name)
        self.groups.append([r.video_id for r in results])

    def record_names(self, names: Mapping[str, Sequence[str]]) -> None:
        for video_id, uris in names.items():
            assert video_id in [v for g in self.groups for v in g]  # never before its video
            self.names.setdefault(video_id, []).extend(uris)


def _result(number: int) -> VideoResult:
    return VideoResult(f"v{number}", "r", "c", (f"{number}.mp4",), 1, "done")


def test_videos_are_committed_in_groups_once_each_and_names_after_them() -> None:
    log = _Log()
    committer = Committer(log)
    for number in range(2 * GROUP):
        committer.add(_result(number))
        committer.pump()  # the first group goes when it is full and waits in the log; the rest piles up behind it
    committer.add_name("v3", "other.mp4")
    assert not committer.full()
    for number in range(2 * GROUP, 2 * GROUP + BACKLOG):
        committer.add(_result(number))
    assert committer.full()
    log.go.set()
    committer.finish()
    assert [len(g) for g in log.groups] == [GROUP, GROUP + BACKLOG]
    assert sorted(v for g in log.groups for v in g) == sorted(f"v{n}" for n in range(2 * GROUP + BACKLOG))
    assert log.names == {"v3": ["other.mp4"]}
    assert threading.current_thread().name not in log.threads and committer.committed == 2 * GROUP + BACKLOG


def test_a_log_that_fails_is_told_by_the_next_call() -> None:
    log = _Log()
    log.broken = True
    log.go.set()
    committer = Committer(log)
    for number in range(GROUP):
        committer.add(_result(number))
    committer.pump()
    with pytest.raises(LogError, match="no space left"):
        committer.finish()


def test_the_row_of_a_video_holds_its_windows_its_reduced_events_and_what_was_lost() -> None:
    video = Video("v", ("a.mp4",), 7, 20_000_000, 5, 64, 48, 90, "h264", 25.0, 0)
    windows = [Window("v", 0, 0, 11_000_000), Window("v", 1, 10_000_000, 20_000_000)]
    said = [
        WindowEvents(windows[0], (WindowEvent(9_000_000, 11_000_000, "k", "x", continues_after=True),), model_s=0.5),
        WindowEvents(
            windows[1], (WindowEvent(0, 2_000_000, "k", "x"), WindowEvent(5, 1, "k", "backwards")), truncated=True
        ),
    ]
    answers = tuple(
        Answer(Decoded(w, (w.start_us,), (), 0.25, 10), e, 2, "replica-1") for w, e in zip(windows, said, strict=True)
    )
    lost = ((0, 5), (3, 9), (20, 30))
    watched = Watched(video, "done", "", answers, lost)
    result, dropped = video_result(watched, ["a.mp4", "b.mp4"], "r", "c", {"k": KindRule()})
    assert [(e.start_us, e.end_us, e.window_first, e.window_last) for e in result.events] == [
        (9_000_000, 12_000_000, 0, 1)
    ]
    assert dropped == {"ends before it starts": 1}
    assert result.uris == ("a.mp4", "b.mp4") and result.lost_us == ((0, 9), (20, 30))
    first, second = result.windows
    assert (first.frame_us, first.attempt, first.replica, first.decode_s, first.model_s) == (
        (0,),
        2,
        "replica-1",
        0.25,
        0.5,
    )
    assert second.truncated and not first.truncated
