"""The service: answers against the log that they come from, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.serve.app import create_app
from jobs.serve.comparing import pairs
from jobs.serve.reply import Problem
from jobs.serve.sending import parse_range
from jobs.serve.session import Gate
from jobs.serve.settings import LOOPBACK, Limits, Settings
from pipeline.errors import LogError, UsageError
from pipeline.query import Query
from tests.jobs.serving import FIRST, HOSTILE, S, Served, make_served

TestClient = pytest.importorskip("fastapi.testclient").TestClient


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, make_clip: Any) -> Served:
    return make_served(tmp_path_factory.mktemp("served"), make_clip)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    with TestClient(create_app(Settings(str(served.log), hosts=LOOPBACK)), base_url="http://127.0.0.1") as client:
        yield client


def refused(answer: Any, status: int, code: str = "") -> str:
    """The message of an error, which is one clear sentence in the shape of all errors."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message"} and (not code or error["code"] == code)
    assert "Traceback" not in answer.text
    return str(error["message"])


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
    assert ask("/api/meanwhile", event_id=cut) == ["HARBOUR"]


def test_event_with_provenance(client: Any, served: Served) -> None:
    first = client.get("/api/first?video=harbour.mp4&run=run-a").json()["events"][0]
    said = client.get(f"/api/videos/harbour.mp4/events/{first['event_id']}").json()
    assert said["event"] == first  # found though a newer run answers for the video
    assert said["run"]["run_id"] == "run-a"
    assert [w["frame_us"] for w in said["windows"]] == [[0, S, 2 * S]]
    assert said["windows"][0]["answer"] == "what the model said"
    refused(client.get("/api/videos/harbour.mp4/events/0000000000000000"), 404, "unknown_event")


def test_kinds_density_gaps(client: Any) -> None:
    kinds = client.get("/api/videos/harbour.mp4/kinds?run=run-a").json()["kinds"]
    assert {k["kind"]: k["events"] for k in kinds} == {"shape": 2, "text": 2, "cut": 1}
    assert client.get("/api/videos/harbour.mp4/density?run=run-a").json()["counts"] == [1, 2, 1, 2, 1, 2]
    gaps = client.get("/api/videos/harbour.mp4/gaps?run=run-a&kind=shape").json()["gaps"]
    assert gaps == [{"start_us": 2 * S, "end_us": 4 * S}]


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
    said = client.get("/api/search", params={"q": "red circle", "run": "run-a"}).json()
    assert [h["event"]["text"] for h in said["hits"]][:2] == ["a red circle appears", "a red circle leaves"]
    assert said["hits"][0]["found_by"]
    one = client.get("/api/search", params={"q": "red circle", "run": "run-a", "limit": 1}).json()
    two = client.get(
        "/api/search", params={"q": "red circle", "run": "run-a", "limit": 1, "cursor": one["next"]}
    ).json()
    assert [one["hits"][0], two["hits"][0]] == said["hits"][:2]
    found = client.get(
        "/api/search", params={"q": "circle", "run": "run-a", "video": "harbour.mp4", "start": "5"}
    ).json()
    assert [h["event"]["start_us"] for h in found["hits"]] == [4 * S]
    refused(client.get("/api/search?q=circle&video=nope.mp4"), 404, "unknown_video")
    refused(client.get("/api/search?q=circle&run=nope"), 404, "unknown_run")


def test_question_without_a_model_gets_evidence(client: Any) -> None:
    said = client.get("/api/ask", params={"q": "when does the red circle appear?"}).json()
    assert said["answer"] is None and said["supported"]
    assert said["evidence"][0]["event"]["text"] == "a red circle appears"
    none = client.get("/api/ask", params={"q": "zeppelin?"}).json()
    assert not none["supported"] and none["evidence"] == []


# -- pictures


