"""The demo archive: real videos whose decoded frames show, at their own times, exactly what the truth says."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from jobs.demo.archive import FILMS, SEED, write_archive
from jobs.demo.encode import Recording, encode, ticks
from jobs.demo.story import story
from jobs.demo.truth import events, on_frames
from jobs.demo.world import Act, Caption, Scene, Shot, Thing, Transition, World
from pipeline.archive import list_sources
from pipeline.errors import UsageError
from pipeline.fingerprint import fingerprint
from pipeline.plan import round_us
from pipeline.probe import probe
from pipeline.video import Source

DURATION_US = 6_000_000
HOUR_US = 3_600_000_000


def staged() -> World:
    """A red circle comes and goes before blue; words; then a cut to green, on times of no frame grid."""
    acts = (
        Act("appear", 1_234_567, 1_900_000, "a red circle appears"),
        Act("leave", 2_300_000, 3_033_333, "the red circle leaves"),
    )
    circle = Thing("circle", "red", 0.6, 0.3, 0.15, acts)
    blue = Scene((20, 30, 120), (20, 40, 140), (), (circle,), (Caption("HELLO", 700_001, 3_456_789),))
    green = Scene((30, 120, 40), (40, 140, 40), (), ())
    shots = (Shot(blue, 0, 4_111_111), Shot(green, 4_111_111, DURATION_US))
    return World(4 / 3, 1.0, DURATION_US, shots, (Transition("cut", 4_111_111, 4_111_111),))


def decoded(path: Path) -> tuple[list[int], list[npt.NDArray[np.int16]]]:
    """Raw times (us) and RGB pictures of every frame, by libav alone."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        time_base = container.streams.video[0].time_base
    assert time_base is not None
    pixels = [frame.to_ndarray(format="rgb24").astype(np.int16) for frame in frames]
    return [round_us(frame.pts * time_base) for frame in frames], pixels


RECORDINGS = {
    "a.mp4": Recording(160, 120, Fraction(25), gop=25),
    "film.mov": Recording(160, 120, Fraction(24000, 1001), gop=250),
    "ntsc.mkv": Recording(160, 120, Fraction(30000, 1001), gop=60, b_frames=3),
    "variable.mp4": Recording(160, 120, Fraction(30), variable=True, b_frames=0),
    "variable.mkv": Recording(160, 120, Fraction(30), variable=True, b_frames=2),
    "late.ts": Recording(160, 120, Fraction(25), gop=12, start_us=HOUR_US),
    "late.mkv": Recording(160, 120, Fraction(25), start_us=HOUR_US),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_decoded_frames_show_the_truth_to_the_frame(name: str, tmp_path: Path) -> None:
    recording, world, path = RECORDINGS[name], staged(), tmp_path / name
    when = ticks(recording, path.suffix, DURATION_US, seed=5)
    encode(path, world, recording, when)
    raw, pixels = decoded(path)
    times = [t - recording.start_us for t in raw]
    assert times == when.times_us
    if recording.variable:
        assert len(set(np.diff(times))) > 5

    truth = {e.text: e for e in on_frames(events(world), when.times_us, when.end_us)}
    red = [t for t, p in zip(times, pixels, strict=True) if ((p[..., 0] > 150) & (p[..., 2] < 100)).sum() > 20]
    assert red[0] == truth["a red circle appears"].start_us
    assert times[times.index(red[-1]) + 1] == truth["the red circle leaves"].end_us
    words = [t for t, p in zip(times, pixels, strict=True) if (p[80:].min(-1) > 110).sum() > 20]
    assert (words[0], times[times.index(words[-1]) + 1]) == (truth["HELLO"].start_us, truth["HELLO"].end_us)
    step = [float(np.abs(b - a).mean()) for a, b in pairwise(pixels)]
    cut = truth["cut"]
    after = int(np.argmax(step)) + 1
    assert times[after] == cut.start_us and times[after + 1] == cut.end_us

    video = probe(str(path), path.stat().st_size, "x", (str(path),))
    late = recording.start_us if path.suffix in (".mp4", ".mov", ".mkv") else 0
    assert video.offset_us == recording.start_us - late
    assert abs(video.duration_us - (late + when.end_us)) <= 1000  # Matroska counts in milliseconds


def test_archive_is_reproducible_and_whole(tmp_path: Path) -> None:
    films = [replace(film, seconds=8, width=160, height=90) for film in FILMS[:3]]
    one = write_archive(tmp_path / "one", films=films, processes=1)
    other = write_archive(tmp_path / "other", films=films, processes=2)
    assert one.read_text() == other.read_text()
    listed = [[s for s in list_sources([str(p.parent)]) if isinstance(s, Source)] for p in (one, other)]
    names = [str(Path(s.uri).relative_to(tmp_path / "one")) for s in listed[0]]
    assert names == sorted(["again/first light (copy).mp4", *(film.file for film in films)])
    prints = [[fingerprint(source) for source in sources] for sources in listed]
    assert prints[0] == prints[1]
    assert prints[0][names.index("first light.mp4")] == prints[0][0]  # the copy is the same video

    database = json.loads(one.read_text())["database"]
    assert list(database) == [film.file for film in films]
    for film in films:
        facts, path = database[film.file], tmp_path / "one" / film.file
        times, _ = decoded(path)
        assert facts["frames"] == len(times) and facts["resolution"] == "160x90"
        shown = set(times)
        for event in facts["annotations"]:
            assert event["start_us"] in shown and event["end_us"] > event["start_us"]
            assert event["segment"] == [event["start_us"] / 1e6, event["end_us"] / 1e6]
            assert event["end_us"] in shown or event["end_us"] / 1e6 == facts["duration"]


def test_another_seed_is_another_archive(tmp_path: Path) -> None:
    film = replace(FILMS[0], seconds=3, width=96, height=54)
    one = write_archive(tmp_path / "one", films=[film])
    other = write_archive(tmp_path / "other", seed=SEED + 1, films=[film])
    assert one.with_name(film.file).read_bytes() != other.with_name(film.file).read_bytes()


def test_what_the_demo_shows_has_something_of_everything() -> None:
    kinds: set[str] = set()
    for film in FILMS:
        kinds |= {event.kind for event in events(film.world(SEED))}
    things, picture = "appear move change meet leave text", "cut fade_out black fade_in dissolve frozen"
    assert kinds == {*things.split(), *picture.split()}


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write_archive(tmp_path / "file" / "demo", films=FILMS[:1])


def test_a_long_story_is_as_good_as_a_short_one() -> None:
    world = story(np.random.default_rng(0), 20 * 60 * 1_000_000, 1.0, 1.0)
    found = events(world)
    assert len(world.shots) > 100 and len(found) > 500
    gaps = np.diff([event.start_us for event in found])
    assert gaps.max() < 20_000_000
