"""What the driver holds of one long video, from its first window to its commit, hardly grows with its length."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from pipeline.event import KindRule, WindowEvent, WindowEvents
from pipeline.log import EventLog
from pipeline.log.records import RunRecord
from pipeline.plan import SECOND_US, Window
from tests.workers.worlds import a_schedule, a_video, segment_of, take
from workers.commit import video_result
from workers.keeper import Keeper

RULES = {"scene": KindRule(gap_us=10 * SECOND_US)}


def said(window: Window) -> WindowEvents:
    """Five events, one of which goes on for the whole video, and the model's own words."""
    parts = [
        WindowEvent(
            n * 500_000, n * 500_000 + 400_000, "action", f"somebody passes door {7 * window.index % 90 + n}", 0.5
        )
        for n in range(4)
    ]
    state = WindowEvent(0, 4 * SECOND_US, "scene", "a hall", 0.9, (0,), {"indoors": True}, True, True)
    return WindowEvents(window, (*parts, state), 0.2, 800, 90, answer=f"{window.index}: " + "a hall with doors, " * 20)


def watched(hours: float, log: Path) -> tuple[int, int, int]:
    """(windows, events, peak bytes) of a video that is watched in one piece."""
    writer = EventLog.open(str(log), create=True)
    writer.begin_run(RunRecord("r", "c", {}, "m", "w", "1", {}, 1))
    keeper, schedule = Keeper(str(log), "c", every_s=0.0), a_schedule(decoders=1, segment_us=300 * SECOND_US)
    tracemalloc.start()
    schedule.add(a_video("v", 3600 * hours))
    ended = []
    while not (ended := ended or list(schedule.finished())):
        order = schedule.next_decode(0.0)
        assert order is not None
        for index in range(segment_of(order).first, segment_of(order).last + 1):
            take(schedule, order, index)
        schedule.decoders.ended(order.number, 0.0)
        while (batch := schedule.next_batch()) is not None:
            schedule.answered(batch, [said(w) for w in batch.windows], "replica-1")
            keeper.note(schedule.fresh())
        keeper.pump(now=True)
        if (writing := keeper._videos["v"].writing) is not None:
            writing.result()
    result, dropped = video_result(ended[0], ["v"], "r", "c", RULES)
    assert not dropped
    report = writer.commit([result])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    keeper.finish()
    return len(result.windows), report.events, peak


def test_a_long_video_takes_little_more_than_a_short_one(tmp_path: Path) -> None:
    """2 400 windows: ten hours as windows usually are, with an answer of a kilobyte each."""
    (few, few_events, low), (many, many_events, high) = (watched(h, tmp_path / f"log{h}") for h in (0.25, 2))
    assert (few, many) == (300, 2400)
    assert few_events == 4 * few + 1 and many_events == 4 * many + 1
    assert (high - low) / (many - few) < 1500, "bytes a window; four times as many where all is held"
