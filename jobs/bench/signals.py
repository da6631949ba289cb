"""How true the signal analysers are, and what they cost: `python -m jobs.bench.signals [--quick] [--json FILE]`.

Footage is generated from seeds (jobs/bench/footage.py, jobs/bench/captions.py), encoded with H.264, decoded, cut into
windows, watched and reduced as in a job. Shot boundaries are compared with PySceneDetect, where it is installed, on the
same files; it reads every frame, the analysers the sampled ones.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np

from jobs.bench.captions import captioned_clip, clock_clip
from jobs.bench.footage import Clip, Truth, edited_clip, encode
from model.signals.model import RULES, SAMPLING, WINDOWING, SignalSettings, SignalsModel
from model.signals.text_track import similarity
from pipeline.event import Event
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Sampling, Window, Windowing
from pipeline.reduce import reduce_events

#: A point counts as found within one sampling interval at 4 fps and one frame at 25 fps.
TOLERANCE_S = 0.3
#: A span counts as found when intersection over union is at least this, or both ends are within the tolerance.
SPAN_IOU = 0.5
#: A caption counts as read when its text is at least this alike and its span overlaps by this IoU.
TEXT_LIKENESS, TEXT_IOU = 0.8, 0.4


@dataclass(frozen=True)
class Sampled:
    """A decoded clip: frames, how long it is, and the CPU time its decoding took."""

    frames: Frames
    duration_us: int
    cpu_s: float


def decode(path: Path, sampling: Sampling) -> Sampled:
    """The last frame presented at or before each wanted time. Simple and complete: the decoder has its own benchmark."""
    began = time.process_time()
    pixels, times, ends = [], [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        step_us = Fraction(SECOND_US) / sampling.fps
        before, before_us, wanted = None, 0, 0
        for frame in container.decode(stream):
            assert frame.pts is not None and frame.time_base is not None
            now_us = round(frame.pts * frame.time_base * SECOND_US)
            if before is not None and wanted * step_us < now_us:
                pixels.append(before.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation="AREA"))
                times.append(before_us)
                ends.append(now_us)
                wanted = int(now_us // step_us) + (now_us % step_us > 0)
            before, before_us = frame, now_us
            size = sampling.size(frame.width, frame.height)
        duration_us = before_us + round(SECOND_US / float(stream.average_rate or 25))
        if before is not None and wanted * step_us < duration_us:
            pixels.append(before.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation="AREA"))
            times.append(before_us)
            ends.append(duration_us)
    frames = Frames(np.stack(pixels), np.array(times, np.int64), np.array(ends, np.int64))
    return Sampled(frames, duration_us, time.process_time() - began)


def watch(model: SignalsModel, sampled: Sampled, windowing: Windowing = WINDOWING) -> tuple[list[Event], float]:
    """(events of the whole clip, CPU seconds) as the flow would have them: by window, then reduced."""
    began = time.process_time()
    answers = []
    for index in range(windowing.count(sampled.duration_us)):
        window = windowing.window("clip", index, sampled.duration_us)
        answers += model.watch([(window, frames_of(sampled.frames, window))])
    events = list(reduce_events(answers, RULES, sampled.duration_us).events)
    return events, time.process_time() - began


def frames_of(frames: Frames, window: Window) -> Frames:
    """The frames that are on screen in the window."""
    inside = (frames.time_us < window.end_us) & (frames.time_us >= window.start_us)
    return Frames(frames.pixels[inside], frames.time_us[inside], frames.end_us[inside])


# -- scoring -----------------------------------------------------------------------------------------------------------


@dataclass
class Score:
    """Counts of one kind: true ones found, found ones, true ones; and how far off the boundaries were."""

    hits: int = 0
    found: int = 0
    true: int = 0
    errors_s: list[float] | None = None

    def row(self) -> dict[str, Any]:
        precision = self.hits / self.found if self.found else float(not self.true)
        recall = self.hits / self.true if self.true else float(not self.found)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        error = round(median(self.errors_s), 3) if self.errors_s else None
        return {"true": self.true, "found": self.found, "precision": round(precision, 3), "recall": round(recall, 3),
                "f1": round(f1, 3), "median_error_s": error}  # fmt: skip


def count(
    score: Score, true: Sequence[Any], found: Sequence[Any], close: Callable[[Any, Any], float | None]
) -> set[int]:
    """Match one to one, best first; `close` gives how near a pair is (larger is nearer) or None. Indices of misses."""
    pairs = [(c, i, j) for i, t in enumerate(true) for j, f in enumerate(found) if (c := close(t, f)) is not None]
    used_true: set[int] = set()
    used_found: set[int] = set()
    for _, i, j in sorted(pairs, key=lambda p: -p[0]):
        if i not in used_true and j not in used_found:
            used_true.add(i)
            used_found.add(j)
            score.errors_s = (score.errors_s or []) + [abs(edge) for edge in edges(true[i], found[j])]
    score.hits += len(used_true)
    score.found += len(found)
    score.true += len(true)
    return set(range(len(true))) - used_true


def edges(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return b[0] - a[0], b[1] - a[1]


def iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    both = min(a[1], b[1]) - max(a[0], b[0])
    return both / (max(a[1], b[1]) - min(a[0], b[0])) if both > 0 else 0.0


def near_point(a: tuple[float, float], b: tuple[float, float]) -> float | None:
    return -abs(a[0] - b[0]) if abs(a[0] - b[0]) <= TOLERANCE_S else None


def near_span(a: tuple[float, float], b: tuple[float, float]) -> float | None:
    """Enough overlap, or both ends within the tolerance: between two samples a short span has no better answer."""
    close = max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= TOLERANCE_S
    return iou(a, b) if close or iou(a, b) >= SPAN_IOU else None


def touches(a: tuple[float, float], b: tuple[float, float]) -> float | None:
    """TRECVID's rule for gradual transitions: they overlap, here with the tolerance of a point."""
    gap = max(a[0] - b[1], b[0] - a[1])
    return -gap if gap <= TOLERANCE_S else None


