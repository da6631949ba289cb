"""What browsers cannot decode plays all the same: segments as H.264, each frame at its own time, also in Chromium."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.clips.segment import segment
from pipeline.errors import UsageError
from pipeline.fingerprint import fingerprint
from pipeline.log import EventLog, RunRecord, VideoResult
from pipeline.stills import opened
from pipeline.video import Source
from tests.jobs.serving import S, event
from tests.jobs.test_serve_page import TOKEN, browser, served_at  # noqa: F401

#: Frames of the clips: shown so many microseconds each, in turn.
STEPS = (40_000, 80_000, 120_000)
SECONDS = 10


def write_clip(path: Path, codec: str, with_sound: bool) -> list[int]:
    """A clip in which each frame is of another grey; returns the frames' times. The sound is a tone from 5 s on."""
    times, at = [], 0
    while at < SECONDS * S:
        times.append(at)
        at += STEPS[len(times) % 3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "50", "x265-params": "log-level=none:pools=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
        sound = container.add_stream("mp2", rate=48_000, layout="stereo") if with_sound else None
        for number, time_us in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey(number), np.uint8), "rgb24")
            frame.pts, frame.time_base = time_us // 40_000, Fraction(1, 25)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
        if sound is not None:
            tone = np.sin(np.arange(SECONDS * 48_000) * 2 * np.pi * 440 / 48_000).astype(np.float32) * 0.5
            tone[: 5 * 48_000] = 0
            for start in range(0, len(tone) - 1152, 1152):
                part = (tone[start : start + 1152] * 32767).astype(np.int16)
                heard = av.AudioFrame.from_ndarray(np.repeat(part, 2)[None], "s16", "stereo")
                heard.sample_rate, heard.pts, heard.time_base = 48_000, start, Fraction(1, 48_000)
                container.mux(sound.encode(heard))
            container.mux(sound.encode(None))
    return times


def grey(number: int) -> int:
    return 40 + (number * 37) % 180


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("codecs")
    made = {"mpeg4.avi": ("mpeg4", False), "mpeg2.mkv": ("mpeg2video", True)}
    if "libx265" in av.codecs_available:
        made["hevc.mp4"] = ("libx265", False)
    for name, (codec, with_sound) in made.items():
        write_clip(folder / name, codec, with_sound)
    return {name: folder / name for name in made}


def read(data: bytes) -> tuple[list[tuple[int, float]], np.ndarray]:
    """(time in the segment, mean grey) of each frame, and the sound's first channel with its time of start."""
    frames, sound = [], []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            frames.append((round(frame.pts * frame.time_base * S), float(frame.to_ndarray(format="gray").mean())))
    with av.open(io.BytesIO(data)) as container:
        for heard in container.decode(audio=0):
            sound.append(heard.to_ndarray()[0])
    return frames, np.concatenate(sound)


@pytest.mark.parametrize("name", ["mpeg4.avi", "mpeg2.mkv", "hevc.mp4"])
def test_segments_hold_each_frame_once_at_its_own_time(clips: dict[str, Path], name: str) -> None:
    if name not in clips:
        pytest.skip("this libav has no HEVC encoder")
    truth = []
    with av.open(str(clips[name])) as container:  # libav's own reading of the file, from its first to its last frame
        for frame in container.decode(video=0):
            truth.append((round(frame.pts * frame.time_base * S), float(frame.to_ndarray(format="gray").mean())))
    length = opened(str(clips[name])).duration_us
    found: list[tuple[int, float]] = []
    for start in range(0, length, 4 * S):
        frames, _ = read(segment(str(clips[name]), start, start + 4 * S))
        assert frames[0][0] == 0  # a player can begin here
        found += [(start + at, value) for at, value in frames]
    times = [at for at, _ in found]
    assert times == sorted(times)
    # What begins a segment is what was on screen already, or a frame of its own.
    shown = dict(found)
    assert set(shown) - {4 * S, 8 * S} == {at for at, _ in truth} - {4 * S, 8 * S}
    assert max(abs(shown[at] - value) for at, value in truth) < 4
    for start in (4 * S, 8 * S):
        before = [value for at, value in truth if at <= start][-1]
        assert abs(shown[start] - before) < 4


