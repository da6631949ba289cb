"""The search index beside its log: what it says after whatever happened to the log, to itself, or at the same time."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import threading
from pathlib import Path

import pytest

from pipeline.errors import LogError
from pipeline.log import EventLog
from pipeline.log.check import Problem, forget
from pipeline.log.store import open_store
from pipeline.query import Query
from pipeline.search import Search
from pipeline.search.words import FORMAT
from tests.pipeline.logs import run_record, video_id, video_result
from tests.pipeline.test_search import an_event, commit, expected, identity, tokens, videos_of


def test_follows_the_log(tmp_path: Path) -> None:
    """Compacted, vacuumed, with a video taken out and watched again: the index says what the log says."""
    path = str(tmp_path / "log")
    videos = videos_of(7, 8)
    log = EventLog.open(path, create=True)
    commit(log, videos)
    search = Search(path, embedder=None)
    events = sum(map(len, videos.values()))
    assert search.update() == events
    log.compact()
    log.vacuum(hours=1)
    assert search.update() == 0 and identity(search.find("red", limit=1000)) == expected(
        "run-1", videos, lambda e: "red" in tokens(e)
    )
    gone = max(videos, key=lambda n: len(videos[n]))
    forget(open_store(path), [Problem("", "x", (gone,), ((video_id(gone), "run-1"),))])
    assert search.update() == 0
    rest = {n: es for n, es in videos.items() if n != gone}
    assert identity(search.find("red", limit=1000)) == expected("run-1", rest, lambda e: "red" in tokens(e))
    again = EventLog.open(path)
    commit(again, {gone: videos[gone]}, "run-2")
    assert search.update() == len(videos[gone])
    assert search.rebuild() == events == Search(path, tmp_path / "elsewhere", None).update()
    assert (tmp_path / "elsewhere" / FORMAT).is_dir()


def test_another_log_in_the_same_place(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    for seed in (1, 2):
        videos = videos_of(seed)
        commit(EventLog.open(path, create=True), videos)
        search = Search(path, tmp_path / "index", None)
        search.update()
        assert identity(search.find("red", limit=1000)) == expected("run-1", videos, lambda e: "red" in tokens(e))
        shutil.rmtree(path)


def test_an_intake_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "log")
    videos = videos_of(3, 9)
    commit(EventLog.open(path, create=True), videos)
    monkeypatch.setattr("pipeline.search.intake.SAVE_EVERY", 5)
    search = Search(path, embedder=None)
    seen = 0

    def stop(line: str) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.update(stop)
    events = sum(map(len, videos.values()))
    assert 0 < search.update() < events  # the rest
    assert identity(search.find("red", limit=1000)) == expected("run-1", videos, lambda e: "red" in tokens(e))


def test_a_damaged_index_is_one_error_and_made_anew(tmp_path: Path) -> None:
    """Every file cut in half, one after the other: nothing but a LogError, and all is there again after --rebuild."""
    path = str(tmp_path / "log")
    videos = videos_of(4)
    commit(EventLog.open(path, create=True), videos)
    events = Search(path, embedder=None).update()
    folder = Path(path, "_search", FORMAT)
    for suffix in sorted({file.suffix for file in folder.iterdir() if file.stat().st_size}):
        for file in folder.glob(f"*{suffix}"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        search = Search(path, embedder=None)
        with contextlib.suppress(LogError):
            search.find("red")
        with contextlib.suppress(LogError):
            search.update()
        search.rebuild()
        assert search.update() == 0
        assert len(search.find("red blue circle disc lamp été x9", limit=1000)) == events
    folder.joinpath("meta.json").write_bytes(b"{")
    assert Search(path, embedder=None).update() == events  # by itself, where not even its state can be read


def test_a_log_in_an_object_store(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDSIGHT_CACHE", str(tmp_path))
    log = EventLog.open(f"{s3_bucket}/search-log", create=True)
    videos = videos_of(1)
    commit(log, videos)
    search = Search(log.uri, embedder=None)
    assert search.update() == sum(map(len, videos.values())) and search.folder.is_relative_to(tmp_path)
    assert identity(search.find("red", limit=1000)) == expected("run-1", videos, lambda e: "red" in tokens(e))
    commit(log, {"new.mp4": [an_event(random.Random(0))]}, "run-2", "c2")
    assert search.update() == 1 and search.update() == 0
    row = Query(log).first("new.mp4").to_pylist()[0]
    assert Query(log).provenance(row)["windows"][0]["frame_us"] == [0, 500_000]


def _update(path: str) -> None:
    search = Search(path, embedder=None)
    for _ in range(5):
        search.update()


def test_two_processes_update_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = EventLog.open(path, create=True)
    videos = videos_of(5, 20)
    log.begin_run(run_record())
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_update, args=(path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for name, events in videos.items():
        log.commit([video_result(name, events)])
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    search = Search(path, embedder=None)
    search.update()
    assert identity(search.find("red", limit=1000)) == expected("run-1", videos, lambda e: "red" in tokens(e))


def test_many_threads_while_the_log_grows(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = EventLog.open(path, create=True)
    videos = videos_of(6, 10)
    commit(log, videos)
    search = Search(path, embedder=None)
    search.update()
    wanted = expected("run-1", videos, lambda e: "red" in tokens(e))
    wrong: list[object] = []

    def ask() -> None:
        try:
            for _ in range(30):
                found = identity(search.find("red", limit=1000))
                if not wanted <= found:
                    wrong.append(found)
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    log.begin_run(run_record("run-2", "c2"))
    for i in range(5):
        log.commit([video_result(f"w{i}.mp4", videos["v0.mp4"], "run-2", "c2")])
        search.update()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_damaged_data_file_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    videos = videos_of(2)
    log = EventLog.open(path, create=True)
    commit(log, videos)
    search = Search(path, embedder=None)
    search.update()
    before = identity(search.find("red", limit=1000))
    there = set(Path(path, "record=events").iterdir())
    commit(log, {"new.mp4": videos_of(9, 9)["v0.mp4"] or [an_event(random.Random(0))]}, "run-2", "c2")
    (new,) = set(Path(path, "record=events").iterdir()) - there
    new.write_bytes(new.read_bytes()[:-20])
    with pytest.raises(LogError, match=new.name):
        search.update()
    assert identity(search.find("red", limit=1000)) == before
    new.unlink()
    with pytest.raises(LogError, match=r"is missing"):
        search.update()


def test_beside_a_log_that_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "log")
    commit(EventLog.open(path, create=True), videos_of(2))
    monkeypatch.setenv("SECONDSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.search.place.os.access", lambda *_: False)
    search = Search(path, embedder=None)
    search.update()
    assert not Path(path, "_search").exists() and search.folder.is_relative_to(tmp_path / "cache")
    assert search.find("red blue circle disc lamp")