def spans(events: Iterable[Event], kind: str) -> list[tuple[float, float]]:
    return [(e.start_us / SECOND_US, e.end_us / SECOND_US) for e in events if e.kind == kind]


def truths(truth: Iterable[Truth], kind: str) -> list[tuple[float, float]]:
    return [(t.start_s, t.end_s) for t in truth if t.kind == kind]


def boundaries(items: Sequence[tuple[str, float, float]]) -> list[tuple[float, float]]:
    """Transitions of any kind as spans; a fade out and the fade in that follows it within a second are one."""
    found: list[tuple[float, float]] = []
    out: tuple[float, float] | None = None
    for kind, start, end in sorted(items, key=lambda i: i[1]):
        if kind == "fade_in" and out is not None and start - out[1] < 1.5:
            found[-1] = (out[0], end)
        elif kind == "cut":
            found.append((start, start))
        elif kind in ("dissolve", "fade_out", "fade_in"):
            found.append((start, end))
        out = (start, end) if kind == "fade_out" else None if kind in ("fade_in", "cut", "dissolve") else out
    return found


# -- parts of the benchmark --------------------------------------------------------------------------------------------

POINTS, GRADUAL, STATES = ("cut",), ("dissolve", "fade_out", "fade_in"), ("black", "blank", "frozen")


