"""Storage that fails: what is waited for, what is a video's own fault, and what a run says of it. Without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pipeline.errors import SecondsightError, VideoError
from pipeline.event import WindowEvents
from pipeline.listing import Unlisted
from pipeline.log.records import VideoResult
from pipeline.plan import SECOND_US, Sampling, Windowing
from pipeline.video import Source, Video
from tests.workers.pools import Clock
from tests.workers.test_elastic import _flow
from workers import identify
from workers.already import leading_already, unread_id
from workers.decoders import TRIES
from workers.identify import PASSING_TRIES, fingerprinting
from workers.outage import PROBE_S, Outage
from workers.schedule import MAX_LOSSES, Schedule
from workers.work import Decoded, Parcel, Watched


def test_a_run_that_could_not_list_a_folder_ends_with_an_error_when_it_has_done_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Log:
        rows: ClassVar[list[VideoResult]] = []

        def commit(self, results: Sequence[VideoResult]) -> None:
            self.rows.extend(results)

    folder, gone = "s3://a/2026/", "s3://a/2025/x.mp4"
    sources = [Unlisted(folder, "storage", "HTTP 503"), VideoError(gone, "vanished", "it does not exist")]
    assert leading_already(iter(sources), {unread_id(folder), unread_id(gone)}).rest is not None, "an old log's row"
    run = _flow(monkeypatch, sources)  # type: ignore[arg-type]
    run._pool.count = 0
    monkeypatch.setattr(run._recorder.committer, "_log", Log())
    with pytest.raises(SecondsightError, match=r"s3://a/2026/: HTTP 503\. What was found is in the log"):
        run.run()
    assert [(row.uris, row.status) for row in Log.rows] == [((gone,), "failed")]
    assert (run.progress.failed, run.progress.found) == (1, 2)


class _Files:
    """Fingerprints, after a second: `fails(name, now)` tells which cannot be had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[str, float], str], archive: Outage) -> None:
        self.started, self.given = Counter[str](), Counter[str]()
        clock = Clock(monkeypatch)
        monkeypatch.setattr(identify, "ray", SimpleNamespace(get=lambda ref: ref()))

        def start(sources: Sequence[Source]) -> Callable[[], list[Any]]:
            self.started.update(source.uri for source in sources)
            failing = [VideoError(s.uri, "storage", "HTTP 503") if fails(s.uri, clock.now) else None for s in sources]
            return lambda: [error or "0" * 32 for error in failing]

        self.clock = clock
        self.stage = fingerprinting(4, 120.0, archive, SimpleNamespace(remote=start))

    def step(self, now: float) -> dict[str, Any]:
        self.clock.now = now
        self.stage.pump()
        self.clock.now += 1.0
        ended = [pair for ref in list(self.stage.running) for pair in self.stage.collect(ref)]
        self.given.update(source.uri for source, _ in ended)
        return {source.uri: result for source, result in ended}


class _World:
    """Videos of one window of 4 s; whatever is read at a time for which `fails(video, now)` ends with that reason, and
    what is watched finds its frames gone where that is "room"."""

    def __init__(self, videos: int, fails: Callable[[str, float], str], patience_s: float = 600.0) -> None:
        self.fails, self.now, self.told = fails, 0.0, list[str]()
        self.tries: Counter[str] = Counter()
        archive = self.archive = Outage("the archive's store cannot be reached", patience_s, self.told.append)
        room = Outage("no room", patience_s, self.told.append)
        self.schedule = Schedule(
            Sampling(fps=Fraction(1), short_side=None), Windowing(4 * SECOND_US, 0),
            budget_bytes=10**9, decoders=4, archive=archive, room=room,
        )  # fmt: skip
        for i in range(videos):
            self.schedule.add(Video(f"v{i}", (f"v{i}",), 1000, 4 * SECOND_US, 0, 8, 8, 0, "h264", 25.0, 0))

    def play(self, files: _Files | None = None) -> dict[str, Watched]:
        """A decode task takes a second for each video."""
        finished: dict[str, Watched] = {}
        decoders = self.schedule.decoders
        while not self.schedule.idle():
            if files is not None:
                files.step(self.now)
            order = self.schedule.next_decode(self.now)
            self.now += 1.0
            for place, segment in enumerate(order.segments if order is not None else ()):
                assert order is not None
                name = segment.video.uri
                self.tries[name] += 1
                how = self.fails(name, self.now)
                window = self.schedule._windowing.window(name, 0, 4 * SECOND_US)
                failed = {place: (how, "HTTP 503")} if how in ("storage", "full") else {}
                windows = () if failed else (Decoded(window, (0,), (), 0.1, 1),)
                decoders.taking(order.number)
                self.schedule.taken(order.number, Parcel(windows, failed), object(), self.now)
            if order is not None and order.number not in decoders.cancelled():
                decoders.ended(order.number, self.now)
            while (batch := self.schedule.next_batch()) is not None:
                if self.fails(batch.windows[0].video_id, self.now) == "room":
                    self.schedule.frames_lost(batch, self.now, pause=True)
                else:
                    self.schedule.answered(batch, [WindowEvents(w, ()) for w in batch.windows], "r")
            finished |= {w.video.uri: w for w in self.schedule.finished()}
        return finished


@pytest.mark.parametrize("how", ["storage", "full", "room"])
def test_storage_that_is_away_for_minutes_costs_no_video(how: str) -> None:
    world = _World(40, lambda name, now: how if 5 < now < 305 else "")
    finished = world.play()
    assert len(finished) == 40 and {w.status for w in finished.values()} == {"done"}
    assert len(world.told) == 1 and ("HTTP 503" in world.told[0] or "window 0" in world.told[0])
    assert 300 < world.now < 420
    assert world.tries.total() < 40 + 40 + 300 / PROBE_S, "while it is away, one is tried at a time"


