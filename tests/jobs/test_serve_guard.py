"""What the service refuses: bad input, strangers, too much at once; and that it lives on."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from jobs.serve.app import create_app
from jobs.serve.session import Gate
from jobs.serve.settings import Limits, Settings
from pipeline.errors import LogError, UsageError
from pipeline.query import Query
from tests.jobs.serving import Served, refused

TestClient = pytest.importorskip("fastapi.testclient").TestClient


# -- bad input


def test_unknown_video_with_a_suggestion(client: Any) -> None:
    assert "did you mean harbour.mp4" in refused(client.get("/api/at?video=harbor.mp4&t=1"), 404, "unknown_video")
    for path in ("", "/timeline", "/still?t=1", "/media"):
        refused(client.get(f"/api/videos/harbor.mp4{path}"), 404, "unknown_video")
    for path in ("kinds?", "density?", "gaps?", "before?t=1&", "after?t=1&", "ask?q=circle&"):
        refused(client.get(f"/api/{path}video=harbor.mp4"), 404, "unknown_video")
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


def test_bodies_that_do_not_say_how_long_they_are(served: Served) -> None:
    def body(size: int) -> Iterator[bytes]:
        for _ in range(size >> 10):
            yield b" " * 1024

    limits = Limits(body_bytes=16 << 10, picture_bytes=64 << 10)
    with TestClient(create_app(Settings(str(served.log), limits=limits))) as client:
        for path, most in (("/api/sql", limits.body_bytes), ("/api/search/image", limits.picture_bytes)):
            assert str(most) in refused(client.post(path, content=body(4 << 20)), 413, "too_large")
            assert "content-length" not in client.post(path, content=body(1 << 10)).request.headers
            assert client.post(path, content=body(most)).status_code != 413
        headers = {"Content-Type": "application/json"}
        assert "UTF-8" in refused(client.post("/api/sql", content=b"\xd1\x92\xff", headers=headers), 422, "bad_value")
    for length in ("²", "-1", "1e3", "9" * 5000):
        assert status(create_app(Settings(str(served.log))), "/healthz", headers={"content-length": length}) == 413


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


def test_data_file_that_is_damaged_after_a_first_look(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.log.ahead.Ahead.fetch", lambda *_: None)  # as of files too large to be kept
    log = tmp_path / "log"
    shutil.copytree(served.log, log)
    with TestClient(create_app(Settings(str(log)))) as client:
        assert client.get("/api/overview").status_code == 200
        for file in (log / "record=events").glob("*.parquet"):
            os.truncate(file, 100)
        for path in ("runs/run-a", "videos?kind=shape", "compare?left=run-a&right=run-b"):
            assert "--check" in refused(client.get(f"/api/{path}"), 503, "log_unreadable"), path
        assert client.get("/api/videos").status_code == 200


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


def status(
    app: Any, path: str, *, root_path: str = "", method: str = "GET", headers: dict[str, str] | None = None
) -> int:
    """What is said to a path as it is: the clients at hand make odd ones plain."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "root_path": root_path, "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), *((k.encode(), v.encode("latin-1")) for k, v in (headers or {}).items())],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    told: list[int] = []
    given = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in given:
            return message
        await asyncio.sleep(3600)  # the client waits
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        told.append(message.get("status", 0))

    asyncio.run(app(scope, receive, send))
    return told[0]


