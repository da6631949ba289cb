"""Questions to many videos over HTTP: pages that end in time, each with the way on; nothing of the page waits."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobs.serve.app import create_app
from jobs.serve.settings import Limits, Settings
from pipeline.log import EventLog
from pipeline.log.lookup import Lookup
from pipeline.query import Query
from pipeline.query.names import Names
from tests.jobs.serving import S, Served, refused
from tests.pipeline.logs import event, run_record, video_result

TestClient = pytest.importorskip("fastapi.testclient").TestClient

#: Videos, of which every seventh says "rare".
MANY = 30


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    log = EventLog.open(str(tmp_path_factory.mktemp("many") / "log"), create=True)
    log.begin_run(run_record())
    log.commit(
        [
            video_result(
                f"{n:02}.mp4",
                [event(S, 2 * S, text="often"), event(3 * S, 4 * S, text="often" if n % 7 else "rare")],
            )
            for n in range(MANY)
        ]
    )
    return log.uri


def pages(client: Any, path: str, **where: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while not found or cursor is not None:
        answer = client.get(f"/api/{path}", params=where | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        cursor = found[-1]["next"]
        assert (cursor is None) == (found[-1]["videos_left"] == 0)
    return found


PATHS = [
    ("first", {"text": "rare"}),
    ("last", {"text": "rare"}),
    ("at", {"t": "3", "text": "rare"}),
    ("between", {"start": "0", "end": "9", "text": "rare"}),
    ("before", {"t": "9", "text": "rare"}),
    ("after", {"t": "2", "text": "rare"}),
]


@pytest.mark.parametrize(("path", "where"), PATHS)
def test_a_page_ends_in_time_and_says_where_it_goes_on(many: str, path: str, where: dict[str, str]) -> None:
    """Without any time at all it looks at one video: most pages are empty, and are not the last."""
    with TestClient(create_app(Settings(many))) as client:
        [whole] = pages(client, path, **where)
    with TestClient(create_app(Settings(many, limits=Limits(many_s=0.0)))) as client:
        some = pages(client, path, **where)
    assert len(whole["events"]) == len(range(0, MANY, 7)) and len(some) == MANY
    assert [e for page in some for e in page["events"]] == whole["events"]
    assert [page["videos_left"] for page in some] == list(range(MANY - 1, -1, -1)) and some[1]["events"] == []


def test_slow_lookups_do_not_make_a_page_slow(many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Lookup._read
    monkeypatch.setattr(Lookup, "_read", lambda *a: time.sleep(0.02) or read(*a))
    with TestClient(create_app(Settings(many, limits=Limits(many_s=0.1)))) as client:
        assert client.get("/api/first?video=00.mp4").status_code == 200
        began = time.monotonic()
        page = client.get("/api/first?text=zzz").json()
        assert time.monotonic() - began < 0.5
    assert page["events"] == [] and page["next"] and 0 < page["videos_left"] < MANY


def test_lookups_of_an_object_store_go_side_by_side(many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at once, or nobody goes on; the answers come in the order of the videos."""
    from pipeline.query import reading

    monkeypatch.setattr(reading, "LocalStore", ())
    together, read = threading.Barrier(3), Lookup._read
    monkeypatch.setattr(reading, "ABREAST", 3)
    monkeypatch.setattr(Lookup, "_read", lambda *a: (together.wait(10), read(*a))[1])
    found = Query(many).first(None)
    assert found.num_rows == MANY and found["video_id"].to_pylist() == [
        m.entry.video_id for m in Query(many).matches(None)
    ]


