"""How well search finds what really happens in generated worlds, against exact answers.

The truth of the worlds (jobs/demo) is the log, so that only search is measured, not who watched. A question names a
colour, a shape and an act; the exact answers are all events of which that is true. recall@10 is how many of the first
ten hits are among them, of the ten (or fewer) that could be.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from jobs.demo.archive import Film
from jobs.demo.truth import TruthEvent, events
from pipeline.event import Event
from pipeline.log import EventLog, RunRecord, VideoResult
from pipeline.search import Search

SEED = 900_002

#: Act -> (other ways to say it, in the same words bent; in other words; in Chinese).
ACTS = {
    "appears": ("appearing", "shows up", "出现"),
    "leaves": ("leaving", "departs", "离开"),
    "moves": ("moving", "glides", "移动"),
    "turns": ("turning", "becomes coloured", "变成"),
    "shrinks": ("shrinking", "gets smaller", "缩小"),
    "grows": ("growing", "gets bigger", "变大"),
}
CHINESE = {
    "red": "红色", "blue": "蓝色", "green": "绿色", "yellow": "黄色", "orange": "橙色", "pink": "粉色",
    "purple": "紫色", "circle": "圆形", "square": "方形", "triangle": "三角形", "star": "星形", "heart": "心形",
    "cross": "十字", "diamond": "菱形",
}  # fmt: skip
OTHER = {"red": "crimson", "purple": "violet", "circle": "disc", "square": "box", "diamond": "rhombus"}

_TEXT = re.compile(rf"(?:an?|the) (\w+) (\w+) ({'|'.join(ACTS)})\b")

Finds = Callable[[str], list[int]]


def quality(folder: Path, films: int) -> list[dict[str, Any]]:
    """recall@10 of each way of searching, by how the question is put."""
    truth = [
        e for i in range(films) for e in events(Film(f"q{i}.mp4", "RIVER", 60, 640, 360, Fraction(25), 48).world(SEED))
    ]
    rows: list[dict[str, Any]] = []
    english = [e.text for e in truth]
    rows += _scores(folder / "english", truth, english, _english_questions(truth))
    chinese = [_in_chinese(e.text) for e in truth]
    rows += _scores(folder / "chinese", truth, chinese, _chinese_questions(truth))
    return rows


def _facts(text: str) -> tuple[str, str, str] | None:
    """(colour, shape, act) that a text is about."""
    found = _TEXT.match(text)
    return None if found is None or found[1] not in CHINESE else (found[1], found[2], found[3])


def _in_chinese(text: str) -> str:
    facts = _facts(text)
    return text if facts is None else f"{CHINESE[facts[0]]}的{CHINESE[facts[1]]}{ACTS[facts[2]][2]}了"


def _english_questions(truth: Sequence[TruthEvent]) -> dict[str, list[tuple[str, set[int]]]]:
    generator = random.Random(SEED)
    asked: dict[str, list[tuple[str, set[int]]]] = {
        "its words": [], "bent, another order": [], "one letter wrong": [], "other words": []
    }  # fmt: skip
    for (colour, shape, act), exact in _exact(truth).items():
        bent, other, _ = ACTS[act]
        at = generator.randrange(1, len(shape) - 1)
        wrong = shape[:at] + shape[at + 1 :]
        asked["its words"].append((f"{colour} {shape} {act}", exact))
        asked["bent, another order"].append((f"{bent} {shape}s that are {colour}", exact))
        asked["one letter wrong"].append((f"{colour} {wrong} {act}", exact))
        asked["other words"].append((f"{OTHER.get(colour, colour)} {OTHER.get(shape, shape)} {other}", exact))
    return asked


def _chinese_questions(truth: Sequence[TruthEvent]) -> dict[str, list[tuple[str, set[int]]]]:
    return {
        "Chinese, without particles": [
            (f"{CHINESE[colour]}{CHINESE[shape]}{ACTS[act][2]}", exact)
            for (colour, shape, act), exact in _exact(truth).items()
        ]
    }


def _exact(truth: Sequence[TruthEvent]) -> dict[tuple[str, str, str], set[int]]:
    found: dict[tuple[str, str, str], set[int]] = {}
    for number, event in enumerate(truth):
        if (facts := _facts(event.text)) is not None:
            found.setdefault(facts, set()).add(number)
    return found


def _scores(
    folder: Path, truth: Sequence[TruthEvent], texts: Sequence[str], asked: dict[str, list[tuple[str, set[int]]]]
) -> list[dict[str, Any]]:
    ways = _ways(folder, truth, texts)
    rows = []
    for how, questions in asked.items():
        row: dict[str, Any] = {"asked in": how, "questions": len(questions)}
        for way, find in ways.items():
            recalls = [len(exact & set(find(text)[:10])) / min(10, len(exact)) for text, exact in questions]
            row[way] = sum(recalls) / len(recalls)
        rows.append(row)
    return rows


def _ways(folder: Path, truth: Sequence[TruthEvent], texts: Sequence[str]) -> dict[str, Finds]:
    """Each way of searching, as text -> numbers of events, the best first."""
    log = EventLog.open(str(folder), create=True)
    log.begin_run(RunRecord("run", "c", {}, "truth", "", "", {}, 0))
    # The number of an event is its time: so that what is found can be told.
    log.commit(
        [
            video(
                [
                    Event(i, i + 1, e.kind, t, None, 0, 0, (), {})
                    for i, (e, t) in enumerate(zip(truth, texts, strict=True))
                ]
            )
        ]
    )
    search = Search(str(folder))
    search.update()

    def ours(mode: Any) -> Finds:
        return lambda text: [hit.event["start_us"] for hit in search.find(text, limit=10, mode=mode)]

    ways: dict[str, Finds] = {"words": ours("words")}
    if search.embedder is not None:
        ways |= {"meaning": ours("meaning"), "both": ours("both")}
    rows = list(enumerate(zip(texts, truth, strict=True)))
    for name, tokenizer in (("FTS5 porter", "porter unicode61"), ("FTS5 trigram", "trigram")):
        ways[name] = fts5(tokenizer, [(i, f"{text} {e.kind}") for i, (text, e) in rows])

    def like(text: str) -> list[int]:
        words = text.split()
        return [i for i, (t, _) in rows if all(word in t for word in words)]

    return ways | {"LIKE, all words": like}


def fts5(tokenizer: str, rows: Sequence[tuple[int, str]], path: str = ":memory:") -> Finds:
    """SQLite's full-text index of (number, text), any word, by its BM25."""
    connection = sqlite3.connect(path)
    connection.execute(f"create virtual table t using fts5(text, tokenize='{tokenizer}')")
    connection.executemany("insert into t(rowid, text) values (?, ?)", rows)
    connection.commit()

    def find(text: str) -> list[int]:
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", text))
        found = connection.execute("select rowid from t where t match ? order by rank limit 10", (words,))
        return [row[0] for row in found]

    return find


def video(found: Sequence[Event], name: str = "a.mp4", run: str = "run") -> VideoResult:
    """A result of these events."""
    return VideoResult(
        video_id=name.encode().hex().ljust(32, "0")[:32], run_id=run, config_hash="c", uris=(name,), size_bytes=1,
        status="done", duration_us=10**12, events=tuple(found),
    )  # fmt: skip
