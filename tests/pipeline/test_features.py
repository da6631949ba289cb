"""Vision features beside the log: kept with their windows, taken into the index, searched by vector, and believed only
as far as they are well-formed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.event import WindowEvents
from pipeline.features.index import FeatureIndex, nearness
from pipeline.features.kept import feature_files, read_features, write_features
from pipeline.features.search import PictureSearch, picture
from pipeline.features.vectors import FrameFeatures
from pipeline.kept import KeptWindow, keep, kept_files, read_kept
from pipeline.log import EventLog
from pipeline.log.compact import vacuum
from pipeline.log.store import open_store
from pipeline.plan import SECOND_US as S
from pipeline.plan import Window
from tests.pipeline.featured import MADE, OTHER, D, log_of, result, run, two_of, unit, updated


@pytest.fixture
def log(tmp_path: Path) -> str:
    return log_of(tmp_path)


@pytest.fixture
def two(log: str) -> str:
    return two_of(log)


def test_the_nearest_moments_come_first_and_neighbours_are_one_moment(log: str) -> None:
    found = updated(log).find(unit(1), MADE, limit=3)
    assert [(m.name, m.at_us // S, m.start_us // S, m.end_us // S) for m in found[:2]] == [
        ("/a/one.mp4", 1, 1, 3),
        ("/a/three.mp4", 1, 1, 2),
    ]
    assert found[0].nearness == pytest.approx(1, abs=1e-3) and found[1].nearness < 0.95
    assert [e["text"] for e in found[0].events] == ["one.mp4 at 1"]


def test_filters_narrow_by_video_span_and_kind(log: str) -> None:
    search = updated(log)
    assert {m.name for m in search.find(unit(1), MADE, video="two.mp4")} == {"/a/two.mp4"}
    assert search.find(unit(1), MADE, video="one.mp4", start_us=3 * S, limit=1)[0].at_us == 3 * S
    assert all(m.at_us < S for m in search.find(unit(1), MADE, end_us=S))
    assert search.find(unit(1), MADE, kinds=["other"]) == []
    with pytest.raises(UsageError, match="did you mean"):
        search.find(unit(1), MADE, video="thre.mp4")


def test_nearness_is_the_cosine_of_what_is_left_without_the_mean(log: str) -> None:
    rng = np.random.default_rng(1)
    vectors = (rng.standard_normal((40, D)) + 5).astype(np.float16)
    writer = EventLog.open(log)
    run(writer, "run-b", 1)
    writer.commit([result("many.mp4", list(vectors), "run-b", "c1")])
    search = updated(log)
    index = FeatureIndex(search.folder)
    [part], mean = index.parts(MADE), index.mean(MADE)
    every = part.vectors.astype(np.float64)
    assert np.allclose(mean, every.mean(0), atol=1e-3)
    wanted = rng.standard_normal(D).astype(np.float32)
    left, asked = every - every.mean(0), wanted - every.mean(0)
    exact = left @ asked / np.linalg.norm(left, axis=1) / np.linalg.norm(asked)
    assert np.allclose(nearness(part, mean, wanted), exact, atol=2e-3)


def test_a_moment_of_the_log_is_asked_for_without_a_model(log: str) -> None:
    search = updated(log)
    vector, made_by = search.like("three.mp4", 1_500_000)
    found = search.find(vector, made_by, limit=2)
    assert [(m.name, m.at_us) for m in found] == [("/a/three.mp4", S), ("/a/one.mp4", 2 * S)]
    with pytest.raises(UsageError, match=r"three.mp4 is 0:02 long: there is nothing at 1:40"):
        search.like("three.mp4", 100 * S)


def test_moments_of_the_fewer_weights_are_found_too(two: str) -> None:
    search = updated(two)
    assert search.makers() == {MADE: 10, OTHER: 2}
    for run_id in (None, "run-b"):
        vector, made_by = search.like("new.mp4", S, run_id)
        assert made_by == OTHER and [m.name for m in search.find(vector, made_by, limit=1)] == ["/a/new.mp4"]
    assert "not compared: 10 of 12 moments" in search.left_out(OTHER) and "bundled (w:mean-1" in search.left_out(OTHER)


def test_a_newer_run_without_features_hides_none(two: str) -> None:
    search = updated(two)
    assert search.like("one.mp4", 0)[1] == search.like("one.mp4", 0, prefer="run-s")[1] == MADE
    with pytest.raises(UsageError, match="no features of this video by run run-s"):
        search.like("one.mp4", 0, "run-s")
    writer = EventLog.open(two)
    run(writer, "run-c", 3, "/models/b", "x")
    writer.commit([result("one.mp4", [unit(0)] * 3, "run-c", "c3", OTHER)])
    search.update()
    assert search.like("one.mp4", 0)[1] == OTHER and search.like("one.mp4", 0, prefer="run-a")[1] == MADE


def test_what_is_committed_later_is_found_and_only_once(log: str) -> None:
    search = updated(log)
    assert search.update() == 0
    writer = EventLog.open(log)
    run(writer, "run-b", 1)
    writer.commit([result("four.mp4", [unit(7)], "run-b", "c1")])
    assert search.update() == 1
    assert search.find(unit(7), MADE, limit=1)[0].name == "/a/four.mp4"
    assert search.update(rebuild=True) == 11
    assert PictureSearch(log).find(unit(7), MADE, limit=1)[0].name == "/a/four.mp4"


def test_of_a_video_that_was_watched_again_the_newest_run_with_features_answers(log: str) -> None:
    writer = EventLog.open(log)
    run(writer, "run-b", 1)
    writer.commit([result("two.mp4", [unit(0), unit(0), unit(0)], "run-b", "c1")])
    search = updated(log)
    assert search.find(unit(4), MADE, limit=1, video="two.mp4")[0].nearness < 0.5
    assert search.find(unit(4), MADE, limit=1, video="two.mp4", run="run-a")[0].at_us == S


def test_features_of_what_never_got_into_the_log_are_not_found(log: str) -> None:
    store = open_store(log)
    [path, *_] = feature_files(store)
    lost = result("lost.mp4", [unit(7)])
    from pipeline.features.kept import write_features

    write_features(store, "f" * 32, [lost])
    found = updated(log).find(unit(7), MADE)
    assert found and "/a/lost.mp4" not in {m.name for m in found}
    assert read_features(store, path) is not None


def test_a_log_without_features_says_so(tmp_path: Path) -> None:
    EventLog.open(str(tmp_path / "log"), create=True)
    search = updated(str(tmp_path / "log"))
    with pytest.raises(UsageError, match="holds no vision features"):
        search.find(unit(0), MADE)
    with pytest.raises(UsageError, match="holds no vision features"):
        assert search.makers()


def test_vectors_of_other_weights_are_not_compared(log: str) -> None:
    search = updated(log)
    with pytest.raises(UsageError, match="other weights"):
        search.find(unit(0), "another:mean-1")
    with pytest.raises(UsageError, match="none of this model's"):
        search.find(np.zeros(5, np.float32), MADE)


def test_damaged_and_foreign_files_are_passed_over(log: str) -> None:
    store = open_store(log)
    [first, *_] = feature_files(store)
    data = store.read(first)
    for number, junk in enumerate((b"", b"PAR1 nothing", data[: len(data) // 2], data[:-20] + b"x" * 20)):
        store.put(f"_features/junk{number}.parquet", junk)
    search = updated(log)
    assert search.find(unit(4), MADE, limit=1)[0].name == "/a/two.mp4"


def test_what_a_model_calls_features_is_checked(tmp_path: Path) -> None:
    writer = EventLog.open(str(tmp_path / "log"), create=True)
    run(writer)
    good = result("one.mp4", [unit(0)])
    window = good.windows[0]
    for number, bad in enumerate(
        (
            FrameFeatures(MADE, (0,), b"abc"),
            FrameFeatures(MADE, (), b""),
            FrameFeatures(MADE, (0,), np.full(D, np.nan, "<f2").tobytes()),
            FrameFeatures(MADE, (0,), bytes(2 * 5000)),
        )
    ):
        video = replace(good, video_id=f"{number:032x}", windows=(replace(window, features=bad),))
        assert writer.commit([video]).committed
    assert not list(feature_files(open_store(str(tmp_path / "log"))))


def test_windows_kept_for_a_restart_keep_their_features(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    window = Window("v", 0, 0, 2 * S)
    features = FrameFeatures.of(MADE, (0, S), np.stack([unit(0), unit(1)]))
    said = WindowEvents(window, (), answer="x", features=features)
    keep(store, "c", "v", [KeptWindow(window, (0, S), (), 0.1, 10, said, 1, "r")])
    [kept] = read_kept(store, kept_files(store, "c")["v"], {0: window})
    assert kept.events == said and np.array_equal(kept.events.features.vectors, features.vectors)  # type: ignore[union-attr]


def test_a_picture_is_a_picture(tmp_path: Path) -> None:
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 200
    for suffix in (".png", ".jpg", ".webp"):
        _, data = cv2.imencode(suffix, red[..., ::-1])
        seen = picture(data.tobytes(), "it")
        assert seen.shape == (20, 30, 3) and abs(int(seen[5, 5, 0]) - 200) < 6 and seen[5, 5, 2] < 8
    for junk in (b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"<svg/>"):
        with pytest.raises(UsageError, match=r"no picture|damaged"):
            picture(junk, "it")


def test_a_bomb_is_refused() -> None:
    """A PNG of 200 KB that would be 2.7 GB of pixels; in a process of its own, where OpenCV is not loaded yet."""
    script = """
