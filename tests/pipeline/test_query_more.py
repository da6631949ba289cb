"""Questions around events, over several videos and over whole ones, against brute force; threads; provenance."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.log import EventLog
from pipeline.query import Query
from pipeline.query.spans import density, gaps
from tests.pipeline.logs import event, random_events, run_record, video_id, video_result
from tests.pipeline.test_query import SPAN, as_rows, make, rows


def end(e: Event) -> int:
    return max(e.end_us, e.start_us + 1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Query, dict[str, list[Event]]]:
    generator = random.Random(5)
    videos = {f"v{i}.mp4": random_events(generator, n, SPAN) for i, n in enumerate([60, 0, 1, 25])}
    return Query(make(tmp_path_factory.mktemp("logs") / "log", videos)), videos


def test_around_an_event(archive: tuple[Query, dict[str, list[Event]]]) -> None:
    """Before, after and while each event of a video, as a person would list them; an event is never beside itself."""
    query, videos = archive
    run = "run-1"
    for mine in videos["v0.mp4"]:
        anchor = query.anchor("v0.mp4", mine.event_id(video_id("v0.mp4"), run))
        assert as_rows([mine]) == [tuple(anchor.event[c] for c in ("start_us", "end_us", "kind", "text"))]
        others = list(videos["v0.mp4"])
        others.remove(mine)
        same = [e for e in others if e == mine]  # an equal event has the same id: the log cannot tell them apart
        beside = [e for e in others if e.start_us < end(mine) and end(e) > mine.start_us and e not in same]
        assert rows(query.meanwhile("v0.mp4", anchor)) == as_rows(beside)
        assert rows(query.before("v0.mp4", anchor, 1000)) == as_rows([e for e in others if e.start_us < mine.start_us])
        assert rows(query.after("v0.mp4", anchor, 1000)) == as_rows([e for e in others if e.start_us >= end(mine)])


def test_anchors(archive: tuple[Query, dict[str, list[Event]]]) -> None:
    query, videos = archive
    first = next(e for e in videos["v0.mp4"] if e.kind == "text")
    assert query.anchor("v0.mp4", "TEXT").start_us == first.start_us
    assert query.anchor("v0.mp4", "T3").event["text"] == "t3"
    for what in ("nothing such", "", "f" * 16):
        with pytest.raises(UsageError, match=r"v0\.mp4 has no event"):
            query.anchor("v0.mp4", what)
    with pytest.raises(UsageError, match="the kinds it has: none at all"):
        query.anchor("v1.mp4", "text")


def test_several_videos(archive: tuple[Query, dict[str, list[Event]]]) -> None:
    query, videos = archive
    for names in (None, ["v3.mp4", "v0.mp4", "v3.mp4"]):
        order = sorted(videos) if names is None else ["v3.mp4", "v0.mp4"]
        for a in (0, 400, 5000):
            inside = [[e for e in videos[n] if e.start_us < a + 50 and end(e) > a] for n in order]
            assert rows(query.at(names, a, span_us=50)) == [r for part in inside for r in as_rows(part)]
            for count in (1, 3):
                before = [[e for e in videos[n] if e.start_us < a][-count:] for n in order]
                assert rows(query.before(names, a, count)) == [r for part in before for r in as_rows(part)]
                after = [[e for e in videos[n] if e.start_us >= a][:count] for n in order]
                assert rows(query.after(names, a, count)) == [r for part in after for r in as_rows(part)]
        for kind in ("shot", "black"):
            mine = [[e for e in videos[n] if e.kind == kind] for n in order]
            assert rows(query.first(names, kinds=[kind])) == [r for part in mine for r in as_rows(part[:1])]
            assert rows(query.last(names, kinds=[kind])) == [r for part in mine for r in as_rows(part[-1:])]
        assert query.kinds(names) == dict(Counter(e.kind for n in order for e in videos[n]).most_common())
    assert query.at(None, 10**12).num_rows == 0
    with pytest.raises(UsageError, match=r"is 0:00\.01 long"):
        query.at("v0.mp4", 10**12)
    with pytest.raises(UsageError, match=r"holds no videos of a run 'run-9'; runs with videos: run-1"):
        query.at(None, 0, run="run-9")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 60), st.integers(0, 30)), max_size=12),
    st.one_of(st.none(), st.integers(0, 80)),
    st.integers(1, 12),
)
def test_spans_equal_brute_force(drawn: list[tuple[int, int]], duration: int | None, step: int) -> None:
    """Microsecond by microsecond."""
    times = sorted((start, start + length) for start, length in drawn)
    on = [set(range(start, max(stop, start + 1))) for start, stop in times]
    until = max(duration or 0, max((max(covered) + 1 for covered in on), default=0))
    assert density(times, step, duration or 0) == [
        sum(bool(covered & set(range(k, k + step))) for covered in on) for k in range(0, until, step)
    ]
    last = duration if duration is not None else max((max(c) + 1 for c in on), default=0)
    empty = [us for us in range(last) if not any(us in covered for covered in on)]
    runs: list[list[int]] = []
    for us in empty:
        if runs and us == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([us, us + 1])
    assert gaps(times, duration, step) == [(a, b) for a, b in runs if b - a >= step]


def test_spans_of_a_video(archive: tuple[Query, dict[str, list[Event]]]) -> None:
    query, videos = archive
    shots = [(e.start_us, e.end_us) for e in videos["v3.mp4"] if e.kind == "shot"]
    assert query.gaps("v3.mp4", 5, kinds=["shot"]) == gaps(shots, 10 * SPAN, 5)
    assert query.gaps("v1.mp4") == [(0, 10 * SPAN)]
    assert query.density("v3.mp4", 10, kinds=["shot"]) == density(shots, 10, 10 * SPAN)
    with pytest.raises(UsageError, match="longer than nothing"):
        query.density("v3.mp4", 0)
    with pytest.raises(UsageError, match="longer steps"):
        density([], 1, 10**9)


def test_many_threads(archive: tuple[Query, dict[str, list[Event]]]) -> None:
    """One Query, asked by eight threads while it moves on to newer versions, answers as it does one."""
    query, videos = archive
    expected = {(n, us): rows(query.at(n, us, span_us=100)) for n in videos for us in range(0, SPAN, 90)}
    wrong: list[object] = []

    def ask(seed: int) -> None:
        try:
            for name, us in random.Random(seed).sample(list(expected), len(expected)):
                if rows(query.at(name, us, span_us=100)) != expected[name, us]:
                    wrong.append((name, us))
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        query.refresh()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_many_threads_without_an_index(tmp_path: Path) -> None:
    """Looking into the data files builds its own picture of them once, not half of it for the second thread."""
    videos = {f"v{i}.mp4": [event(0, 5, text=f"{i}")] for i in range(30)}
    path = make(tmp_path / "log", videos)
    query = Query(path, Query(path).version)
    found: list[list[str]] = []
    barrier = threading.Barrier(6)

    def ask() -> None:
        barrier.wait()
        found.append([query.at(n, 0)["text"][0].as_py() for n in videos])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[f"{i}" for i in range(30)]] * 6


def test_provenance(tmp_path: Path) -> None:
    log = EventLog.open(str(tmp_path / "log"), create=True)
    for run, config in (("run-1", "c1"), ("run-2", "c2")):
        log.begin_run(run_record(run, config))
        log.commit([video_result(n, run_id=run, config_hash=config) for n in ("a.mp4", "b.mp4")])
    log.compact()
    query = Query(log)
    (row,) = query.first("a.mp4", run="run-1").to_pylist()
    found = query.provenance(row)
    assert found["run"]["run_id"] == "run-1" and found["run"]["model"] == "signals"
    (window,) = found["windows"]
    assert window["window"] == 0 and window["frame_us"] == [0, 500_000] and window["replica"] == "r0"
    assert query.event("a.mp4", row["event_id"])["run_id"] == "run-1"  # an older run's event is found by its id


def test_a_name_of_a_megabyte_is_one_short_error(archive: tuple[Query, dict[str, list[Event]]]) -> None:
    query, _ = archive
    for name in ("x" * 1_000_000, "/".join("ab" * 400_000), "\0" * 1000):
        with pytest.raises(UsageError, match="no video") as error:
            query.at(name, 0)
        assert len(str(error.value)) < 1000
