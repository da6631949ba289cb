"""Work of the service that takes long: what is given up leaves nothing behind, and who looks at the page waits not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pipeline.clips
from jobs.serve.app import create_app
from jobs.serve.finding import Finding
from jobs.serve.reply import Problem
from jobs.serve.settings import Limits, Settings
from jobs.serve.work import Pool
from tests.jobs.serving import Served, refused

TestClient = pytest.importorskip("fastapi.testclient").TestClient

CLIP = "/api/videos/harbour.mp4/clip?start=1&end=2"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["too late", "gone", "gone before it began"])
def test_results_that_nobody_takes_are_discarded(how: str) -> None:
    pool, held, discarded = Pool("test", 1, 1, 0.2 if how == "too late" else 60), threading.Event(), list[int]()

    async def asked() -> None:
        if how == "gone before it began":
            first = asyncio.create_task(pool.run(lambda: held.wait(20)))
        work = asyncio.create_task(pool.run(lambda: held.wait(20) and 7, discard=discarded.append))
        await asyncio.sleep(0.05)
        if how == "too late":
            with pytest.raises(Problem, match="more than"):
                await work
        else:
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        assert not discarded
        held.set()
        if how == "gone before it began":
            await first

    asyncio.run(asked())
    if how == "gone before it began":
        assert not discarded
    else:
        until(lambda: discarded == [7])
    assert asyncio.run(pool.run(lambda: 8, discard=discarded.append)) == 8 and 8 not in discarded
    with pytest.raises(ZeroDivisionError):
        asyncio.run(pool.run(lambda: 1 // 0, discard=discarded.append))
    pool.close()
    for _ in range(5):  # and a pool that is closed counts nothing as waiting
        with pytest.raises(Problem, match="ending"):
            asyncio.run(pool.run(lambda: 9))


class Held:
    """A cutter of clips that waits, to be let go."""

    def __init__(self) -> None:
        self.go, self.running, self.unwanted = threading.Event(), threading.Semaphore(0), 0

    def __call__(self, uri: str, start_us: int, end_us: int, out: Path, *, is_wanted: Any, **_: Any) -> None:
        self.running.release()
        self.go.wait(20)
        self.unwanted += not is_wanted()
        out.write_bytes(b"a clip")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held()
    monkeypatch.setattr(pipeline.clips, "clip", held)
    yield held
    held.go.set()


def clips_open() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{name}").endswith(".mp4 (deleted)")
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux shows open files")
def test_a_clip_that_comes_too_late_is_closed(served: Served, held: Held) -> None:
    with TestClient(create_app(Settings(str(served.log), limits=Limits(heavy_s=0.3)))) as client:
        refused(client.get(CLIP), 504, "time_limit")
        refused(client.get(CLIP), 504, "time_limit")
        held.go.set()
        until(lambda: held.unwanted == 2)  # and could have ended itself
        until(lambda: clips_open() == 0)
        assert client.get(CLIP).content == b"a clip"
    assert clips_open() == 0 and held.unwanted == 2


def test_long_clips_and_questions_do_not_block_the_page(
    served: Served, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = threading.Semaphore(0)

    def ask(self: Finding, question: str, **_: Any) -> dict[str, Any]:
        asking.release()
        held.go.wait(20)
        return {}

    monkeypatch.setattr(Finding, "ask", ask)
    limits = Limits(heavy_threads=1, cut_threads=1, model_threads=1)
    with TestClient(create_app(Settings(str(served.log), limits=limits))) as client, ThreadPoolExecutor(4) as others:
        waiting = [others.submit(client.get, path) for path in (CLIP, CLIP, "/api/ask?q=a", "/api/ask?q=b")]
        assert held.running.acquire(timeout=20) and asking.acquire(timeout=20)
        for path in ("overview", "videos", "runs", "videos/harbour.mp4/still?t=1", "videos/harbour.mp4/export"):
            assert client.get(f"/api/{path}").status_code == 200, path
        held.go.set()
        assert [one.result(20).status_code for one in waiting] == [200] * 4


def test_answers_are_written_off_the_event_loop(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.serve import reply

    written: list[str] = []

    def dumps(value: Any, write: Callable[[Any], bytes] = reply.dumps) -> bytes:
        written.append(threading.current_thread().name)
        return write(value)

    monkeypatch.setattr(reply, "dumps", dumps)
    with TestClient(create_app(Settings(str(served.log)))) as client:
        for path in (
            "overview", "videos", "runs", "runs/run-a", "failures", "live", "at?video=harbour.mp4&t=1", "search?q=red",
            "ask?q=red", "compare?left=run-a&right=run-b", "videos/harbour.mp4", "videos/harbour.mp4/timeline",
        ):  # fmt: skip
            assert client.get(f"/api/{path}").status_code == 200
        assert client.post("/api/sql", json={"sql": "select 1"}).status_code == 200
    assert len(written) == 13 and all(name.startswith("serve-") for name in written), written


def test_a_clip_that_nobody_wants_ends(served: Served, tmp_path: Path) -> None:
    from pipeline.clips import clip
    from pipeline.errors import VideoError

    asked = iter([True, True, False])
    with pytest.raises(VideoError, match="nobody waits"):
        clip(str(served.archive / "harbour.mp4"), 0, 5_000_000, tmp_path / "clip.mp4", is_wanted=lambda: next(asked))
    assert not list(tmp_path.iterdir())
