"""Sentences of an answer, and the times in them: what stands against the events that it cites, and what does not."""

from __future__ import annotations

import time

import pytest

from pipeline.search.answer import checked
from pipeline.search.ask import Evidence
from pipeline.search.sentences import sentences
from tests.pipeline.test_ask import S


def seen(number: int, start_s: int, end_s: int, text: str, name: str = "/archive/harbour.mp4") -> Evidence:
    row = {"video_id": "v", "event_id": "e", "start_us": start_s * S, "end_us": end_s * S, "text": text, "kind": "k"}
    return Evidence(number, "match", number, row, name)


EVIDENCE = [
    seen(1, 4, 6, "the red circle leaves"),
    seen(2, 20, 21, "EXIT 89:59"),
    seen(3, 125, 126, "a dog", "/archive/clip 10s. b.mp4"),
    seen(4, 3765, 3770, "sign says 12:30, wait 40 s; open from 9:00 to 17:00, 0:75"),
]


@pytest.mark.parametrize(
    "said",
    [
        "In harbour.mp4 the red circle leaves at 0:04 [1].",
        "The red circle leaves at 0:04 [1] in harbour.mp4.",
        "The red circle, i.e. the ball, leaves (0:04) [1].",
        "Mr. Smith leaves after approx. 4 seconds [1].",
        'He shouts "Stop!" and leaves at 0:04.5 [1].',
        "In clip 10s. b.mp4 a dog barks [3].",
        "1. The circle leaves [1].",
        "It leaves... slowly [1].",
        "牌子上写着“出口！”，在0：04离开[1]。",
        # Times in seconds and minutes, and what is quoted.
        "It leaves at second 5 [1].",
        "It leaves between 4 and 6 seconds [1].",
        "It leaves 4-6 s into the video, around the 5-second mark [1].",
        "At 2 minutes and 5 seconds a dog barks [3].",
        "在第4秒离开[1]。",
        "2分5秒有狗叫，第2分钟[3]。",
        'The sign "EXIT 89:59" is on [2].',
        # Figures of a text that is seen, without quotation marks.
        "The sign says 12:30 at 1:02:45 [4].",
        "The sign says 12:30, 0:75, wait 40 s [4].",
        "The shop is open from 9:00 [4].",
        "1:02:45，牌子写着１２：３０[4]。",
        # Lengths of time.
        "It is on for 300 seconds [1].",
        "It is gone 30 seconds later [1].",
        "It is a 30-second clip, visible at least 30 s [1].",
        "After 16 seconds EXIT is shown [1][2].",
        "出现了30秒，30秒后离开，持续约30秒[1]。",
        # Other figures.
        "It runs 100 m in the 1980s, the second 20 cars [1].",
        "得了30分[1]。",
    ],
)
def test_what_stands(said: str) -> None:
    assert checked(said, EVIDENCE, "m").text == said


@pytest.mark.parametrize(
    "said",
    [
        "It leaves at second 3000 [1].",
        "It leaves at 3000 s [1].",
        "It leaves at 3000s [1].",
        "It leaves at 3,000 seconds [1].",
        "It leaves at 99999999999 s [1].",
        "It leaves, 3000 seconds [1].",
        "It leaves after 3000 seconds [1].",
        "It leaves at about 4 to 3000 seconds [1].",
        "3000 seconds into the video it leaves [1].",
        "Around the 300-second mark it leaves [1].",
        "The 300th second [1].",
        "Seconds 4 and 300 [1].",
        "It leaves at minute 50 [1].",
        "At 2 min 50 s a dog barks [3].",
        "At 1000:00 it leaves [1].",
        "第3000秒离开[1]。",
        "在3000秒离开[1]。",
        "0：50离开[1]。",
        "第50分钟离开[1]。",
        "EXIT is shown at 89:59 [2].",
        "The sign is there at 12:30 [4].",
        "The sign says 2:30 at 1:02:45 [4].",
        "The sign says 12:30 [1].",
        "40 s into the video is the sign [4].",
        "在12:30有牌子[4]。",
        "At 0:75 [1].",
    ],
)
def test_a_time_in_none_of_the_events_cited(said: str) -> None:
    answer = checked(said, EVIDENCE, "m")
    assert (answer.text, answer.struck) == ("", (said,))


def test_sentences() -> None:
    said = "One! Two [1]. Three.[2] Four, e.g. a. 5 in x. y.mp4? 六。七[1]。\n- Eight [1].Nine etc. Ten"
    assert list(sentences(said, ["x. y.mp4"]))[:-1] == [
        "One!", "Two [1].", "Three.[2]", "Four, e.g. a.", "5 in x. y.mp4?", "六。", "七[1]。", "",
        "- Eight [1].", "Nine etc.",
    ]  # fmt: skip


@pytest.mark.parametrize("piece", ["e.g. ", ". ", ".", "4 to ", "[1] ", '."', "9", "1,111", "between 4 and ", " ", '"'])
def test_no_answer_takes_long(piece: str) -> None:
    """A model that repeats itself to the end of its tokens."""
    before = time.process_time()
    checked(piece * (20_000 // len(piece)), EVIDENCE, "m")
    assert time.process_time() - before < 5
