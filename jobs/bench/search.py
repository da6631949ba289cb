"""Search against its peers: making the index, its size, searching as the log grows, and how well it finds.

    python -m jobs.bench.search --quick        10^4 and 10^5 events, about a minute
    python -m jobs.bench.search                10^4, 10^5 and 10^6

Every engine holds the same texts and is asked the same questions for the best 10; milliseconds are CPU time of one
process, p50 and p99. "counts agree" says whether two words that must both be there are found as often as SQLite's
index and a scan of the log with LIKE find them. DuckDB's full-text extension is measured where it can be loaded.
Quality (search_quality.py) is recall@10 on the truth of generated worlds.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from jobs.bench.log import print_rows
from jobs.bench.search_quality import quality, video
from pipeline.event import Event
from pipeline.log import EventLog, RunRecord
from pipeline.log.sql import connect
from pipeline.search import Search, installed_embedder
from pipeline.search.meaning import MeaningIndex

COLOURS = ["red", "blue", "green", "yellow", "orange", "pink", "purple", "white", "black", "grey"]
SHAPES = ["circle", "square", "triangle", "star", "heart", "cross", "diamond", "person", "car", "dog"]
ACTS = ["appear", "leave", "move", "turn", "meet", "wait", "run", "sit", "stand", "fall"]
HAN = "红蓝绿黄橙粉紫白黑灰圆方角星心字形人车狗出现离开移动"

#: Events of one video.
EVENTS_PER_VIDEO = 1000


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.search", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10^4 and 10^5 events, fewer worlds")
    parser.add_argument("--questions", type=int, default=100, help="asked of each engine (default: 100)")
    parser.add_argument("--only", choices=["speed", "quality", "meaning"], help="only this part")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        if args.only in (None, "quality"):
            figures["quality"] = quality(Path(name, "quality"), 15 if args.quick else 60)
            print_rows("recall@10 on the truth of generated worlds", figures["quality"])
        if args.only in (None, "speed"):
            figures["speed"] = []
            for size in (10**4, 10**5) if args.quick else (10**4, 10**5, 10**6):
                rows = speed(Path(name, str(size)), size, args.questions)
                figures["speed"] += rows
                print_rows(f"search over {size:.0e} events", rows)
        if args.only in (None, "meaning"):
            figures["meaning"] = meaning(
                Path(name, "meaning"), (10**4, 10**5) if args.quick else (10**4, 10**5, 4 * 10**5)
            )
            print_rows("nearest meanings, exact, over random vectors", figures["meaning"])
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    return 0


def texts_of(size: int) -> list[str]:
    """What events say: three common words, one of a long tail of 20 000 (the first the most frequent), some Chinese."""
    generator = np.random.default_rng(7)
    tail = np.minimum(generator.zipf(1.3, size), 20_000)
    picks = generator.integers(0, 10, (size, 3))
    chinese = generator.integers(0, len(HAN), (size, 4))
    return [
        f"{COLOURS[a]} {SHAPES[b]} {ACTS[c]} w{n}" + ("".join(HAN[h] for h in hs) if n % 10 == 0 else "")
        for (a, b, c), n, hs in zip(picks, tail, chinese, strict=True)
    ]


def wishes(count: int) -> dict[str, list[str]]:
    """Questions of several kinds."""
    generator = random.Random(3)
    return {
        "rare word": [f"w{generator.randrange(50, 5000)}" for _ in range(count)],
        "three common words": [
            f"{generator.choice(COLOURS)} {generator.choice(SHAPES)} {generator.choice(ACTS)}" for _ in range(count)
        ],
        "two words, both": [f"+{generator.choice(COLOURS)} +{generator.choice(SHAPES)}" for _ in range(count)],
    }


def speed(folder: Path, size: int, questions: int) -> list[dict[str, Any]]:
    """Making and asking each index over the same texts."""
    texts = texts_of(size)
    log = EventLog.open(str(folder), create=True)
    log.begin_run(RunRecord("run", "c", {}, "bench", "", "", {}, 0))
    for at in range(0, size, EVENTS_PER_VIDEO):
        part = texts[at : at + EVENTS_PER_VIDEO]
        log.commit([video([Event(i, i + 1, "seen", t, 0.5, 0, 0, (i,), {}) for i, t in enumerate(part)], f"{at}.mp4")])
    began = time.process_time()
    search = Search(str(folder), embedder=None)
    assert search.update() == size
    making = time.process_time() - began
    asked = wishes(questions)
    pair = asked["two words, both"][0]
    rows = [
        _row("Search (tantivy)", making, size, _bytes(search.folder), asked, lambda text: search.find(text, limit=10)),
        _sqlite(folder / "fts.db", texts, asked),
        _scan(log, asked, min(questions, 5)),
        _duckdb_fts(texts, asked, questions),
    ]
    count = len(search.find(pair, limit=10_000))
    words = pair.replace("+", "").split()
    exact = sum(all(word in text.split() for word in words) for text in texts)
    rows[0]["counts agree"] = str(count == min(exact, 10_000))
    return rows


def _row(
    engine: str, making: float, size: int, size_bytes: int, asked: dict[str, list[str]], find: Callable[[str], Any]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "engine": engine,
        "events/s in": size / making if making else None,
        "B/event": size_bytes / size,
    }
    for name, questions in asked.items():
        taken = sorted(_cpu_ms(find, text) for text in questions)
        row[f"{name}, ms"] = f"{taken[len(taken) // 2]:.2f} {taken[int(0.99 * (len(taken) - 1))]:.2f}"
    return row | {"counts agree": ""}


def _cpu_ms(find: Callable[[str], Any], text: str) -> float:
    began = time.process_time()
    find(text)
    return 1000 * (time.process_time() - began)


def _sqlite(path: Path, texts: Sequence[str], asked: dict[str, list[str]]) -> dict[str, Any]:
    began = time.process_time()
    connection = sqlite3.connect(path)
    connection.execute("create virtual table t using fts5(text, tokenize='porter unicode61')")
    connection.executemany("insert into t(rowid, text) values (?, ?)", enumerate(texts))
    connection.commit()
    connection.execute("insert into t(t) values ('optimize')")
    connection.commit()
    making = time.process_time() - began

    def find(text: str) -> Any:
        words = text.replace("+", "").split()
        match = (" AND " if "+" in text else " OR ").join(words)
        return connection.execute(
            "select rowid, text from t where t match ? order by rank limit 10", (match,)
        ).fetchall()

    return _row("SQLite FTS5 (porter)", making, len(texts), path.stat().st_size, asked, find)


def _scan(log: EventLog, asked: dict[str, list[str]], questions: int) -> dict[str, Any]:
    connection = connect(log.snapshot())

    def find(text: str) -> Any:
        words = text.replace("+", "").split()
        how = (" and " if "+" in text else " or ").join(f"text ilike '%{word}%'" for word in words)
        return connection.execute(f"select * from events where {how} limit 10").fetchall()

    few = {name: some[:questions] for name, some in asked.items()}
    row = _row("DuckDB ILIKE over the log (unranked, stops at 10)", 0, 1, 0, few, find)
    return row | {"B/event": 0}


def _duckdb_fts(texts: Sequence[str], asked: dict[str, list[str]], questions: int) -> dict[str, Any]:
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    try:
        connection.execute("load fts")
    except duckdb.Error:
        return {"engine": "DuckDB FTS: the extension cannot be loaded here"}
    connection.execute("create table t (id integer, text varchar)")
    connection.executemany("insert into t values (?, ?)", list(enumerate(texts)))
    began = time.process_time()
    connection.execute("pragma create_fts_index('t', 'id', 'text')")
    making = time.process_time() - began

    def find(text: str) -> Any:
        words, both = text.replace("+", ""), "true" if "+" in text else "false"
        return connection.execute(
            f"select id, fts_main_t.match_bm25(id, ?, conjunctive := {both}) s from t where s is not null"
            " order by s desc limit 10",
            [words],
        ).fetchall()

    return _row("DuckDB FTS", making, len(texts), 0, {n: some[:questions] for n, some in asked.items()}, find)


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


class _Random:
    """An embedder of random directions: what an index of meanings costs does not depend on the vectors."""

    identity, floor = "random", 0.0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.random.default_rng(len(texts)).standard_normal((len(texts), 384)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _nearest(index: MeaningIndex, text: str) -> list[tuple[int, float]]:
    return next(index.nearest(text))


def meaning(folder: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Comparing a question with all texts; and embedding, where there is an embedder."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        index = MeaningIndex(folder / str(size), _Random())
        for at in range(0, size, 10**4):
            index.add({i: f"{i}" for i in range(at, at + 10**4)})
        next(index.nearest("x"))  # reads the vectors
        taken = sorted(_cpu_ms(partial(_nearest, index), f"{i}") for i in range(20))
        rows.append({"texts": size, "ms p50": taken[10], "B/text": _bytes(index.folder) / size})
    embedder = installed_embedder()
    if embedder is None:
        print("no embedder is installed: embedding is not measured")
        return rows
    some = [f"the {a} {b} {c}s" for a in COLOURS for b in SHAPES for c in ACTS][:640]
    began = time.process_time()
    embedder.embed(some)
    rows.append(
        {
            "texts": f"embedded/s: {640 / (time.process_time() - began):.0f}",
            "ms p50": min(_cpu_ms(lambda t: embedder.embed([t]), "a red circle leaves") for _ in range(5)),
        }
    )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
