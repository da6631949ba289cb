"""Questions as people put them: whatever the wording, the events that answer are found; where none does, it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.log import EventLog
from pipeline.query import Query
from pipeline.search import Search
from pipeline.search.ask import Found, ask
from tests.pipeline.logs import event, run_record, video_result

S = 1_000_000
HARBOUR = [
    event(1 * S, 4 * S, "text", "HARBOUR"),
    event(4 * S, 4 * S + 1, "cut", "cut"),
    event(5 * S, 7 * S, "change", "the blue heart becomes a square"),
    event(5 * S, 8 * S, "text", "GARDEN"),
    event(6 * S, 8 * S, "appear", "an orange star appears"),
    event(9 * S, 11 * S, "leave", "the orange star leaves"),
    event(12 * S, 13 * S, "black", "black"),
    event(56 * S, 58 * S, "move", "the pink diamond moves left"),
    event(57 * S, 59 * S, "appear", "a red square appears"),
]
BUS = [
    event(1 * S, 3 * S, "text", "NIGHT BUS"),
    event(31 * S, 33 * S, "text", "SILVER 96"),
    event(58 * S, 60 * S, "leave", "the purple heart leaves"),
]
ALL, TEXTS, THEN = list(range(len(HARBOUR))), [0, 3], [2, 3]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = EventLog.open(str(tmp_path_factory.mktemp("wordings") / "log"), create=True)
    log.begin_run(run_record())
    log.commit([video_result("harbour.mkv", HARBOUR), video_result("night bus.mp4", BUS)])
    search, query = Search(log.uri, embedder=None), Query(log)
    search.update()
    return lambda text, **how: ask(search, query, text, limit=50, **how)


def matches(found: Found) -> list[int]:
    """The numbers in HARBOUR, and 100 + those in BUS, of the matches."""
    every = [(e.start_us, e.text) for e in (*HARBOUR, *BUS)]
    at = [every.index((e.event["start_us"], e.event["text"])) for e in found.evidence if e.role == "match"]
    return sorted(i if i < len(HARBOUR) else 100 + i - len(HARBOUR) for i in at)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what is on screen at 0:05 in harbour.mkv?", THEN),
        ("what do we see 5 seconds into harbour.mkv?", THEN),
        ("what events are there in harbour.mkv?", ALL),
        ("describe harbour.mkv", ALL),
        ("what kinds of events exist in harbour.mkv?", ALL),
        ("list the texts in harbour.mkv in order", TEXTS),
        ("show me everything in harbour.mkv", ALL),
        ("what is the last event of harbour.mkv?", [8]),
        ("what is the first event?", [0, 100]),
        ("what is the first text in harbour.mkv?", [0]),
        ("how many events are there?", [*ALL, 100, 101, 102]),
        ("what happens at the end of night bus.mp4?", [102]),
        ("what happens at the beginning of night bus.mp4?", [100]),
        ("what is on in the middle of night bus.mp4?", [101]),
        ("what happens in the second half of night bus.mp4?", [101, 102]),
        ("how does harbour.mkv end?", [7, 8]),
        ("what happens at the end?", [8, 102]),
        ("which videos contain the word SILVER?", [101]),
        ("which clip shows the words NIGHT BUS", [100]),
        ("when does SILVER appear?", [101]),
        ("does the word GARDEN come up in harbour.mkv?", [3]),
        ("how many times does a text appear in harbour.mkv?", TEXTS),
        ("which words are shown in harbour.mkv?", TEXTS),
        ("what is written in harbour.mkv at 0:02?", [0]),
        ("when does a star appear?", [4]),
        ("what appears at 0:06 in harbour.mkv?", [4]),
        ("how long does the black last in harbour.mkv?", [6]),
        ("is the screen ever black?", [6]),
        ("when does the black end?", [6]),
        ("what comes after the black in harbour.mkv?", [6]),
        ("was there a cut in harbour.mkv?", [1]),
        ("what happens while GARDEN is on screen?", [3]),
        ("harbour.mkv 第5秒有什么事件？", THEN),
        ("请告诉我 harbour.mkv 第 5 秒屏幕上显示什么", THEN),
        ("harbour.mkv 里发生了什么事情？", ALL),
        ("harbour.mkv 里有哪些文字？", TEXTS),
        ("harbour.mkv 的最后一个事件是什么？", [8]),
        ("night bus.mp4 的结尾发生了什么？", [102]),
        ("night bus.mp4 开头有什么？", [100]),
        ("哪些视频包含SILVER这个词？", [101]),
        ("SILVER 出现了几次？", [101]),
    ],
)
def test_everyday_wordings(asked: Any, text: str, expected: list[int]) -> None:
    found = asked(text)
    assert (matches(found), found.exact, found.fits) == (expected, True, True)


@pytest.mark.parametrize(
    "text",
    [
        "is there a zebra?",
        "does a zebra appear?",
        "is there a zebra in harbour.mkv?",
        "有没有斑马？",
        "zebras on screen",
    ],
)
def test_what_no_event_says_has_no_support(asked: Any, text: str) -> None:
    found = asked(text)
    assert (found.evidence, found.exact, found.total) == ((), False, 0)


def test_what_is_only_near_is_told_so(asked: Any) -> None:
    near = asked("when does a heart appear?")  # one changes, one leaves, none appears
    assert (matches(near), near.exact, near.fits) == ([2, 102], False, True)
    then = asked("is there a zebra at 0:05 in harbour.mkv?")
    assert (matches(then), then.exact, then.fits) == (THEN, False, False)
    assert not asked("what starts in the second half of harbour.mkv?").exact
    with pytest.raises(UsageError, match="the middle of which of 2 videos"):
        asked("what happens in the middle?")
    with pytest.raises(UsageError, match="name what happens"):
        asked("which events happen?")


def test_the_last_event_of_more_than_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.search.ask.COUNTED", 4)
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    log.commit([video_result("a.mp4", [event(i * S, (i + 1) * S, text=f"seen {i}") for i in range(9)])])
    found = ask(Search(log.uri, embedder=None), Query(log), "what are the first and the last event of a.mp4?")
    assert [e.event["text"] for e in found.evidence] == ["seen 0", "seen 8"]