@pytest.mark.parametrize("root_path", ["", "/sight", "/sight/of/things"])
def test_everything_else_wants_the_token_also_under_a_prefix(served: Served, root_path: str) -> None:
    token = "a-token-of-some-length"
    app = create_app(Settings(str(served.log), token=token))
    shown = {"authorization": f"Bearer {token}"}
    with TestClient(app) as client:
        document = client.get("/openapi.json").json()
        for prefix in {"", root_path}:  # a proxy may have taken it off
            asked = 0
            for path in set(document["paths"]) - {"/api/session"}:
                whole = prefix + path.replace("{", "").replace("}", "")
                for method in document["paths"][path]:
                    assert status(app, whole, root_path=root_path, method=method.upper()) == 401, whole
                    asked += 1
            assert asked > 20
            assert status(app, f"{prefix}/api/overview", root_path=root_path, headers=shown) == 200
            for path in ("/", "/app.js", "/docs.html", "/healthz", "/readyz", "/openapi.json"):
                assert status(app, prefix + path, root_path=root_path) == 200, path
        for odd in (
            "//api/overview", "/api//overview", "/api%2foverview", "/%61pi/overview", "/API/overview",
            "/./api/overview", "/x/../api/overview", "/app.js/../api/overview", "/api/overview/",
            "/api/session/../overview", "/api",
            "/healthz/../api/overview", f"{root_path}{root_path}/api/overview", "/sigh/api/overview",
            "/sightapi/overview",
        ):  # fmt: skip
            for path in (odd, root_path + odd):
                assert status(app, path, root_path=root_path) == 401, path


@pytest.mark.parametrize("root_path", ["/sight", ""])  # the server knows of the prefix; a proxy takes it off
def test_cookie_under_a_prefix(served: Served, root_path: str) -> None:
    token = "a-token-of-some-length"
    app = create_app(Settings(str(served.log), token=token))

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not root_path:
            scope = {**scope, "path": scope["path"].removeprefix("/sight")}
        await app(scope, receive, send)

    with TestClient(behind, root_path=root_path) as client:
        answer = client.post("/sight/api/session", headers={"Authorization": f"Bearer {token}"})
        assert [cookie.path for cookie in client.cookies.jar] == ["/sight/api"], answer.headers["set-cookie"]
        assert client.get("/sight/api/overview").status_code == 200
        client.delete("/sight/api/session")
        assert not list(client.cookies.jar)
        refused(client.get("/sight/api/overview"), 401)


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
    with pytest.raises(UsageError, match="'gpt' is not a model to ask"):
        Settings.from_environment({"SECONDSIGHT_LOG": "L", "SECONDSIGHT_TOKEN": "none", "SECONDSIGHT_MODEL": "gpt"})
    known = {"SECONDSIGHT_LOG": "LOG", "SECONDSIGHT_TOKEN": "none", "SECONDSIGHT_ROOTS": "/a s3://b/c"}
    assert Settings.from_environment(known) == Settings("LOG", None, ("/a", "s3://b/c"))


# -- limits


def test_work_that_takes_too_long_and_too_much_of_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(quick_threads=1, heavy_threads=1, waiting=0, quick_s=0.3)
    app = create_app(Settings(str(served.log), limits=limits))
    held = threading.Event()
    monkeypatch.setattr(Query, "kinds", lambda *_: held.wait(20) and {})
    with TestClient(app) as client:
        refused(client.get("/api/kinds?video=harbour.mp4"), 504, "time_limit")
        busy = client.get("/api/at?video=harbour.mp4&t=1")  # its thread is still held
        assert refused(busy, 503, "busy") and busy.headers["retry-after"]
        held.set()
        deadline = time.monotonic() + 20
        while client.get("/api/at?video=harbour.mp4&t=1").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_last_commit_that_is_damaged(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions are answered from what was there before it, or told which commit is damaged; the server lives."""
    from jobs.serve import archive

    monkeypatch.setattr(archive, "LOOK_S", 0.0)
    log = tmp_path / "log"
    shutil.copytree(served.log, log)
    with TestClient(create_app(Settings(str(log)))) as client:
        assert client.get("/api/at?video=harbour.mp4&t=1").status_code == 200
        newest = max((log / "_delta_log").glob("*.json"))
        newest.with_name(f"{int(newest.stem) + 1:020d}.json").write_text('{"add": {"path": ')
        for path in ("/api/at?video=harbour.mp4&t=1", "/api/overview", "/api/videos", "/api/search?q=red"):
            answer = client.get(path)
            assert answer.status_code == 200 or "damaged commit" in refused(answer, 503, "log_unreadable"), path
        assert client.get("/healthz").json() == {"status": "ok"}
        newest.with_name(f"{int(newest.stem) + 1:020d}.json").unlink()
        assert client.get("/api/at?video=harbour.mp4&t=1").status_code == 200
