"""The service: answers against the log that they come from, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.serve.app import create_app
from jobs.serve.comparing import pairs
from jobs.serve.settings import Settings
from pipeline.query import Query
from tests.jobs.serving import FIRST, HOSTILE, S, Served, refused

TestClient = pytest.importorskip("fastapi.testclient").TestClient


# -- by second


@pytest.mark.parametrize("t", ["0", "1", "3", "3.5", "5", "0:05.999999"])
def test_at_says_what_the_query_layer_says(client: Any, served: Served, t: str) -> None:
    from pipeline.clock import parse_time

    said = client.get("/api/at", params={"video": "harbour.mp4", "t": t, "run": "run-a"}).json()
    rows = Query(str(served.log)).at("harbour.mp4", parse_time(t), run="run-a").to_pylist()
    assert [e["event_id"] for e in said["events"]] == [row["event_id"] for row in rows]
    assert said["run_id"] == "run-a" and said["video"] == str(served.archive / "harbour.mp4")


def test_newest_run_answers_and_odd_numbers_are_json(client: Any) -> None:
    said = client.get("/api/at?video=harbour.mp4&t=0").json()
    assert said["run_id"] == "run-b"
    assert said["events"][0]["attributes"] == {"level": 1, "odd": None}


def test_pages_hold_every_event_once(client: Any) -> None:
    where = {"video": "harbour.mp4", "start": "0", "end": "6", "run": "run-a"}
    whole = client.get("/api/between", params=where).json()["events"]
    assert len(whole) == len(FIRST)
    for limit in (1, 2, 3, 5):
        found, cursor = [], None
        while True:
            page = client.get(
                "/api/between", params={**where, "limit": limit, **({"cursor": cursor} if cursor else {})}
            )
            found += page.json()["events"]
            cursor = page.json()["next"]
            assert len(page.json()["events"]) <= limit
            if cursor is None:
                break
        assert found == whole


def test_several_videos_and_all(client: Any, served: Served) -> None:
    def ask(path: str, **where: Any) -> list[tuple[str, str, str, int]]:
        found, cursor = [], None
        while True:
            said = client.get(f"/api/{path}", params=where | ({"cursor": cursor} if cursor else {})).json()
            assert said["video"] is said["run_id"] is None
            found += [(e["video"].rsplit("/", 1)[-1], e["run_id"], e["text"], e["start_us"]) for e in said["events"]]
            cursor = said["next"]
            if cursor is None:
                return found

    def queried(table: Any) -> list[tuple[str, str, str, int]]:
        names = {identity: name for name, identity in served.ids.items()}
        return [(names[r["video_id"]], r["run_id"], r["text"], r["start_us"]) for r in table.to_pylist()]

    query, both = Query(str(served.log)), ["harbour.mp4", "night bus.mp4"]
    for videos in (None, both, both[::-1]):
        where = {} if videos is None else {"video": videos}
        assert ask("at", t="1", **where) == queried(query.at(videos, S))
        whole = queried(query.between(videos, 0, 6 * S))
        assert {run for _, run, _, _ in whole} == {"run-a", "run-b"}
        for limit in (1, 2, 3, 100):
            assert ask("between", start="0", end="6", limit=limit, **where) == whole
            assert ask("first", kind="shape", limit=limit, **where) == queried(query.first(videos, kinds=["shape"]))
            assert ask("last", limit=limit, **where) == queried(query.last(videos))
    assert ask("at", t="99") == ask("first", kind="text", video=both) == []  # shorter ones are left out
    assert {run for _, run, _, _ in ask("at", t="1", run="run-a")} == {"run-a"}
    refused(client.get("/api/at?t=1&video=harbour.mp4&video=harbor.mp4"), 404, "unknown_video")
    refused(client.get("/api/first?run=nope"), 404, "unknown_run")
    cursor = client.get("/api/between?start=0&end=6&limit=1&video=harbour.mp4").json()["next"]
    assert "another video" in refused(
        client.get("/api/between", params={"start": 0, "end": 6, "video": "night bus.mp4", "cursor": cursor}), 422
    )


def test_pages_of_events_that_begin_together(tmp_path: Path) -> None:
    from pipeline.log import EventLog
    from tests.pipeline.logs import event, run_record, video_result

    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    events = [event(S * (i // 7), S * (i // 7) + 5 * S, text=f"t{i}") for i in range(40)]
    log.commit([video_result("x.mp4", sorted(events, key=lambda e: (e.start_us, e.end_us, e.kind, e.text)))])
    with TestClient(create_app(Settings(str(tmp_path / "log")))) as client:
        where = {"video": "x.mp4", "start": "2", "end": "5"}
        whole = [e["event_id"] for e in client.get("/api/between", params={**where, "limit": 1000}).json()["events"]]
        for limit in (1, 3, 7, 10):
            found: list[str] = []
            cursor = None
            while True:
                page = client.get(
                    "/api/between", params=where | {"limit": limit} | ({"cursor": cursor} if cursor else {})
                )
                found += [e["event_id"] for e in page.json()["events"]]
                cursor = page.json()["next"]
                if cursor is None:
                    break
            assert found == whole and len(set(whole)) == len(whole) == 35


def test_before_after_first_last_meanwhile(client: Any) -> None:
    where = {"video": "harbour.mp4", "run": "run-a"}

    def ask(path: str, **more: Any) -> list[str]:
        return [e["text"] for e in client.get(path, params=where | more).json()["events"]]

    assert ask("/api/before", t="4", count=2) == ["HARBOUR", "cut"]
    assert ask("/api/after", t="4", count=1) == ["a red circle leaves"]
    assert ask("/api/first", kind="text") == ["HARBOUR"]
    assert ask("/api/last", kind="shape") == ["a red circle leaves"]
    cut = client.get("/api/first", params=where | {"kind": "cut"}).json()["events"][0]["event_id"]
    assert ask("/api/meanwhile", event=cut) == ask("/api/meanwhile", event="cut") == ["HARBOUR"]
    assert ask("/api/before", event=cut) == ask("/api/before", event="CUT") == ["a red circle appears", "HARBOUR"]
    assert ask("/api/after", event="leaves", kind="text") == [] and ask("/api/after", event="text", count=1) == [
        "a red circle leaves"
    ]


def test_event_with_provenance(client: Any, served: Served) -> None:
    first = client.get("/api/first?video=harbour.mp4&run=run-a").json()["events"][0]
    said = client.get(f"/api/videos/harbour.mp4/events/{first['event_id']}").json()
    assert said["event"] == first  # found though a newer run answers for the video
    assert said["run"]["run_id"] == "run-a"
    assert [w["frame_us"] for w in said["windows"]] == [[0, S, 2 * S]]
    assert said["windows"][0]["answer"] == "what the model said"
    refused(client.get("/api/videos/harbour.mp4/events/0000000000000000"), 404, "unknown_event")


def test_kinds_density_gaps(client: Any) -> None:
    def ask(path: str, what: str) -> Any:
        [of_it] = client.get(f"/api/{path}&video=harbour.mp4").json()["videos"]
        return of_it[what]

    kinds = ask("kinds?run=run-a", "kinds")
    assert {k["kind"]: k["events"] for k in kinds} == {"shape": 2, "text": 2, "cut": 1}
    assert ask("density?run=run-a", "counts") == [1, 2, 1, 2, 1, 2]
    assert ask("gaps?run=run-a&kind=shape", "gaps") == [{"start_us": 2 * S, "end_us": 4 * S}]


@pytest.mark.parametrize("run", ["run-a", "run-b"])
def test_every_answer_about_a_video_names_it_and_its_run(client: Any, served: Served, run: str) -> None:
    of = {"run": run} if run == "run-a" else {}
    said = [client.get("/api/videos/harbour.mp4/timeline", params=of).json()]
    for path in ("kinds", "density", "gaps"):
        said += client.get(f"/api/{path}", params=of | {"video": "harbour.mp4"}).json()["videos"]
    assert [(one["video_id"], one["run_id"]) for one in said] == [(served.ids["harbour.mp4"], run)] * 4


def test_timeline_is_the_events_in_columns(client: Any) -> None:
    said = client.get("/api/videos/harbour.mp4/timeline?run=run-a&field=text&field=event_id").json()
    assert [said["kinds"][k] for k in said["kind"]] == [e.kind for e in FIRST]
    assert said["start_us"] == [e.start_us for e in FIRST] and said["text"][-1] == HOSTILE
    part = client.get("/api/videos/harbour.mp4/timeline?run=run-a&offset=2&limit=2").json()
    assert part["start_us"] == [FIRST[2].start_us, FIRST[3].start_us] and part["total"] == len(FIRST)


# -- the archive


def test_overview_counts(client: Any) -> None:
    said = client.get("/api/overview").json()
    assert (said["videos"], said["done"], said["failed"], said["events"], said["runs"]) == (3, 2, 1, 4, 2)
    assert {k["kind"]: k["events"] for k in said["kinds"]} == {"shape": 4}  # in each video's newest run
    assert sum(sum(d["counts"]) for d in said["density"]) == 4
    assert said["reasons"] == [{"code": "unreadable", "videos": 1}]


@pytest.mark.parametrize("order", ["name", "events", "duration", "newest"])
def test_videos_in_pages(client: Any, order: str) -> None:
    whole = client.get("/api/videos", params={"order": order}).json()
    found, cursor = [], None
    while True:
        page = client.get("/api/videos", params={"order": order, "limit": 1} | ({"cursor": cursor} if cursor else {}))
        found += page.json()["videos"]
        cursor = page.json()["next"]
        if cursor is None:
            break
    assert found == whole["videos"] and whole["total"] == 3


def test_video_filters(client: Any) -> None:
    def names(**params: str) -> list[str]:
        return [os.path.basename(v["name"]) for v in client.get("/api/videos", params=params).json()["videos"]]

    assert names(q="NIGHT") == ["night bus.mp4"]
    assert names(status="failed") == ["broken.mp4"]
    assert sorted(names(kind="shape")) == ["harbour.mp4", "night bus.mp4"]
    assert names(q="100%_") == []


def test_one_video(client: Any, served: Served) -> None:
    said = client.get("/api/videos/harbour.mp4").json()
    assert [r["run_id"] for r in said["runs"]] == ["run-b", "run-a"] and said["run_id"] == "run-b"
    assert said["play"]["how"] == "direct"
    broken = client.get(f"/api/videos/{served.ids['broken.mp4']}").json()
    assert broken["status"] == "failed" and "unreadable" in broken["reason"] and broken["play"]["how"] == "none"


def test_runs_compared(client: Any) -> None:
    said = client.get("/api/compare?left=run-a&right=run-b").json()
    assert said["both"] == 1 and said["total"] == 2
    assert {(k["kind"], k["left"], k["right"]) for k in said["kinds"]} == {
        ("shape", 2, 2),
        ("text", 2, 0),
        ("cut", 1, 0),
    }
    one = client.get("/api/videos/harbour.mp4/compare?left=run-a&right=run-b").json()
    matched = {(one["left"][p["left"]]["text"], one["right"][p["right"]]["text"], p["same_text"]) for p in one["pairs"]}
    assert matched == {
        ("a red circle appears", "a red circle appears", True),
        ("a red circle leaves", "a ball leaves", False),
    }
    by_id = client.get(f"/api/videos/{one['video_id']}/compare?left=run-a&right=run-b").json()
    assert by_id["name"] == one["name"] and one["name"].endswith("/harbour.mp4")


def test_pairs_are_the_best_ones_by_looking_at_all() -> None:
    import random

    from jobs.serve.comparing import alike

    for seed in range(60):
        draw = random.Random(seed)

        def side(draw: random.Random = draw) -> list[dict[str, Any]]:
            starts = sorted(draw.randrange(0, 9 * S, 250_000) for _ in range(7))
            return [
                {
                    "start_us": s,
                    "end_us": s + draw.choice([1, S, 4 * S]),
                    "kind": draw.choice("ab"),
                    "text": draw.choice("xy"),
                }
                for s in starts
            ]

        left, right = side(), side()
        found = pairs(left, right)
        possible = [
            (a["text"] != b["text"], -alike(a, b), i, j)
            for i, a in enumerate(left)
            for j, b in enumerate(right)
            if a["kind"] == b["kind"] and alike(a, b) > 0
        ]
        expected, used = set(), (set[int](), set[int]())
        for _, _, i, j in sorted(possible):
            if i not in used[0] and j not in used[1]:
                expected.add((i, j))
                used[0].add(i)
                used[1].add(j)
        assert {(p["left"], p["right"]) for p in found} == expected


def test_failures(client: Any) -> None:
    said = client.get("/api/failures").json()
    assert [f["code"] for f in said["failures"]] == ["unreadable"] and said["total"] == 1
    assert client.get("/api/failures?code=denied").json()["failures"] == []


# -- search


def test_search_and_its_pages(client: Any) -> None:
    where = {"q": "red circle", "run": "run-a", "video": "harbour.mp4"}
    said = client.get("/api/search", params=where).json()
    assert [h["event"]["text"] for h in said["hits"]][:2] == ["a red circle appears", "a red circle leaves"]
    assert said["hits"][0]["found_by"]
    one = client.get("/api/search", params=where | {"limit": 1}).json()
    two = client.get("/api/search", params=where | {"limit": 1, "cursor": one["next"]}).json()
    assert [one["hits"][0], two["hits"][0]] == said["hits"][:2]
    found = client.get(
        "/api/search", params={"q": "circle", "run": "run-a", "video": "harbour.mp4", "start": "5"}
    ).json()
    assert [h["event"]["start_us"] for h in found["hits"]] == [4 * S]
    both = client.get("/api/search?q=circle&video=harbour.mp4&video=night%20bus.mp4").json()["hits"]
    said_by = {(h["event"]["text"], h["event"]["run_id"]) for h in both}  # equally good ones, in any order
    assert len(both) == 2 and said_by == {("a red circle appears", "run-a"), ("a red circle appears", "run-b")}
    refused(client.get("/api/search?q=circle&video=nope.mp4"), 404, "unknown_video")
    refused(client.get("/api/search?q=circle&run=nope"), 404, "unknown_run")


def test_question_without_a_model_gets_evidence(client: Any) -> None:
    said = client.get("/api/ask", params={"q": "when does the red circle appear?"}).json()
    assert said["answer"] is None and said["supported"]
    assert said["evidence"][0]["event"]["text"] == "a red circle appears"
    none = client.get("/api/ask", params={"q": "zeppelin?"}).json()
    assert not none["supported"] and none["evidence"] == []


# -- live


def test_live_status_as_it_is_written(served: Served, tmp_path: Path) -> None:
    from pipeline.live import LiveStatus, write_live

    log = tmp_path / "log"
    shutil.copytree(served.log, log)
    now = time.time_ns() // 1000
    write_live(
        str(log), LiveStatus("run-c", "running", now, now, model="m", archive="a", videos_found=7, videos_done=3)
    )
    with TestClient(create_app(Settings(str(log)))) as client:
        [run] = client.get("/api/live").json()["runs"]
        assert run["is_live"] and run["videos_found"] == 7


# -- the page


def test_page_and_its_parts_are_here(client: Any) -> None:
    import re

    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    web = Path(__file__).parents[2] / "jobs" / "serve" / "web"
    for file in web.iterdir():
        answer = client.get(f"/{file.name}")
        assert answer.status_code == 200 and answer.content == file.read_bytes()
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), file
        outside = [u for u in re.findall(r"https?://[^\s\"'<)]+", text) if "www.w3.org" not in u]
        assert not outside, (file, outside)


def test_openapi_document_names_every_answer(client: Any) -> None:
    document = client.get("/openapi.json").json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["description"], (method, path)
            assert "422" in operation["responses"] and "200" in operation["responses"], (method, path)
    assert json.dumps(document).count("HTTPValidationError") == 0
