"""What the service shows of videos, and that it shows nothing else."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.serve import exporting
from jobs.serve.app import create_app
from jobs.serve.reply import Problem
from jobs.serve.sending import parse_range
from jobs.serve.settings import Limits, Settings
from tests.jobs.serving import FIRST, S, Served, refused

TestClient = pytest.importorskip("fastapi.testclient").TestClient


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


def test_exports_of_several_videos_are_those_of_the_command(
    client: Any, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for format, out in (("csv", "events.csv"), ("activitynet", "events.json"), ("fiftyone", "labels")):
        assert main(["export", str(served.log), "--format", format, "--out", str(tmp_path / out)]) == 0
        answer = client.get("/api/export", params={"format": format})
        assert answer.status_code == 200
        if format == "fiftyone":
            with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
                made = {path.name: path.read_bytes() for path in (tmp_path / out).iterdir()}
                assert {name: packed.read(name) for name in packed.namelist()} == made
        else:
            assert answer.content == (tmp_path / out).read_bytes()
    both = {"format": "csv", "video": ["harbour.mp4", "night bus.mp4"], "run": "run-a", "kind": "text"}
    assert client.get("/api/export", params=both).text.count(",text,") == 1 + 2  # the heading
    assert refused(client.get("/api/export", params=both | {"video": "nope"}), 404)
    monkeypatch.setattr(exporting, "MOST_EVENTS", 3)
    assert "secondsight export" in refused(client.get("/api/export?format=csv"), 413, "too_large")
    with TestClient(create_app(Settings(str(served.log), limits=Limits(many_s=0)))) as hurried:
        assert "1 of 2 videos" in refused(hurried.get("/api/export?format=csv"), 504, "time_limit")


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
        rooted.names(entry)
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
            rooted.names(Entry("v", "r", "done", "", 1, 1, 1, (uri,)))


def test_a_log_may_not_choose_any_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.serve.rooted import Rooted
    from pipeline.log.entry import Entry

    home = tmp_path / "home"
    key = home / ".ssh" / "id_rsa"
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "films").symlink_to("/etc")
    (home / "films").mkdir()
    for root in (
        "/", "//", "file:///", "/etc", "/etc/ssh", "/proc/self", "/usr/share/x", "/var/lib", "/root/x", "/home/",
        "/home/other", str(home), f"{home}/films/..", str(tmp_path), str(key.parent), str(key), str(tmp_path / "films"),
    ):  # fmt: skip
        rooted = Rooted(None, lambda root=root: (root,))  # type: ignore[misc]
        assert rooted.roots == (), root
        for uri in (str(key), "/etc/passwd"):
            with pytest.raises(Problem, match="outside"):
                rooted.names(Entry("v", "r", "done", "", 1, 1, 1, (uri,)))
            with pytest.raises(Problem, match="below"):
                rooted.open(uri)
    for root in (str(home / "films"), "/srv/films", "/home/other/films", "s3://bucket/films"):
        assert Rooted(None, lambda root=root: (root,)).roots == (root,)  # type: ignore[misc]
    assert Rooted(("/",), tuple).names(Entry("v", "r", "done", "", 1, 1, 1, ("/etc/passwd",))) == ["/etc/passwd"]


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
            refused(client.get("/api/videos/harbour.mp4/media"), 409, "video_changed")
            (served.archive / "harbour.mp4").unlink()
            os.mkfifo(served.archive / "harbour.mp4")
            refused(client.get("/api/videos/harbour.mp4/media"), 403)  # and does not hang
        finally:
            shutil.rmtree(served.archive)
            os.rename(moved, served.archive)


PICTURES = ("media", "media?container=mp4", "still?t=1", "clip?start=1&end=2", "sheet?columns=1&rows=1", "segment?n=0")


def test_another_film_of_the_same_size_is_no_evidence(served: Served, tmp_path: Path) -> None:
    film = served.archive / "harbour.mp4"
    kept, times = film.read_bytes(), (film.stat().st_atime_ns, film.stat().st_mtime_ns)
    with TestClient(create_app(Settings(str(served.log)))) as client:
        for path in PICTURES:
            assert client.get(f"/api/videos/harbour.mp4/{path}").status_code == 200, path
        try:
            film.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
            os.utime(film, ns=times)  # copied with its time, as rsync does
            for path in PICTURES:
                refused(client.get(f"/api/videos/harbour.mp4/{path}"), 409, "video_changed")
            said = client.get("/api/videos/harbour.mp4").json()["play"]
            assert said["how"] == "none" and "not the content" in said["reason"]
            assert "<image" not in client.get("/api/videos/harbour.mp4/plot?run=run-a").text
        finally:
            film.write_bytes(kept)
        for path in PICTURES:
            assert client.get(f"/api/videos/harbour.mp4/{path}").status_code == 200, path


def test_contents_are_read_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.serve import contents
    from pipeline.fingerprint import fingerprint

    read: list[str] = []
    monkeypatch.setattr(contents, "fingerprint", lambda source: read.append(source.uri) or fingerprint(source))
    with TestClient(create_app(Settings(str(served.log)))) as client:
        for path in PICTURES * 2:
            assert client.get(f"/api/videos/harbour.mp4/{path}").status_code == 200, path
    assert len(read) == 1


def test_a_copy_elsewhere_stands_for_a_file_that_changed(served: Served, tmp_path: Path) -> None:
    from pipeline.log import EventLog
    from tests.pipeline.logs import run_record, video_result

    good, bad = tmp_path / "b.mp4", tmp_path / "a.mp4"
    shutil.copy(served.archive / "harbour.mp4", good)
    bad.write_bytes(b"something else")
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    result = video_result("a.mp4", duration_us=6 * S)
    log.commit([dataclasses.replace(result, video_id=served.ids["harbour.mp4"], uris=(str(bad), str(good)))])
    with TestClient(create_app(Settings(str(tmp_path / "log"), roots=(str(tmp_path),)))) as client:
        assert client.get("/api/videos/a.mp4/media").content == good.read_bytes()


def test_plot(client: Any, served: Served) -> None:
    from xml.etree import ElementTree

    answer = client.get("/api/videos/harbour.mp4/plot?run=run-a")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in answer.headers["content-security-policy"] and "<script" not in answer.text
    drawn = ElementTree.fromstring(answer.content)
    titles = [e.text or "" for e in drawn.iter("{http://www.w3.org/2000/svg}title")]
    for event in FIRST:
        assert any(event.text in title for title in titles), event.text
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}image"))) == 12
    assert client.get(f"/api/videos/{served.ids['harbour.mp4']}/plot?run=run-a").text == answer.text, "of one name"
    bare = client.get("/api/videos/harbour.mp4/plot?run=run-a&stills=false&kind=text")
    assert "<image" not in bare.text and "red circle" not in bare.text and "HARBOUR" in bare.text
    refused(client.get("/api/videos/harbor.mp4/plot"), 404, "unknown_video")


def test_plot_of_a_video_that_may_not_be_shown(served: Served, tmp_path: Path) -> None:
    with TestClient(create_app(Settings(str(served.log), roots=(str(tmp_path),)))) as client:
        drawn = client.get("/api/videos/harbour.mp4/plot?run=run-a").text
    assert "HARBOUR" in drawn and "<image" not in drawn


def test_no_picture_of_a_video_of_which_a_run_hid_something(served: Served, tmp_path: Path) -> None:
    """Whichever run hid it, and whichever route is asked: the other run's video of the same log is shown."""
    from pipeline.log import EventLog, RunRecord, VideoResult

    log = tmp_path / "log"
    shutil.copytree(served.log, log)
    writer = EventLog.open(str(log))
    config = {"sampling": {"redact": {"version": 3, "detectors": [{"what": "text"}, {"what": "codes"}]}}}
    host = {"archive": [str(served.archive)]}
    writer.begin_run(RunRecord("run-c", "c9", config, "m", "w", "0", host, 10**15 - S))
    path = served.archive / "harbour.mp4"
    writer.commit(
        [VideoResult(served.ids[path.name], "run-c", "c9", (str(path),), 1, "done", duration_us=6 * S, offset_us=0)]
    )
    writer.finish_run("run-c", {}, "done")
    routes = ("still?t=1", "media", "media?container=mp4", "clip?start=1&end=2", "sheet", "segment?n=0")
    with TestClient(create_app(Settings(str(log), hosts=("testserver",)))) as client:
        for route in routes:
            answer = client.get(f"/api/videos/harbour.mp4/{route}")
            assert refused(answer, 403), route
            assert "run run-c hid text, codes in it" in answer.text and "secondsight frame" in answer.text
            assert client.get(f"/api/videos/night bus.mp4/{route}").status_code in (200, 206), route
        assert client.head("/api/videos/harbour.mp4/media").status_code == 403
        assert b"<image" not in client.get("/api/videos/harbour.mp4/plot").content
        assert b"<image" in client.get("/api/videos/night bus.mp4/plot").content
        play = client.get(f"/api/videos/{served.ids['harbour.mp4']}").json()["play"]
        assert play["how"] == "none" and play["segments"] is None and "run-c hid text" in play["reason"]
        assert client.get("/api/at?video=harbour.mp4&t=1&run=run-a").json()["events"], "what it says is no picture"
