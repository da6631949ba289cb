"""The event log on an S3 server on loopback: the same promises, few requests, an error where a store is too weak."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from jobs.bench.s3 import s3_server
from pipeline.errors import LogError
from pipeline.log import EventLog
from pipeline.log.check import check
from pipeline.log.objectstore import ObjectStore
from pipeline.log.sql import select
from pipeline.log.store import open_store
from pipeline.query import Query
from tests.pipeline.logs import random_events, run_record, video_id, video_result


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as uri:
        yield uri


def test_a_log_on_s3(bucket: str) -> None:
    uri = f"{bucket}/one/log"
    log = EventLog.open(uri, create=True)
    other = EventLog.open(uri)
    log.begin_run(run_record())
    other.begin_run(run_record("run-2"))
    events = random_events(random.Random(1), 5000, 1000)
    log.commit([video_result("a.mp4", events), video_result("b.mp4")])
    assert other.commit([video_result("b.mp4", run_id="run-2")]).already == (video_id("b.mp4"),)
    assert other.commit([video_result("c.mp4", run_id="run-2")]).committed == (video_id("c.mp4"),)
    log.record_names({video_id("a.mp4"): ["s3://elsewhere/copy.mp4"]})
    assert other.done("c1") == {video_id(n): "done" for n in ("a.mp4", "b.mp4", "c.mp4")}
    assert Query(uri).between("copy.mp4", 0, 1000).num_rows == 5000
    assert select(log.snapshot(), "select count(*) as n from events").to_pylist() == [{"n": 5004}]
    log.finish_run("run-1", {}, "done")
    before = Query(uri)
    log.compact()
    assert before.between("a.mp4", 0, 1000).num_rows == Query(uri).between("a.mp4", 0, 1000).num_rows == 5000
    assert check(open_store(uri)) == []
    with pytest.raises(LogError, match="no event log here"):
        EventLog.open(f"{bucket}/nothing")


def test_a_cold_lookup_takes_three_requests(bucket: str) -> None:
    uri = f"{bucket}/two"
    log = EventLog.open(uri, create=True)
    log.begin_run(run_record())
    for k in range(5):
        log.commit([video_result(f"{k}-{i}.mp4", random_events(random.Random(i), 300, 1000)) for i in range(20)])
    for compacted in (False, True):
        if compacted:
            log.compact()
        query = Query(uri)
        assert query.at(video_id("3-7.mp4"), 10, span_us=100).num_rows > 0
        assert isinstance(query._store, ObjectStore)
        assert query._store.requests <= 3 and query._store.bytes_read <= 200_000


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_store_without_conditional_put_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch, ignored: str) -> None:
    honest = ObjectStore._conditional

    def overwrite(self: ObjectStore, path: str, data: bytes, mode: object) -> str | None:
        if (mode == "create") == (ignored == "If-None-Match"):
            self._obstore.put(self._store, path, data)
            return " tag"
        return honest(self, path, data, mode)

    monkeypatch.setattr(ObjectStore, "_conditional", overwrite)
    with pytest.raises(LogError, match="conditional puts"):
        EventLog.open(f"{bucket}/three", create=True)


def test_a_version_is_told_by_generation_too(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's store compares generations and has no If-Match: both are kept, and given back."""
    store = ObjectStore(f"{bucket}/four")
    asked: list[object] = []

    def put(*arguments: object, mode: object, **_: object) -> dict[str, str]:
        asked.append(mode)
        return {"e_tag": '"abc"', "version": "17"}

    monkeypatch.setattr(store, "_obstore", SimpleNamespace(put=put))
    tag = store.swap("a", b"1", None)
    assert tag is not None and store.swap("a", b"2", tag) == tag
    assert asked == ["create", {"version": "17", "e_tag": '"abc"'}]


def test_an_unreachable_store_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setattr("pipeline.log.objectstore.RETRIES", {"max_retries": 0})
    with pytest.raises(LogError, match=r"127\.0\.0\.1"):
        Query("s3://bucket/log")