def test_the_sound_of_segments_has_no_seam(clips: dict[str, Path]) -> None:
    parts = [segment(str(clips["mpeg2.mkv"]), start, start + 4 * S) for start in (0, 4 * S)]
    packets = []
    decoder = av.CodecContext.create("aac", "r")  # one over both, as a player has it
    heard = []
    for place, data in enumerate(parts):
        with av.open(io.BytesIO(data)) as container:
            decoder.extradata = container.streams.audio[0].codec_context.extradata
            for packet in container.demux(audio=0):
                if packet.pts is not None:
                    packets.append(place * 4 * 48_000 + round(packet.pts * packet.time_base * 48_000))
                    heard += [f.to_ndarray()[0] for f in decoder.decode(packet)]
    assert set(np.diff(packets)) == {1024}
    samples = np.concatenate(heard)
    first = next(i for i in range(len(samples)) if abs(samples[i]) > 0.1)
    assert abs(first - 5 * 48_000) < 1500  # the tone begins at 5 s (a block and the MP2 encoder's own delay apart)
    after = samples[first + 2048 : 7 * 48_000]
    spectrum = np.abs(np.fft.rfft(after * np.hanning(len(after))))
    peak = int(spectrum.argmax())
    assert abs(peak * 48_000 / len(after) - 440) < 1
    rest = np.delete(spectrum, range(peak - 20, peak + 21))
    assert rest.max() < 0.01 * spectrum.max()  # a click at the seam would be everywhere


def test_nothing_begins_behind_the_end(clips: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="nothing begins at"):
        segment(str(clips["mpeg4.avi"]), 3600 * S, 3604 * S)


@pytest.fixture(scope="module")
def address(clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("encoded") / "log"
    writer = EventLog.open(str(log), create=True)
    host = {"archive": [str(next(iter(clips.values())).parent)]}
    writer.begin_run(RunRecord("run-a", "c0", {"fps": 2}, "a model", "w", "0.1", host, 10**15))
    results = []
    for name, path in clips.items():
        video = opened(str(path))
        results.append(
            VideoResult(
                fingerprint(Source(str(path), path.stat().st_size)),
                "run-a",
                "c0",
                (str(path),),
                path.stat().st_size,
                "done",
                duration_us=video.duration_us,
                offset_us=0,
                width=64,
                height=48,
                rotation=0,
                codec=video.codec,
                frame_rate=12.5,
                events=(event(5 * S, 7 * S, "shape", f"seen in {name}"),),
            )
        )
    writer.commit(results)
    writer.finish_run("run-a", {}, "done")
    yield from served_at(log)


#: The mean grey of what the player shows now.
GREY = """() => {
  const c = document.createElement("canvas");
  [c.width, c.height] = [64, 48];
  const x = c.getContext("2d");
  x.drawImage(document.querySelector("video"), 0, 0, 64, 48);
  const d = x.getImageData(0, 0, 64, 48).data;
  let s = 0;
  for (let i = 0; i < d.length; i += 4) s += d[i];
  return s / (d.length / 4);
}"""

#: Whether it shows the picture at a time, and is not on its way there.
THERE = """at => {
  const v = document.querySelector("video");
  return !v.seeking && v.readyState >= 2 && v.currentTime === at;
}"""


@pytest.mark.parametrize("name", ["mpeg4.avi", "mpeg2.mkv", "hevc.mp4"])
def test_a_browser_plays_and_seeks_what_it_cannot_decode(
    browser: Any,  # noqa: F811
    address: str,
    clips: dict[str, Path],
    name: str,
) -> None:
    if name not in clips:
        pytest.skip("this libav has no HEVC encoder")
    context = browser.new_context(bypass_csp=True)  # for what the test itself evaluates
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(f"{address}#token={TOKEN}")
    page.wait_for_selector(".video[role=listitem]")
    page.locator(".video[role=listitem]", has_text=name).click()
    page.wait_for_function("document.querySelector('video')?.videoWidth === 64")
    duration = page.evaluate("document.querySelector('video').duration")
    assert abs(duration - opened(str(clips[name])).duration_us / 1e6) < 0.002
    truth = []
    with av.open(str(clips[name])) as container:
        for frame in container.decode(video=0):
            rgb = frame.to_ndarray(format="rgb24")
            truth.append((frame.pts * frame.time_base, float(rgb.mean())))
    for at in (9.5, 1.99, 6.3):
        page.evaluate("at => { document.querySelector('video').currentTime = at; }", at)
        page.wait_for_function(
            THERE,
            arg=at,
        )
        page.wait_for_timeout(200)
        shown = page.evaluate(GREY)
        assert abs(shown - [value for time, value in truth if time <= at][-1]) < 6, at
    page.evaluate("document.querySelector('video').currentTime = 3.5")
    page.evaluate("document.querySelector('video').muted = true")
    page.keyboard.press("k")
    page.wait_for_function("document.querySelector('video').currentTime > 5.2")  # over the seam at 4 s
    assert page.locator(".now").inner_text().count(f"seen in {name}") == 1
    context.close()
