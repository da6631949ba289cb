"""Every query, on one video, several or all, of the newest run or a named one, against a brute-force answer.

The log holds two runs under two configurations, in groups of any size, with a compaction at any point; it is read
through its index (tail, several catalogs, one catalog), as it was at a version, and without an index.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import Event
from pipeline.log import EventLog
from pipeline.query import Query
from tests.pipeline.logs import random_events, run_record, video_id, video_result
from tests.pipeline.test_log_index import small_levels
from tests.pipeline.test_query import SPAN, as_rows, rows

NAMES = [f"v{i}.mp4" for i in range(6)]
DURATION = 2 * SPAN


def end(e: Event) -> int:
    return max(e.end_us, e.start_us + 1)


class BruteForce:
    """The same questions to lists. `runs`: the events of each run's videos, the newest run last."""

    def __init__(self, runs: dict[str, dict[str, list[Event]]]) -> None:
        self.runs = runs

    def videos(self, names: list[str] | None, run: str | None) -> dict[str, list[Event]]:
        """Of each video asked for the events of the run that answers, in the order of names."""
        of = {n: v for r, videos in self.runs.items() for n, v in videos.items() if run in (None, r)}  # the last wins
        return {n: of[n] for n in (sorted(of) if names is None else dict.fromkeys(names))}

    def wanted(self, names: list[str] | None, run: str | None, kinds: object, text: str | None) -> list[list[Event]]:
        return [
            [
                e
                for e in events
                if (kinds is None or e.kind in kinds)  # type: ignore[operator]
                and (text is None or text.casefold() in e.text.casefold())
            ]
            for events in self.videos(names, run).values()
        ]


def flat(parts: list[list[Event]]) -> list[tuple[int, int, str, str]]:
    return [row for part in parts for row in as_rows(part)]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), layout=st.sampled_from(["written", "compacted", "half", "version", "scanned"]))
def test_every_query_equals_brute_force(seed: int, layout: str) -> None:
    generator = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        small_levels(patch, filtered=generator.choice([0, 16, 1000]))
        patch.setattr("pipeline.log.eventlog.ROW_GROUP", generator.choice([1, 4, 50]))
        query, truth = a_log(generator, folder / "log", layout)
        for _ in range(6):
            ask(generator, query, truth)
    shutil.rmtree(folder)


def a_log(generator: random.Random, folder: Path, layout: str) -> tuple[Query, BruteForce]:
    log = EventLog.open(str(folder), create=True)
    truth: dict[str, dict[str, list[Event]]] = {}
    for run, config, some in (("run-1", "c1", NAMES), ("run-2", "c2", generator.sample(NAMES, 3))):
        log.begin_run(run_record(run, config))
        truth[run] = {n: random_events(generator, generator.choice([0, 1, 5, 40]), SPAN) for n in some}
        at = 0
        while at < len(some):
            group, at = some[at : at + 3], at + generator.choice([1, 2, 3])  # some are offered twice
            log.commit([video_result(n, truth[run][n], run, config, duration_us=DURATION) for n in group])
        if layout == "half" and run == "run-1":
            log.compact()
    version = log.snapshot().version if layout == "version" else None
    if layout == "version":  # what comes later is not seen
        log.begin_run(run_record("run-3", "c3"))
        log.commit([video_result(n, [], "run-3", "c3") for n in NAMES])
    if layout in ("compacted", "version"):
        log.compact()
    if layout == "scanned":
        shutil.rmtree(folder / "_index")
    return Query(str(folder), version), BruteForce(truth)


def ask(generator: random.Random, query: Query, truth: BruteForce) -> None:
    """Every question once, with everything drawn that can be said in it."""
    run = generator.choice([None, None, "run-1", "run-2"])
    there = list(truth.videos(None, run))
    names = generator.choice([None, generator.sample(there, 2)])
    one = generator.choice(there)
    kinds = generator.choice([None, None, ["shot"], ["text", "black"]])
    text = generator.choice([None, None, "T1"])
    a = generator.randrange(-5, SPAN + 5)
    b = a + generator.choice([1, 2, 50, SPAN])
    count = generator.choice([1, 3, 100])
    few: dict[str, Any] = {"kinds": kinds, "text": text, "run": run}
    for asked in (one, names):
        parts = truth.wanted([one] if asked is one else names, run, kinds, text)
        inside = [[e for e in part if e.start_us < b and end(e) > a] for part in parts]
        assert rows(query.between(asked, a, b, **few)) == flat(inside)
        assert rows(query.at(asked, a, span_us=b - a, **few)) == flat(inside)
        before = [[e for e in part if e.start_us < a][-count:] for part in parts]
        assert rows(query.before(asked, a, count, **few)) == flat(before)
        after = [[e for e in part if e.start_us >= a][:count] for part in parts]
        assert rows(query.after(asked, a, count, **few)) == flat(after)
        assert rows(query.first(asked, **few)) == flat([part[:1] for part in parts])
        assert rows(query.last(asked, **few)) == flat([part[-1:] for part in parts])
        every = truth.wanted([one] if asked is one else names, run, None, None)
        assert query.kinds(asked, run) == dict(Counter(e.kind for part in every for e in part))
    asked_for = there if names is None else names
    by_id = [truth.wanted([n], run, kinds, text)[0] for n in sorted(asked_for, key=video_id)]
    inside = [[e for e in part if e.start_us < b and end(e) > a] for part in by_id]
    assert rows(query.search(names, start_us=a, end_us=b, **few)) == flat(inside)
    (mine,) = truth.wanted([one], run, kinds, text)
    on = [sum(e.start_us < k + 50 and end(e) > k for e in mine) for k in range(0, DURATION, 50)]
    assert query.density(one, 50, run, kinds=kinds, text=text) == on
    covered = {us for e in mine for us in range(e.start_us, end(e))}
    empty = set(range(DURATION)) - covered
    edges = [us for us in range(DURATION + 1) if (us in empty) != (us - 1 in empty)]
    gaps = [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop - start >= 10]
    assert query.gaps(one, 10, run=run, kinds=kinds, text=text) == gaps
    beside_an_event(generator, query, truth, one, run)


def beside_an_event(generator: random.Random, query: Query, truth: BruteForce, name: str, run: str | None) -> None:
    """Questions relative to an event, and the event by its id."""
    of_run = run or ("run-2" if name in truth.runs["run-2"] else "run-1")
    (events,) = truth.wanted([name], run, None, None)
    if not events:
        return
    mine = generator.choice(events)
    anchor = query.anchor(name, mine.event_id(video_id(name), of_run), run)
    assert as_rows([mine]) == [tuple(anchor.event[c] for c in ("start_us", "end_us", "kind", "text"))]
    beside = [e for e in events if e.start_us < end(mine) and end(e) > mine.start_us and e != mine]
    assert rows(query.meanwhile(name, anchor, run=run)) == as_rows(beside)
    before = [e for e in events if e.start_us < mine.start_us]
    assert rows(query.before(name, anchor, 3, run=run)) == as_rows(before[-3:])
    after = [e for e in events if e.start_us >= end(mine)]
    assert rows(query.after(name, anchor, 3, run=run)) == as_rows(after[:3])
    first = next(e for e in events if e.kind == mine.kind)
    assert query.anchor(name, mine.kind.upper(), run).start_us == first.start_us
    found = query.event(name, mine.event_id(video_id(name), of_run), run)
    assert (found["start_us"], found["run_id"]) == (mine.start_us, of_run)
