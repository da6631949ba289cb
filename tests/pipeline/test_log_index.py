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
from pipeline.log.entry import name_key, pack_names, video_key
from pipeline.log.finder import Guarded, IndexFinder
from pipeline.log.head import load
from pipeline.log.index import IndexFile, build
from pipeline.log.keyfilter import NAME_PLACES, VIDEO_PLACES, key_filter, may_hold
from pipeline.log.localstore import LocalStore
from pipeline.log.publisher import CLAIM, Publisher
from pipeline.log.store import open_store
from pipeline.query import Query
from tests.pipeline.logs import random_events, run_record, video_id, video_result


def small_levels(patch: pytest.MonkeyPatch, filtered: int = 64) -> None:
    patch.setattr(publisher, "TAIL_KEYS", 6)
    patch.setattr(publisher, "RATIO", 2)
    patch.setattr(publisher, "FILTERED", filtered)
    patch.setattr(head, "LISTED", 16)
    patch.setattr(head, "WHOLE_BYTES", 2000)
    patch.setattr(index, "AT_ONCE", 500)
    patch.setattr(index, "BUCKET_KEYS", 4)
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
        last = dict(iter(expected))  # the order of commits
        assert all(query.find(video).entry.run_id == run for video, run in last.items())
        finder = IndexFinder(open_store(str(folder / "log")), published(folder / "log"))
        assert sorted((e.video_id, e.run_id) for e in finder.all()) == sorted(expected)
        sizes = [c.keys for c in published(folder / "log").catalogs]
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


def test_a_cold_lookup_reads_one_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever an entry lies, among several catalogs and a tail, and whatever older runs the log has."""
    small_levels(monkeypatch, filtered=200)
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    log.begin_run(run_record("run-2", "c2"))
    names = [f"v{i}" for i in range(120)]
    for at in range(0, 120, 5):
        commit(log, *names[at : at + 5])
    log.commit([video_result(name, run_id="run-2", config_hash="c2") for name in names[:20]])
    commit(log, "last")
    assert len(published(tmp_path / "log").catalogs) > 1 and published(tmp_path / "log").tail
    requests = []
    for i, name in enumerate([*names, "last"]):
        store = open_store(str(tmp_path / "log"))
        found = load(store)
        assert found is not None
        entries = IndexFinder(store, found[0]).newest(video_id(name))
        assert max(entries, key=lambda e: e.finished_at_us).run_id == ("run-2" if i < 20 else "run-1")
        requests.append(store.requests)
        assert len(IndexFinder(store, found[0]).entries(video_id(name))) == (2 if i < 20 else 1)
    assert requests.count(2) > 115  # the head, one bucket; a filter may be wrong now and then


def test_what_was_merged_is_deleted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog stays for the readers of an earlier head; who comes too late still gets an answer."""
    small_levels(monkeypatch)
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    commit(log, *"abcd")
    old = published(tmp_path / "log")
    assert [c.keys for c in old.catalogs] == [8]
    store = open_store(str(tmp_path / "log"))
    monkeypatch.setattr(store, "reader", lambda path: lambda at, length: store.read(path, at, length))  # as S3 has it
    reader = Guarded(IndexFinder(store, old), store)
    log.compact()
    commit(log, *"efgh")
    assert (tmp_path / "log" / old.catalogs[0].path).exists()
    assert old.catalogs[0].path in {path for path, _ in published(tmp_path / "log").retired}
    monkeypatch.setattr(publisher, "RETIRED_S", -1)
    commit(log, *"ijkl")
    there = {f"_index/{p.name}" for p in (tmp_path / "log" / "_index").glob("catalog-*")}
    assert there == {c.path for c in published(tmp_path / "log").catalogs}
    assert [e.run_id for e in reader.newest(video_id("a"))] == ["run-1"]
    assert log.check() == []


@given(st.lists(st.binary(min_size=1, max_size=1), max_size=12), st.lists(st.binary(min_size=1, max_size=1)))
def test_pairs_go_into_a_bucket(old: list[bytes], new: list[bytes]) -> None:
    before = sorted((key * 16, b"old" + bytes(i)) for i, key in enumerate(old))
    added = sorted((key * 16, b"new" + bytes(i)) for i, key in enumerate(dict.fromkeys(new)))
    body = index.Bucket(index.pack_bucket(before) + bytes(100)).with_new(added)
    assert (body is None) == bool({key for key, _ in before} & {key for key, _ in added})
    assert body is None or body == index.pack_bucket(sorted(before + added, key=lambda pair: pair[0]))


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
    assert [c.keys for c in after.catalogs] == [6] and [t.keys for t in after.tail] == [2]
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
    assert [c.keys for c in after.catalogs] == [10] and not after.tail and log.check() == []
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
    assert [c.keys for c in published(tmp_path / "log").catalogs] == [16] and not claim.exists()


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
    assert [c.keys for c in published(tmp_path / "log").catalogs] == [4] and log.check() == []
    assert Query(str(tmp_path / "log")).at("a", 0).num_rows == 1


def test_an_index_file_that_is_cut_short_is_no_index() -> None:
    pairs = [(video_key(video_id(i)), pack_names([(video_id(i), f"{i}.mp4")])) for i in range(1000)]
    start, whole = build(pairs, index.Templates(), 7)
    file = IndexFile.of(whole, "x")
    assert (
        file.start == start
        and file.last_us == 7
        and list(file.items()) == sorted(pairs)
        and file.header["keys"] == 1000
    )
    assert all(file.find(key) == [blob] for key, blob in pairs)
    for cut in (0, 7, 30, len(whole) // 2, len(whole) - 1):
        with pytest.raises(Exception, match="not an index"):
            IndexFile.of(whole[:cut], "x")


def test_filters_spare_requests_and_hide_nothing() -> None:
    """Of keys that are not there, few seem to be: 0.2 % of videos, 25 % of names."""
    videos = [(video_key(video_id(i)), b"V") for i in range(5000)]
    names = [(name_key(f"{i}.mp4"), b"N[]") for i in range(5000)]
    bits = key_filter([*videos, *names])
    assert len(bits) < 2 * 5000
    assert all(may_hold(bits, key, VIDEO_PLACES) for key, _ in videos)
    assert all(may_hold(bits, key, NAME_PLACES) for key, _ in names)
    assert sum(may_hold(bits, video_key(video_id(f"other {i}")), VIDEO_PLACES) for i in range(5000)) < 30
    assert sum(may_hold(bits, name_key(f"other {i}"), NAME_PLACES) for i in range(2000)) < 600