def test_objects_that_cannot_be_read_have_failed_after_their_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _World(200, lambda name, now: "storage" if name == "v3" else "")
    finished = world.play()
    assert finished["v3"].reason == "storage: HTTP 503" and world.tries["v3"] <= TRIES["storage"] + 1
    assert sum(w.status == "done" for w in finished.values()) == 199 and world.now < 300
    for count in (60, 20):  # the first twenty of them fail
        several = _World(count, lambda name, now: "storage" if int(name[1:]) < 20 else "")
        files = _Files(monkeypatch, lambda name, now: "", several.archive)
        files.stage.waiting.append(Source("good", 1))
        failed = {name for name, w in several.play(files).items() if w.status == "failed"}
        assert failed == {f"v{i}" for i in range(20)}, "what could be read before shows that it is not the store"
    slow = _World(3, lambda name, now: "room" if name == "v1" else "", patience_s=0)
    assert f"found no room {MAX_LOSSES + 1} times" in slow.play()["v1"].reason


def test_storage_that_stays_away_ends_the_run_and_blames_no_video() -> None:
    world = _World(40, lambda name, now: "storage" if now > 5 else "")
    with pytest.raises(SecondsightError, match=r"cannot be reached: HTTP 503; it stayed so for more than 600 s"):
        world.play()
    assert 600 < world.now < 620 and not [w for w in world.schedule.finished() if w.status != "done"]
    lone = _World(1, lambda name, now: "storage")
    assert lone.play()["v0"].status == "failed" and 600 < lone.now < 660, "who knows whose fault it is"
    lone = _World(1, lambda name, now: "storage" if now < 200 else "")
    assert lone.play()["v0"].status == "done"


@pytest.mark.parametrize(("left", "back"), [(1, 1e9), (2, 1e9), (1, 300), (2, 300)])
def test_the_last_videos_are_waited_for_and_then_failed_and_nothing_is_given_out_twice(
    monkeypatch: pytest.MonkeyPatch, left: int, back: float
) -> None:
    world = _World(left, lambda name, now: "storage" if 2 < now < back else "")
    files = _Files(monkeypatch, lambda name, now: "y" if 2 < now < back else "", world.archive)
    files.stage.waiting.extend(Source(f"v{i}", 1) for i in range(left))
    while len(files.stage):
        files.step(0.0)
    world.now = 2.0
    started = files.started.total()
    finished = world.play(files)
    assert files.started.total() > started, "what could be read before was looked at meanwhile"
    assert {w.status for w in finished.values()} == {"failed" if back > 600 else "done"} and len(finished) == left
    if back > 600:
        assert {w.reason for w in finished.values()} == {"storage: HTTP 503"} and 600 < world.now < 660
    else:
        assert 300 < world.now < 320 and world.archive.why == ""
    for second in range(30):
        files.step(world.now + second)
    assert set(files.given.values()) == {1} and not len(files.stage)


def test_a_look_that_ends_without_an_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _World(1, lambda name, now: "storage" if now > 2 else "")
    files = _Files(monkeypatch, lambda name, now: "", world.archive)
    files.stage.waiting.append(Source("v0", 1))
    files.step(0.0)

    def died(ref: object) -> list[Any]:
        raise RuntimeError("the worker died")

    monkeypatch.setattr(identify, "ray", SimpleNamespace(get=died))
    world.now = 2.0
    assert world.play(files)["v0"].reason == "storage: HTTP 503" and 600 < world.now < 660


def test_a_run_says_that_it_waits_for_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    observer: Any = SimpleNamespace(wants_traces=False, event=told.append, snapshot=lambda progress: None)
    run = _flow(monkeypatch, observers=[observer])
    for name in ("a", "b", "c"):
        run._archive.failed(name, "HTTP 503", False, 1.0)
    run._report()
    assert run.progress.waits_for == "the archive's store cannot be reached: HTTP 503"
    assert [(e.kind, e.detail) for e in told] == [("waiting", run.progress.waits_for)]
    run._archive.over()
    run._report(last=True)
    assert run.progress.waits_for == ""


def test_fingerprints_wait_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Outage("the archive's store cannot be reached", 600.0)
    files = _Files(monkeypatch, lambda name, now: "y" if 5 < now < 305 or name.startswith("bad") else "", archive)
    files.stage.waiting.extend(
        Source(name, 1) for name in [f"bad{i}" for i in range(5)] + [f"v{i}" for i in range(800)]
    )
    results: dict[str, Any] = {}
    now = 0.0
    while len(files.stage):
        results |= files.step(now)
        now += 1.0
    assert {uri for uri, result in results.items() if isinstance(result, VideoError)} == {f"bad{i}" for i in range(5)}
    assert 300 < now < 420 and files.started["bad0"] >= PASSING_TRIES
    assert sum(files.started[f"v{i}"] for i in range(800)) < 900, "while it is away, one is looked at at a time"
    away = _Files(monkeypatch, lambda name, now: "y" if now > 5 else "", archive)
    away.stage.waiting.extend(Source(f"v{i}", 1) for i in range(800))
    with pytest.raises(SecondsightError, match="cannot be reached: HTTP 503; it stayed so for more than 600 s"):
        for second in range(700):
            assert not any(isinstance(result, VideoError) for result in away.step(second).values())
