"""The side index as it grows: levels of catalogs, merged while others commit; always the newest entry, nothing lost."""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import Event
from pipeline.log import EventLog, compact, head, index, publisher
from pipeline.log.entry import pack_names, video_key
from pipeline.log.finder import IndexFinder
from pipeline.log.head import load
from pipeline.log.index import IndexFile, build
from pipeline.log.localstore import LocalStore
from pipeline.log.merge import bloom_filter, may_hold
from pipeline.log.publisher import CLAIM, Publisher
from pipeline.log.store import open_store
from pipeline.query import Query
from tests.pipeline.logs import random_events, run_record, video_id, video_result


def small_levels(patch: pytest.MonkeyPatch, filtered: int = 64) -> None:
    patch.setattr(publisher, "TAIL_VIDEOS", 3)
    patch.setattr(publisher, "RATIO", 2)
    patch.setattr(head, "FILTERED", filtered)
    patch.setattr(head, "LISTED", 8)
    patch.setattr(index, "AT_ONCE", 500)
    patch.setattr(index, "bucket_keys", lambda keys: 4)
    patch.setattr(compact, "TARGET_ROWS", 60)


def published(path: Path) -> head.Head:
    found = load(open_store(str(path)))
    assert found is not None
    return found[0]


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    filtered=st.sampled_from([0, 20, 1000]),
    steps=st.lists(st.sampled_from(["one", "few", "many", "compact", "restart"]), min_size=3, max_size=12),
)
def test_every_video_is_found_whatever_was_merged(seed: int, filtered: int, steps: list[str]) -> None:
    """Commits of two runs in groups of all sizes, with compactions in between, against a dictionary."""
    generator = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    expected: dict[tuple[str, str], list[Event]] = {}
    with pytest.MonkeyPatch.context() as patch:
        small_levels(patch, filtered)
        logs: dict[str, EventLog] = {}
        for number, step in enumerate(steps):
            for run, config in (("run-1", "c1"), ("run-2", "c2")):
                if step == "restart" or run not in logs:
                    run_id = f"{run}-{number}"
                    logs[run] = EventLog.open(str(folder / "log"), create=True)
                    logs[run].begin_run(run_record(run_id, config))
                if step == "compact":
                    logs[run].compact()
                count = {"one": 1, "few": generator.randrange(2, 5), "many": 12}.get(step, 0)
                owner = next(iter(logs[run]._runs))
                group = []
                for _ in range(count):
                    name = f"v{generator.randrange(40)}.mp4"
                    events = random_events(generator, generator.choice([0, 1, 5]), 1000)
                    group.append(video_result(name, events, owner, config))
                report = logs[run].commit(group)
                firsts = {r.video_id: r for r in reversed(group)}
                expected |= {(v, owner): list(firsts[v].events) for v in report.committed}
        query = Query(str(folder / "log"))
        for (video, run), events in expected.items():
            found = query.between(video, 0, 10_000, run=run)
            assert found["start_us"].to_pylist() == [e.start_us for e in events]
        finder = IndexFinder(open_store(str(folder / "log")), published(folder / "log"))
        assert sorted((e.video_id, e.run_id) for e in finder.all()) == sorted(expected)
        sizes = [c.videos for c in published(folder / "log").catalogs]
        assert all(a >= 2 * b for a, b in itertools.pairwise(sizes))
        assert logs["run-1"].check() == []
        names = {name for name in (f"v{i}.mp4" for i in range(40)) if any(v == video_id(name) for v, _ in expected)}
        assert all(finder.named(name) == [(video_id(name), f"/archive/{name}")] for name in names)
    shutil.rmtree(folder)


def commit(log: EventLog, *names: str, run: str = "run-1") -> None:
    log.commit([video_result(name, run_id=run) for name in names])