import struct, zlib
from pipeline.features.search import picture
from pipeline.errors import UsageError
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
rows = zlib.compress(b"\\0" * 10_000_000)
try:
    picture(b"\\x89PNG\\r\\n\\x1a\\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b""), "bomb.png")
except UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "bomb.png" in done.stdout, done.stderr


def test_vacuum_takes_features_of_nothing_in_the_log(log: str) -> None:
    """What a killed run wrote and never committed; not what is young, and nothing that has one row of use."""
    store = open_store(log)
    [lost] = write_features(store, "lost", [result("one.mp4", [unit(7)], "run-lost"), result("gone.mp4", [unit(7)])])
    [half] = write_features(store, "half", [result("one.mp4", [unit(0)]), result("gone.mp4", [unit(7)])])
    before = sorted(feature_files(store))
    assert EventLog.open(log).vacuum(1) == [] and sorted(feature_files(store)) == before
    for dry_run in (True, False):
        assert sorted(feature_files(store)) == before
        assert [p for p in vacuum(store, 0, dry_run, safe_hours=0) if p.startswith("_features/")] == [lost]
    assert sorted(feature_files(store)) == sorted(set(before) - {lost}) and half in before
    pictures = PictureSearch(log)
    pictures.update()
    assert pictures.find(unit(6), MADE, limit=1)[0].name == "/a/three.mp4"