def test_still_is_the_frame_at_that_time(client: Any, served: Served) -> None:
    from pipeline.stills import still

    answer = client.get("/api/videos/harbour.mp4/still?t=2.1&height=48")
    expected = still(str(served.archive / "harbour.mp4"), 2_100_000, height=48)
    assert answer.headers["content-type"] == "image/jpeg" and answer.content == expected.jpeg
    assert answer.headers["x-time-us"] == str(expected.time_us) == "2000000"
    assert client.get("/api/videos/harbour.mp4/still?t=2.1&height=48").content == expected.jpeg  # from memory


def test_ranges_give_the_bytes(client: Any, served: Served) -> None:
    data = (served.archive / "harbour.mp4").read_bytes()
    path = "/api/videos/harbour.mp4/media"
    whole = client.get(path)
    assert whole.content == data and whole.headers["accept-ranges"] == "bytes"
    for text, start, stop in (
        ("bytes=0-", 0, len(data)), ("bytes=10-19", 10, 20), ("bytes=-7", len(data) - 7, len(data)),
        ("bytes=5-999999999", 5, len(data)),
    ):  # fmt: skip
        part = client.get(path, headers={"Range": text})
        assert part.status_code == 206 and part.content == data[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
    gone = client.get(path, headers={"Range": f"bytes={len(data)}-"})
    assert refused(gone, 416) and gone.headers["content-range"] == f"bytes */{len(data)}"
    assert client.get(path, headers={"Range": "bytes=1-2", "If-Range": '"older"'}).status_code == 200
    head = client.head(path)
    assert head.content == b"" and head.headers["content-length"] == str(len(data))


@pytest.mark.parametrize("text", ["", "lines=1-2", "bytes=a-b", "bytes=1-2,4-5", "bytes=5-2", "bytes=-"])
def test_ranges_that_say_nothing_are_ignored(text: str) -> None:
    assert parse_range(text, 100) is None


def test_nothing_is_a_range_of_nothing() -> None:
    for text in ("bytes=0-", "bytes=-0", "bytes=-5"):
        with pytest.raises(Problem):
            parse_range(text, 0)


def test_remuxed_frames_keep_their_times(client: Any, served: Served, tmp_path: Path) -> None:
    """An MPEG-TS whose clock begins at an hour, in MP4: the same pictures at the log's own times."""
    import av
    import numpy as np

    from jobs.serve.remux import remux
    from pipeline.stills import opened, still

    source, out = tmp_path / "clip.ts", tmp_path / "clip.mp4"
    with av.open(str(served.archive / "harbour.mp4")) as a, av.open(str(source), "w") as b:
        stream = b.add_stream_from_template(a.streams.video[0])
        for packet in a.demux(video=0):
            if packet.dts is not None:
                packet.pts += round(3600 / packet.time_base)
                packet.dts += round(3600 / packet.time_base)
                packet.stream = stream
                b.mux(packet)
    remux(str(source), out)
    assert opened(str(source)).offset_us > 3_599 * S and opened(str(out)).offset_us == 0
    for at in range(0, 6 * S - 200_000, 700_000):
        before, after = still(str(source), at), still(str(out), at)
        assert before.time_us == after.time_us
        np.testing.assert_array_equal(np.frombuffer(before.jpeg, np.uint8), np.frombuffer(after.jpeg, np.uint8))


def test_clip_is_that_span(client: Any, tmp_path: Path) -> None:
    from pipeline.stills import opened

    answer = client.get("/api/videos/harbour.mp4/clip?start=1&end=2.4")
    (tmp_path / "clip.mp4").write_bytes(answer.content)
    assert answer.headers["content-disposition"].startswith('attachment; filename="harbour 1.000-2.400.mp4"')
    assert abs(opened(str(tmp_path / "clip.mp4")).duration_us - 1_400_000) < 210_000
    refused(client.get("/api/videos/harbour.mp4/clip?start=2&end=1"), 422)
    refused(client.get("/api/videos/harbour.mp4/clip?start=0&end=100000"), 422, "too_long")


def test_contact_sheet(client: Any) -> None:
    import cv2
    import numpy as np

    answer = client.get("/api/videos/harbour.mp4/sheet?columns=2&rows=2&width=64&run=run-a")
    assert answer.headers["content-type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape[1] > 128


@pytest.mark.parametrize("format", ["vtt", "srt", "csv", "activitynet"])
def test_export(client: Any, format: str) -> None:
    answer = client.get("/api/videos/harbour.mp4/export", params={"run": "run-a", "format": format})
    assert answer.status_code == 200 and "a red circle leaves" in answer.text
    assert "harbour" in answer.headers["content-disposition"]
    if format == "vtt":
        assert answer.headers["content-type"].startswith("text/vtt") and answer.text.startswith("WEBVTT")
    only = client.get("/api/videos/harbour.mp4/export", params={"run": "run-a", "format": format, "kind": "text"})
    assert "a red circle leaves" not in only.text


# -- what may be shown


def test_only_videos_below_the_roots(served: Served, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    with TestClient(create_app(Settings(str(served.log), roots=(str(other),)))) as client:
        for path in ("media", "still?t=1", "clip?start=1&end=2"):
            message = refused(client.get(f"/api/videos/harbour.mp4/{path}"), 403, "outside_roots")
            assert "--root" in message
        assert client.get("/api/videos/harbour.mp4").json()["play"]["how"] == "none"
        assert client.get("/api/at?video=harbour.mp4&t=1").status_code == 200  # events are the log's


def test_a_link_out_of_the_root_is_not_followed(served: Served, tmp_path: Path, make_clip: Any) -> None:
    copy = tmp_path / "served"
    shutil.copytree(served.log.parent, copy)
    root = copy / "root"
    root.mkdir()
    (root / "harbour.mp4").symlink_to(served.archive / "harbour.mp4")
    from jobs.serve.rooted import Rooted
    from pipeline.log.entry import Entry

    rooted = Rooted((str(root),), tuple)
    entry = Entry("v", "r", "done", "", 1, 1, 1, (str(root / "harbour.mp4"),))
    with pytest.raises(Problem, match="outside"):
        rooted.first(entry)
    with pytest.raises(Problem) as refusal:  # and if the link came after that look
        rooted.open(str(root / "harbour.mp4"))
    assert refusal.value.status == 403
    for uri in (
        "/etc/passwd",
        f"{root}/../../../etc/passwd",
        "file:///etc/passwd",
        "s3://bucket/x",
        f"simplecache::{root}",
    ):
        with pytest.raises(Problem, match="outside"):
            rooted.first(Entry("v", "r", "done", "", 1, 1, 1, (uri,)))


def test_object_store_roots() -> None:
    from jobs.serve.rooted import _allowed

    roots = ("s3://bucket/archive",)
    assert _allowed("s3://bucket/archive/day 1/a.mp4", roots)
    for uri in (
        "s3://bucket/archive2/a.mp4", "s3://bucket/archive/../secret", "s3://bucket/archive/%2e%2e/secret",
        "s3://other/archive/a.mp4", "http://bucket/archive/a.mp4", "zip://a::s3://bucket/archive/a.zip",
    ):  # fmt: skip
        assert not _allowed(uri, roots), uri


def test_a_file_that_changed_or_went(served: Served, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(served.archive, copy)
    moved = served.archive.with_name("moved")
    with TestClient(create_app(Settings(str(served.log)))) as client:
        os.rename(served.archive, moved)
        try:
            assert "is gone" in refused(client.get("/api/videos/harbour.mp4/media"), 410)
            served.archive.mkdir()
            (served.archive / "harbour.mp4").write_bytes(b"something else")
            assert "not the file that was watched" in refused(client.get("/api/videos/harbour.mp4/media"), 409)
            (served.archive / "harbour.mp4").unlink()
            os.mkfifo(served.archive / "harbour.mp4")
            refused(client.get("/api/videos/harbour.mp4/media"), 403)  # and does not hang
        finally:
            shutil.rmtree(served.archive)
            os.rename(moved, served.archive)


# -- bad input


def test_unknown_video_with_a_suggestion(client: Any) -> None:
    assert "did you mean harbour.mp4" in refused(client.get("/api/at?video=harbor.mp4&t=1"), 404, "unknown_video")
    for path in ("", "/timeline", "/still?t=1", "/media", "/kinds", "/gaps"):
        refused(client.get(f"/api/videos/harbor.mp4{path}"), 404, "unknown_video")
    assert "newest runs are" in refused(client.get("/api/runs/nope"), 404, "unknown_run")


@pytest.mark.parametrize("t", ["x", "-1", "1:75", "1e9", "∞", "١", "", "4" * 60, "nan"])
def test_times_that_are_none(client: Any, t: str) -> None:
    refused(client.get("/api/at", params={"video": "harbour.mp4", "t": t}), 422)
    refused(client.get("/api/videos/harbour.mp4/still", params={"t": t}), 422)


def test_beyond_the_end(client: Any) -> None:
    for path in (
        "/api/at?video=harbour.mp4&t=6",
        "/api/after?video=harbour.mp4&t=99",
        "/api/videos/harbour.mp4/still?t=6",
    ):
        assert "there is nothing at" in refused(client.get(path), 422)


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/web/../app.py", "/%00",
     "/api/videos/..%2f..%2fetc%2fpasswd/media", "/api/videos/%2fetc%2fpasswd/media",
     "/api/videos/file:%2f%2f%2fetc%2fpasswd/media"],
)  # fmt: skip
def test_paths_lead_nowhere_else(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404) and b"root:" not in answer.content


@pytest.mark.parametrize(
    "cursor", ["x", "e30", "WzFd", "bnVsbA", "WyJzcGFuIiwxLDIsM10", "WyJzcGFuIixbXSwyLCJhIl0", "/////w", "é"]
)
def test_cursors_that_are_none(client: Any, cursor: str) -> None:
    where = {"video": "harbour.mp4", "start": "0", "end": "5", "cursor": cursor}
    assert "cursor" in refused(client.get("/api/between", params=where), 422)
    refused(client.get("/api/videos", params={"cursor": cursor}), 422)


def test_too_long_too_large_and_not_for_writing(client: Any) -> None:
    refused(client.get("/api/at", params={"video": "x" * 9000, "t": "1"}), 414)
    refused(client.post("/api/session", content=b"x" * 100_000), 413)
    for method in ("PUT", "PATCH", "DELETE"):
        refused(client.request(method, "/api/videos"), 405)
    refused(client.get("/api/nothing"), 404)
    refused(client.get("/api/videos?limit=0"), 422)
    refused(client.get("/api/videos?limit=many"), 422)


def test_absent_log_and_no_log(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="absent"):
        create_app(Settings(str(tmp_path / "absent")))
    (tmp_path / "folder").mkdir()
    with pytest.raises(LogError):
        create_app(Settings(str(tmp_path / "folder")))


def test_empty_log(tmp_path: Path) -> None:
    from pipeline.log import EventLog

    EventLog.open(str(tmp_path / "log"), create=True)
    with TestClient(create_app(Settings(str(tmp_path / "log")))) as client:
        assert client.get("/api/overview").json()["videos"] == 0
        assert client.get("/api/videos").json() == {"videos": [], "total": 0, "next": None}
        assert client.get("/api/runs").json()["runs"] == []
        assert "holds no videos yet" in refused(client.get("/api/at?video=a&t=1"), 404)
        assert client.get("/api/search?q=x").json()["hits"] == []


def test_damaged_data_file_is_named_and_the_rest_answers(served: Served, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shutil.copytree(served.log, log)
    for file in (log / "record=events").glob("*.parquet"):
        os.truncate(file, 100)
    with TestClient(create_app(Settings(str(log)))) as client:
        message = refused(client.get("/api/at?video=harbour.mp4&t=1&run=run-a"), 503, "log_unreadable")
        assert "damaged" in message and "--check" in message
        assert client.get("/api/live").status_code == 200
        assert client.get("/healthz").json() == {"status": "ok"}


def test_log_that_grows_is_seen(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.serve import archive
    from pipeline.log import EventLog
    from tests.pipeline.logs import run_record, video_result

    monkeypatch.setattr(archive, "LOOK_S", 0.0)
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    with TestClient(create_app(Settings(str(tmp_path / "log")))) as client:
        for number in range(3):
            refused(client.get(f"/api/at?video=v{number}.mp4&t=1"), 404)
            log.commit([video_result(f"v{number}.mp4")])
            assert len(client.get(f"/api/at?video=v{number}.mp4&t=1").json()["events"]) == 2
        deadline = time.monotonic() + 30
        while client.get("/api/overview").json()["videos"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)


# -- who may ask


def test_token(served: Served) -> None:
    token = "a token of some length"[:16].replace(" ", "-")
    settings = Settings(str(served.log), token=token)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        assert client.get("/").status_code == 200  # the page itself, which asks for the token
        assert client.get("/healthz").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {token}"}, {"Cookie": "a=b"}):
            answer = client.get("/api/overview", headers=headers)
            refused(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/api/overview", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        refused(client.post("/api/session", headers={"Authorization": "Bearer wrong"}), 401)
        answer = client.post("/api/session", headers={"Authorization": f"Bearer {token}"})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and token not in cookie
        assert client.get("/api/videos/harbour.mp4/still?t=1").status_code == 200  # by the cookie alone
        client.delete("/api/session")
        refused(client.get("/api/overview"), 401)


def test_cookies_end_and_cannot_be_made_up() -> None:
    gate, other = Gate("one token of a server"), Gate("the token of another")
    cookie = gate.cookie(now=1000)
    assert gate.cookie_is_valid(cookie, now=1001) and not gate.cookie_is_valid(cookie, now=1000 + 13 * 3600)
    ends, _, signature = cookie.partition(".")
    for wrong in (
        f"{int(ends) + 1}.{signature}",
        f"{ends}.",
        ends,
        "",
        ".",
        f"{ends}.é",
        f"٣.{signature}",
        other.cookie(1000),
    ):
        assert not gate.cookie_is_valid(wrong, now=1001)


def test_names_that_point_here_from_elsewhere(client: Any) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[", "localhost@evil.example"):
        refused(client.get("/api/overview", headers={"Host": host}), 421, "host")
    for host in ("localhost:8017", "127.0.0.1", "[::1]:80", "LOCALHOST."):
        assert client.get("/api/runs", headers={"Host": host}).status_code == 200


def test_other_sites(client: Any) -> None:
    refused(client.get("/api/runs", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}), 403)
    answer = client.get("/api/runs", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_settings_from_the_environment() -> None:
    with pytest.raises(UsageError, match="SECONDSIGHT_LOG"):
        Settings.from_environment({})
    with pytest.raises(UsageError, match="SECONDSIGHT_TOKEN"):
        Settings.from_environment({"SECONDSIGHT_LOG": "LOG"})
    with pytest.raises(UsageError, match="16"):
        Settings.from_environment({"SECONDSIGHT_LOG": "LOG", "SECONDSIGHT_TOKEN": "short"})
    known = {"SECONDSIGHT_LOG": "LOG", "SECONDSIGHT_TOKEN": "none", "SECONDSIGHT_ROOTS": "/a s3://b/c"}
    assert Settings.from_environment(known) == Settings("LOG", None, ("/a", "s3://b/c"))


# -- limits


def test_work_that_takes_too_long_and_too_much_of_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(quick_threads=1, heavy_threads=1, waiting=0, quick_s=0.3)
    app = create_app(Settings(str(served.log), limits=limits))
    held = threading.Event()
    monkeypatch.setattr(Query, "kinds", lambda *_: held.wait(20) and {})
    with TestClient(app) as client:
        refused(client.get("/api/videos/harbour.mp4/kinds"), 504, "time_limit")
        busy = client.get("/api/at?video=harbour.mp4&t=1")  # its thread is still held
        assert refused(busy, 503, "busy") and busy.headers["retry-after"]
        held.set()
        deadline = time.monotonic() + 20
        while client.get("/api/at?video=harbour.mp4&t=1").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


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