def test_a_compaction_gives_new_entries_to_what_it_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry points to a file that is gone, also when later commits merge its index; one catalog is left."""
    small_levels(monkeypatch)
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    for i in range(8, 0, -1):
        commit(log, *(f"{i}-{k}" for k in range(i)))
    assert len(published(tmp_path / "log").catalogs) > 1
    log.compact()
    for i in range(3):
        commit(log, f"late-{i}a", f"late-{i}b")
    store = open_store(str(tmp_path / "log"))
    there = {f.path for f in log.snapshot().files("events")}
    spans = [s.path for e in IndexFinder(store, published(tmp_path / "log")).all() for s in e.spans]
    assert len(spans) == 36 + 6 and set(spans) <= there
    log.compact()
    assert len(published(tmp_path / "log").catalogs) == 1 and not published(tmp_path / "log").tail


def test_others_publish_while_a_merge_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, other = EventLog.open(str(tmp_path / "log"), create=True), EventLog.open(str(tmp_path / "log"))
    log.begin_run(run_record())
    other.begin_run(run_record("run-2", "c2"))
    commit(log, "a", "b")
    commit(log, "c")
    committer = Publisher(open_store(str(tmp_path / "log")))
    write, before = publisher.write_merged, published(tmp_path / "log")

    def beside(*arguments: object) -> tuple[str, bytes]:
        other.commit([video_result("d", run_id="run-2", config_hash="c2")])
        return write(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(publisher, "write_merged", beside)
        committer.merge()
    after = published(tmp_path / "log")
    assert [c.videos for c in after.catalogs] == [3] and [t.videos for t in after.tail] == [1]
    assert after.version == before.version + 1 and log.check() == []

    def once(*arguments: object) -> tuple[str, bytes]:
        monkeypatch.setattr(publisher, "write_merged", write)
        Publisher(open_store(str(tmp_path / "log"))).merge(everything=True)
        return write(*arguments)  # type: ignore[arg-type]

    commit(log, "e")
    committer = Publisher(open_store(str(tmp_path / "log")))
    monkeypatch.setattr(publisher, "write_merged", once)
    committer.merge()
    after = published(tmp_path / "log")
    assert [c.videos for c in after.catalogs] == [5] and not after.tail and log.check() == []
    assert len(list((tmp_path / "log" / "_index").glob("catalog-*"))) == 2  # the one merged in vain is deleted


def test_a_merge_is_left_to_who_has_begun_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_levels(monkeypatch)
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    commit(log, "first")
    claim = tmp_path / "log" / CLAIM
    claim.write_text(str(time.time()))
    for i in range(6):
        commit(log, f"v{i}")
    assert not published(tmp_path / "log").catalogs and claim.exists()
    claim.write_text(str(time.time() - 1000))  # whoever claimed it was killed
    commit(log, "last")
    assert [c.videos for c in published(tmp_path / "log").catalogs] == [8] and not claim.exists()


def test_a_swap_whose_answer_is_lost_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    commit(log, "a")
    commit(log, "b")
    swap = LocalStore.swap

    def lossy(store: LocalStore, path: str, data: bytes, tag: str | None) -> str | None:
        done = swap(store, path, data, tag)
        return None if path == head.HEAD else done

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "swap", lossy)
        Publisher(open_store(str(tmp_path / "log"))).merge()
    assert [c.videos for c in published(tmp_path / "log").catalogs] == [2] and log.check() == []
    assert Query(str(tmp_path / "log")).at("a", 0).num_rows == 1


def test_an_index_file_that_is_cut_short_is_no_index() -> None:
    pairs = [(video_key(video_id(i)), pack_names([(video_id(i), f"{i}.mp4")])) for i in range(1000)]
    start, whole = build(pairs, index.Templates())
    file = IndexFile.of(whole, "x")
    assert file.start == start and list(file.items()) == sorted(pairs) and file.header["keys"] == 1000
    assert all(file.find(key) == [blob] for key, blob in pairs)
    for cut in (0, 7, 30, len(whole) // 2, len(whole) - 1):
        with pytest.raises(Exception, match="not an index"):
            IndexFile.of(whole[:cut], "x")


def test_filters_spare_requests_and_hide_nothing() -> None:
    pairs = [(video_key(video_id(i)), b"N[]") for i in range(2000)]
    bits = bloom_filter(IndexFile.of(build(pairs, index.Templates())[1], "x"))
    assert len(bits) == 2000 and all(may_hold(bits, key) for key, _ in pairs)
    assert sum(may_hold(bits, video_key(video_id(f"other {i}"))) for i in range(2000)) < 100  # 2 % expected
