"""The service over a log and videos in an object store, with nothing else running (a moto server on loopback)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import fsspec
import pytest

from jobs.bench.s3 import s3_server
from jobs.serve.app import create_app
from jobs.serve.settings import LOOPBACK, Settings
from pipeline.fingerprint import fingerprint
from pipeline.log import EventLog, RunRecord, VideoResult
from pipeline.stills import still
from pipeline.video import Source
from tests.jobs.serving import FIRST, S

TestClient = pytest.importorskip("fastapi.testclient").TestClient


def test_log_and_videos_in_an_object_store(tmp_path: Path, make_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDSIGHT_CACHE", str(tmp_path / "cache"))
    clip = make_clip(tmp_path / "harbour.mp4", seed=1)
    data = clip.read_bytes()
    video_id = fingerprint(Source(str(clip), len(data)))
    with s3_server() as bucket:
        uri, outside, log = f"{bucket}/archive/harbour.mp4", f"{bucket}/secret/harbour.mp4", f"{bucket}/log"
        for name in (uri, outside):
            with fsspec.open(name, "wb") as file:
                file.write(data)
        writer = EventLog.open(log, create=True)
        writer.begin_run(RunRecord("run-a", "c0", {}, "m", "w", "0", {"archive": [f"{bucket}/archive"]}, 10**15))

        def result(identity: str, name: str) -> VideoResult:
            return VideoResult(
                identity, "run-a", "c0", (name,), len(data), "done", duration_us=6 * S, offset_us=0, width=64,
                height=48, rotation=0, codec="h264", frame_rate=5.0, events=FIRST,
            )  # fmt: skip

        writer.commit([result(video_id, uri), result("f" * 32, outside)])
        writer.finish_run("run-a", {}, "done")
        app = create_app(Settings(log, hosts=LOOPBACK))
        with TestClient(app, base_url="http://127.0.0.1") as client:
            said = client.get("/api/at", params={"video": uri, "t": "1"}).json()
            assert [e["text"] for e in said["events"]][:1] == ["a red circle appears"]
            firsts = client.get("/api/first?kind=text").json()["events"]  # of both, side by side
            assert [(e["video"], e["text"]) for e in firsts] == [(uri, "HARBOUR"), (outside, "HARBOUR")]
            path = f"/api/videos/{video_id}"
            part = client.get(f"{path}/media", headers={"Range": "bytes=100-299"})
            assert part.status_code == 206 and part.content == data[100:300]
            assert part.headers["content-range"] == f"bytes 100-299/{len(data)}"
            assert client.get(f"{path}/media", headers={"Range": "bytes=-10"}).content == data[-10:]
            assert client.get(f"{path}/media").content == data
            picture = client.get(f"{path}/still?t=2.5&height=48")
            assert picture.content == still(str(clip), 2_500_000, height=48).jpeg
            with av.open(io.BytesIO(client.get(f"{path}/segment?n=0").content)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 20  # four seconds at 5 a second
            assert client.get("/api/search?q=circle").json()["hits"]
            assert client.get(f"/api/videos/{'f' * 32}/media").status_code == 403
            assert client.get("/api/overview").json()["videos"] == 2