def bench_edits(clips: Sequence[tuple[Clip, Path]], rates: Sequence[float], peers: bool) -> dict[str, Any]:
    """Shot boundaries and states, per kind, per sampling rate, beside the peers."""
    result: dict[str, Any] = {}
    model = SignalsModel(SignalSettings(text=False))
    for fps in rates:
        scores = {kind: Score() for kind in (*POINTS, *GRADUAL, *STATES)}
        every, watched_s, decoded_s, video_s = Score(), 0.0, 0.0, 0.0
        for clip, path in clips:
            sampled = decode(path, replace(SAMPLING, fps=Fraction(fps)))
            events, cpu_s = watch(model, sampled)
            watched_s, decoded_s, video_s = (
                watched_s + cpu_s,
                decoded_s + sampled.cpu_s,
                video_s + sampled.duration_us / SECOND_US,
            )
            for kind, score in scores.items():
                close = near_point if kind in POINTS else touches if kind in GRADUAL else near_span
                missed = count(score, truths(clip.truth, kind), spans(events, kind), close)
                if os.environ.get("SIGNALS_MISSES"):
                    show(clip, kind, missed, truths(clip.truth, kind), spans(events, kind), close)
            true = boundaries([(t.kind, t.start_s, t.end_s) for t in clip.truth])
            mine = boundaries([(e.kind, e.start_us / SECOND_US, e.end_us / SECOND_US) for e in events])
            count(every, true, mine, touches)
        result[f"signals at {fps} fps"] = {
            "cpu_s_per_video_hour": round(3600 * watched_s / video_s), "decode_cpu_s_per_video_hour": round(3600 * decoded_s / video_s),
            "any boundary": every.row(), **{kind: score.row() for kind, score in scores.items()},
        }  # fmt: skip
    for name, detect in peer_detectors().items() if peers else ():
        cut, every, cpu_s, video_s = Score(), Score(), 0.0, 0.0
        for clip, path in clips:
            began = time.process_time()
            points = [(p, p) for p in detect(path)]
            cpu_s, video_s = cpu_s + time.process_time() - began, video_s + clip.frames / float(clip.rate)
            count(every, boundaries([(t.kind, t.start_s, t.end_s) for t in clip.truth]), points, touches)
            count(cut, truths(clip.truth, "cut"), points, near_point)
        result[name] = {
            "cpu_s_per_video_hour": round(3600 * cpu_s / video_s),
            "any boundary": every.row(),
            "cut": cut.row(),
        }
    return result


def show(clip: Clip, kind: str, missed: set[int], true: list[Any], found: list[Any], close: Any) -> None:
    wrong = [f for f in found if not any(close(t, f) is not None for t in true)]
    if missed or wrong:
        print(f"    {clip.name} {kind}: missed {[true[i] for i in missed]}, wrong {wrong}")


def peer_detectors() -> dict[str, Callable[[Path], list[float]]]:
    """PySceneDetect's detectors as they come, on every frame: the times of their cuts in s."""
    try:
        import scenedetect
    except ImportError:
        print("PySceneDetect is not installed (pip install scenedetect): no peers in this run")
        return {}

    def run(detector: Callable[[], Any]) -> Callable[[Path], list[float]]:
        return lambda path: [
            scene[0].get_seconds() if hasattr(scene[0], "get_seconds") else scene[0].seconds
            for scene in scenedetect.detect(str(path), detector())[1:]
        ]

    names = ("ContentDetector", "AdaptiveDetector", "HistogramDetector")
    return {f"PySceneDetect {scenedetect.__version__} {n}": run(getattr(scenedetect, n)) for n in names}


def bench_activity(clips: Sequence[tuple[Clip, Path]]) -> dict[str, Any]:
    """The level seen in each shot beside the pace it was drawn with, and how often levels change within a shot."""
    model = SignalsModel(SignalSettings(text=False))
    seen: dict[str, dict[str, float]] = {}
    changes, minutes = 0, 0.0
    for clip, path in clips:
        events = [e for e in watch(model, decode(path, SAMPLING))[0] if e.kind == "activity"]
        for shot in (t for t in clip.truth if t.kind == "shot"):
            inside = [
                (e, s)
                for e in events
                if (s := min(e.end_us / SECOND_US, shot.end_s) - max(e.start_us / SECOND_US, shot.start_s)) > 0.3
            ]
            row = seen.setdefault(shot.detail, {})
            for event, seconds in inside:
                level = str(event.attributes["level"])
                row[level] = row.get(level, 0.0) + seconds
            changes += max(0, len(inside) - 1)
            minutes += (shot.end_s - shot.start_s) / 60
    shares = {
        pace: {level: round(s / sum(row.values()), 2) for level, s in sorted(row.items())} for pace, row in seen.items()
    }
    return {
        "share of time per level, by pace of the shot": shares,
        "changes of level per minute within shots": round(changes / minutes, 2),
    }


def bench_text(clips: Sequence[tuple[Clip, Path]], sides: Sequence[int], rates: Sequence[float]) -> dict[str, Any]:
    """Captions read, by size and language; reads saved by the change test, and what they cost in captions missed."""
    result: dict[str, Any] = {}
    for side in sides:
        for fps in rates:
            for gated in (True, False) if (side, fps) == (SAMPLING.short_side, float(SAMPLING.fps)) else (True,):
                name = f"{side} px, {fps} fps" + ("" if gated else ", every frame read")
                result[name] = text_run(clips, replace(SAMPLING, short_side=side, fps=Fraction(fps)), gated)
    return result