def test_nobody_waits_for_questions_to_many(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    held, asking, overlapping = threading.Event(), threading.Semaphore(0), Query.overlapping

    def ask(self: Query, match: Any, start_us: int, *more: Any) -> Any:
        if start_us == 2 * S:
            asking.release()
            held.wait(20)
        return overlapping(self, match, start_us, *more)

    monkeypatch.setattr(Query, "overlapping", ask)
    limits = Limits(heavy_threads=1, many_threads=1)
    with TestClient(create_app(Settings(str(served.log), limits=limits))) as client, ThreadPoolExecutor(2) as others:
        waiting = [others.submit(client.get, "/api/at?t=2") for _ in range(2)]
        assert asking.acquire(timeout=20)
        for path in ("overview", "videos", "runs", "at?t=1&video=harbour.mp4", "videos/harbour.mp4/still?t=1"):
            assert client.get(f"/api/{path}").status_code == 200, path
        held.set()
        assert [one.result(20).status_code for one in waiting] == [200] * 2


def test_the_list_of_videos_is_made_once_and_beside_lookups(many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, listing, go = 0, threading.Event(), threading.Event()
    whole = Names._all

    def listed(self: Names, run: str | None) -> Any:
        nonlocal made
        made += 1
        listing.set()
        assert go.wait(20)
        return whole(self, run)

    monkeypatch.setattr(Names, "_all", listed)
    query = Query(many)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(query.matches, None) for _ in range(2)]
        assert listing.wait(20)
        assert query.at("03.mp4", S).num_rows == 1  # while the list is made
        go.set()
        first, second = (one.result(20) for one in both)
    assert first == second == query.matches(None) and len(first) == MANY and made == 1
    assert query.matches(None, "run-1") == first and made == 2
    query.refresh()
    assert query.matches(None) == first and made == 3


@pytest.mark.parametrize(("many_s", "limit"), [(5, 1), (5, 100), (0, 100)])
def test_before_after_and_sums_of_all_and_of_some(served: Served, many_s: float, limit: int) -> None:
    """As the query layer says, whatever the pages."""
    query, names = Query(str(served.log)), ["harbour.mp4", "night bus.mp4"]
    ids = {identity: name for name, identity in served.ids.items()}

    def rows(table: Any) -> list[tuple[str, str]]:
        return [(ids[r["video_id"]], r["text"]) for r in table.to_pylist()]

    with TestClient(create_app(Settings(str(served.log), limits=Limits(many_s=many_s)))) as client:

        def events(path: str, **where: Any) -> list[tuple[str, str]]:
            return [(ids[e["video_id"]], e["text"]) for page in pages(client, path, **where) for e in page["events"]]

        def sums(path: str, what: str, **where: Any) -> dict[str, Any]:
            return {ids[v["video_id"]]: v[what] for page in pages(client, path, **where) for v in page["videos"]}

        for videos in (None, names[::-1]):
            of: dict[str, Any] = {"limit": limit} if videos is None else {"limit": limit, "video": videos}
            assert events("before", t="5", count=2, **of) == rows(query.before(videos, 5 * S, 2))
            assert events("after", t="0:00.1", **of) == rows(query.after(videos, S // 10))
            kinds = {n: [{"kind": k, "events": c} for k, c in query.kinds(n).items()] for n in names}
            assert sums("kinds", "kinds", **of) == kinds
            assert sums("density", "counts", **of) == {n: query.density(n) for n in names}
            gaps = {n: [{"start_us": a, "end_us": b} for a, b in query.gaps(n, S // 2)] for n in names}
            assert sums("gaps", "gaps", least="0.5", **of) == gaps


def test_what_cannot_be_asked_of_many(client: Any) -> None:
    assert client.get("/api/after?t=99").json()["events"] == []  # shorter videos are left out
    for wrong in ("before?event=cut", "after?event=cut&video=harbour.mp4&video=night%20bus.mp4"):
        assert "name it, once" in refused(client.get(f"/api/{wrong}"), 422, "bad_value")
    refused(client.get("/api/before?event=nothing&video=harbour.mp4"), 404, "unknown_event")
    refused(client.get("/api/before?event=cut&t=1&video=harbour.mp4"), 422, "bad_value")
    cursor = client.get("/api/kinds?limit=1").json()["next"]
    refused(client.get(f"/api/gaps?cursor={cursor}"), 422, "bad_cursor")


def test_an_event_of_an_older_run_is_asked_around_in_that_run(client: Any, served: Served) -> None:
    leaves = client.get("/api/last?video=harbour.mp4&run=run-a&kind=shape").json()["events"][0]
    said = client.get("/api/before", params={"video": "harbour.mp4", "event": leaves["event_id"], "count": 1}).json()
    assert said["run_id"] == "run-a" and [e["text"] for e in said["events"]] == ["cut"]
    assert said["video"] == str(Path(served.archive) / "harbour.mp4")
