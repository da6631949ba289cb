"""Every query against a brute-force answer; names, runs and errors."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import LogError, UsageError
from pipeline.event import Event
from pipeline.log import EventLog, eventlog
from pipeline.query import Query
from tests.pipeline.logs import event, random_events, run_record, video_id, video_result

Row = tuple[int, int, str, str]
SPAN = 1000


def rows(table: object) -> list[Row]:
    columns = ("start_us", "end_us", "kind", "text")
    return list(zip(*(table[c].to_pylist() for c in columns), strict=True))  # type: ignore[index]


def as_rows(events: list[Event]) -> list[Row]:
    return [(e.start_us, e.end_us, e.kind, e.text) for e in events]


def make(folder: Path, videos: dict[str, list[Event]], per_commit: int = 2, compact: bool = False) -> str:
    log = EventLog.open(str(folder), create=True)
    log.begin_run(run_record())
    names = list(videos)
    for at in range(0, len(names), per_commit):
        log.commit([video_result(n, videos[n], duration_us=10 * SPAN) for n in names[at : at + per_commit]])
    if compact:
        log.compact()
    return str(folder)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), row_group=st.sampled_from([1, 3, 8, 64]), layout=st.sampled_from("tcs"))
def test_queries_equal_brute_force(seed: int, row_group: int, layout: str) -> None:
    """Over intervals that nest, touch, repeat and cross row groups, from tail, catalog and by scanning."""
    generator = random.Random(seed)
    videos = {f"v{i}.mp4": random_events(generator, generator.choice([0, 1, 5, 40]), SPAN) for i in range(3)}
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eventlog, "ROW_GROUP", row_group)
        log = make(folder / "log", videos, per_commit=3, compact=layout == "c")
    if layout == "s":
        shutil.rmtree(folder / "log" / "_index")
    query = Query(log)
    for name, events in videos.items():
        for _ in range(4):
            a = generator.randrange(-5, SPAN + 5)
            b = a + generator.choice([1, 2, 50, SPAN])
            kinds = generator.choice([None, None, ["shot"], ["text", "black"]])
            text = generator.choice([None, None, "T1"])
            count = generator.choice([1, 3, 100])

            def pick(
                holds: Callable[[Event], bool], events: list[Event] = events, kinds: object = kinds, text: object = text
            ) -> list[Row]:
                chosen = [e for e in events if holds(e)]
                chosen = [e for e in chosen if kinds is None or e.kind in kinds]  # type: ignore[operator]
                return as_rows([e for e in chosen if text is None or "t1" in e.text])

            inside = pick(lambda e, a=a, b=b: e.start_us < b and max(e.end_us, e.start_us + 1) > a)  # type: ignore[misc]
            assert rows(query.between(name, a, b, kinds=kinds, text=text)) == inside
            assert rows(query.at(name, a, span_us=b - a, kinds=kinds, text=text)) == inside
            first = pick(lambda e, a=a: e.start_us < a)  # type: ignore[misc]
            assert rows(query.before(name, a, count, kinds=kinds, text=text)) == first[-count:]
            last = pick(lambda e, a=a: e.start_us >= a)  # type: ignore[misc]
            assert rows(query.after(name, a, count, kinds=kinds, text=text)) == last[:count]
        counts = query.density(name, 10)
        assert counts == [
            sum(e.start_us < k + 10 and max(e.end_us, e.start_us + 1) > k for e in events)
            for k in range(0, 10 * len(counts), 10)
        ]
        assert query.kinds(name) == {k: n for k in query.kinds(name) if (n := sum(e.kind == k for e in events))}
        assert sum(query.kinds(name).values()) == len(events)
    everything = [row for name in sorted(videos, key=video_id) for row in as_rows(videos[name])]
    assert rows(query.search()) == everything
    assert rows(query.search(["v1.mp4", "v0.mp4"], kinds=["shot"])) == [
        r for n in sorted(["v0.mp4", "v1.mp4"], key=video_id) for r in as_rows(videos[n]) if r[2] == "shot"
    ]
    shutil.rmtree(folder)


def test_answers_carry_provenance(tmp_path: Path) -> None:
    query = Query(make(tmp_path / "log", {"a.mp4": [event(5, 9)]}))
    (row,) = query.at("a.mp4", 0).to_pylist()
    assert row["run_id"] == "run-1" and row["video_id"] == video_id("a.mp4") and row["model"] == "signals"
    assert row["evidence_us"] == [5] and row["window_first"] == 0 and row["attributes"] == '{"level":1}'


def test_names(tmp_path: Path) -> None:
    names = ["x/cam1/clip.mp4", "x/cam2/clip.mp4", "y/only.mp4"]
    path = make(tmp_path / "log", {n: [event(0, 5, text=n)] for n in names})
    log = EventLog.open(path)
    log.record_names({video_id("y/only.mp4"): ["s3://bucket/copy.mp4"]})
    query = Query(path)

    def text(name: str) -> str:
        return str(query.at(name, 0)["text"][0].as_py())

    assert text("/archive/x/cam1/clip.mp4") == text("cam1/clip.mp4") == "x/cam1/clip.mp4"
    assert text("only.mp4") == text("s3://bucket/copy.mp4") == text("copy.mp4") == "y/only.mp4"
    assert text(video_id("y/only.mp4")) == text(video_id("y/only.mp4")[:6].upper()) == "y/only.mp4"
    with pytest.raises(UsageError, match=r"is the name of 2 videos.*\n.*cam1/clip.mp4.*\n.*cam2/clip.mp4"):
        query.at("clip.mp4", 0)
    with pytest.raises(UsageError, match=r"did you mean only.mp4"):
        query.at("onyl.mp4", 0)
    with pytest.raises(UsageError, match="no video"):
        query.at("nly.mp4", 0)
    with pytest.raises(UsageError, match="no video ''"):
        query.at("", 0)


def test_runs(tmp_path: Path) -> None:
    log = EventLog.open(str(tmp_path / "log"), create=True)
    for run, config, text in (("run-1", "c1", "old"), ("run-2", "c2", "new"), ("run-3", "c3", "")):
        log.begin_run(run_record(run, config))
        status = "done" if text else "failed"
        log.commit([video_result("a.mp4", [event(0, 5, text=text)], run, config, status=status, reason="corrupt: x")])
    query = Query(log)
    assert query.at("a.mp4", 0)["text"].to_pylist() == ["new"]
    assert query.at("a.mp4", 0, run="run-1")["text"].to_pylist() == ["old"]
    assert query.search(run="run-1")["text"].to_pylist() == ["old"]
    with pytest.raises(UsageError, match="run-1, run-2, run-3"):
        query.at("a.mp4", 0, run="run-9")
    with pytest.raises(UsageError, match="run-1, run-2, run-3"):
        query.at("a.mp4", 0, run="run-")


def test_what_cannot_be_answered_says_why(tmp_path: Path) -> None:
    log = EventLog.open(str(tmp_path / "log"), create=True)
    with pytest.raises(UsageError, match="holds no videos yet"):
        Query(log).at("a.mp4", 0)
    log.begin_run(run_record())
    log.commit([video_result("bad.mp4", status="failed", reason="corrupt: not one frame"), video_result("a.mp4")])
    query = Query(log)
    with pytest.raises(UsageError, match=r"could not be watched.*corrupt: not one frame"):
        query.at("bad.mp4", 0)
    with pytest.raises(UsageError, match=r"a.mp4 is 1:00 long"):
        query.at("a.mp4", 60_000_000)
    with pytest.raises(UsageError, match="is empty"):
        query.between("a.mp4", 5, 5)
    with pytest.raises(UsageError, match="count"):
        query.before("a.mp4", 5, 0)
    with pytest.raises(LogError, match="no event log"):
        Query(str(tmp_path / "none"))


def test_refresh_moves_on(tmp_path: Path) -> None:
    path = make(tmp_path / "log", {"a.mp4": [event(0, 5)]})
    query = Query(path)
    log = EventLog.open(path)
    log.begin_run(run_record("run-2", "c2"))
    log.commit([video_result("b.mp4", [event(0, 5)], "run-2", "c2")])
    with pytest.raises(UsageError, match="no video"):
        query.at("b.mp4", 0)
    before = query.version
    query.refresh()
    assert query.at("b.mp4", 0).num_rows == 1
    with pytest.raises(UsageError, match="no video"):
        Query(path, before).at("b.mp4", 0)
    assert Query(path, before).at("a.mp4", 0).num_rows == 1