def text_run(clips: Sequence[tuple[Clip, Path]], sampling: Sampling, gated: bool) -> dict[str, Any]:
    model = SignalsModel(SignalSettings())
    assert model.reader is not None
    if not gated:
        model.thresholds = replace(model.thresholds, stroke_cells=0, read_burst=1e9)
    score, parts, cpu_s, video_s, frames, letters = Score(), {}, 0.0, 0.0, 0, [0.0, 0.0]  # type: ignore[var-annotated]
    for clip, path in clips:
        sampled = decode(path, sampling)
        events, used_s = watch(model, sampled)
        cpu_s, video_s, frames = cpu_s + used_s, video_s + sampled.duration_us / SECOND_US, frames + len(sampled.frames)
        true = [t for t in clip.truth if t.kind == "text"]
        found = [e for e in events if e.kind == "text"]
        missed = count(score, [Caption(t.start_s, t.end_s, t.detail) for t in true],
                       [Caption(e.start_us / SECOND_US, e.end_us / SECOND_US, e.text) for e in found], same_caption)  # fmt: skip
        for i, t in enumerate(true):
            for part in (f"{t.size_px:02d} px", "Chinese" if not t.detail.isascii() else "English", t.ground):
                hit, all_ = parts.get(part, (0, 0))
                parts[part] = hit + (i not in missed), all_ + 1
        if os.environ.get("SIGNALS_MISSES"):
            show(clip, "text", missed, [Caption(t.start_s, t.end_s, t.detail, f"{t.size_px} {t.ground}") for t in true],
                 [Caption(e.start_us / SECOND_US, e.end_us / SECOND_US, e.text) for e in found], same_caption)  # fmt: skip
    row = score.row()
    row["recall by part"] = {k: f"{a / b:.2f} of {b}" for k, (a, b) in sorted(parts.items())}
    return {"cpu_s_per_video_hour": round(3600 * cpu_s / video_s), "frames": frames, "reads": model.reader.reads,
            "reads_saved": round(1 - model.reader.reads / max(1, frames), 3), **row}  # fmt: skip


class Caption(tuple[float, float]):
    """(start_s, end_s) with its text."""

    text: str

    def __new__(cls, start_s: float, end_s: float, text: str, note: str = "") -> Caption:
        made = super().__new__(cls, (start_s, end_s))
        made.text = text
        made.note = note
        return made

    def __repr__(self) -> str:
        return f"{self.text!r} {self[0]:.2f}-{self[1]:.2f} {self.note}"


def same_caption(a: Caption, b: Caption) -> float | None:
    alike = similarity(a.text, b.text)
    return alike + iou(a, b) if alike >= TEXT_LIKENESS and iou(a, b) >= TEXT_IOU else None


def make(folder: Path, clips: Iterable[Clip]) -> list[tuple[Clip, Path]]:
    made = []
    for clip in clips:
        path = folder / f"{clip.name}.mp4"
        if not path.exists():
            encode(clip, path)
        made.append((clip, path))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer clips, one sampling rate: about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--seed", type=int, default=1000, help="first seed of the footage")
    parser.add_argument("--part", choices=("edits", "activity", "text"), action="append", help="only these parts")
    parser.add_argument("--clips", type=int, help="clips of each sort")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the footage in DIR, and use what lies there")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    parts = args.part or ["edits", "activity", "text"]
    n = args.clips or (3 if args.quick else 16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {"clips of each sort": n, "first seed": args.seed}
        if "edits" in parts or "activity" in parts:
            edited = make(folder, (edited_clip(args.seed + i) for i in range(n)))
        if "edits" in parts:
            report["edits"] = bench_edits(edited, (4,) if args.quick else (1, 2, 4, 8), peers=True)
        if "activity" in parts:
            report["activity"] = bench_activity(edited)
        if "text" in parts:
            captioned = make(folder, [*(captioned_clip(args.seed + i) for i in range(n)), clock_clip(args.seed)])
            sides = (360,) if args.quick else (180, 270, 360)
            report["text"] = bench_text(captioned, sides, (4,) if args.quick else (2, 4))
    print(json.dumps(report, indent=1, ensure_ascii=False))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
