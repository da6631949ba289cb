"""How true the signal analysers are, and what they cost: `python -m jobs.bench.signals [--quick] [--json FILE]`.

Footage is generated from seeds (jobs/bench/footage.py, jobs/bench/captions.py), encoded with H.264, decoded, watched
window by window and reduced as in a job. Thresholds were chosen on seeds 100-115; the default seeds are others. Shot
boundaries are compared with PySceneDetect, where it is installed (pip install scenedetect), on the same files: it reads
every frame, the analysers the sampled ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2

from jobs.bench.captions import captioned_clip, clock_clip
from jobs.bench.footage import Clip, edited_clip, encode
from jobs.bench.scoring import Item, Near, Score, iou
from model.signals.model import RULES, SAMPLING, WINDOWING, SignalSettings, SignalsModel
from model.signals.text_track import similarity
from pipeline.decode import decode_windows
from pipeline.event import Event, WindowEvents
from pipeline.plan import SECOND_US, Sampling
from pipeline.probe import probe
from pipeline.reduce import reduce_events

#: A boundary counts as found within one sampling interval at 4 fps and one frame at 25 fps.
TOLERANCE_S = 0.3
#: A state counts as found when intersection over union is at least this, or both ends are within the tolerance.
STATE_IOU = 0.5
#: A caption counts as read when its text is at least this alike and its span overlaps by this IoU.
TEXT_LIKENESS, TEXT_IOU = 0.8, 0.4
POINTS, GRADUAL, STATES = ("cut",), ("dissolve", "fade_out", "fade_in"), ("black", "blank", "frozen")

ClipFile = tuple[Clip, Path]


def near_point(a: Item, b: Item) -> float | None:
    return -abs(a.start_s - b.start_s) if abs(a.start_s - b.start_s) <= TOLERANCE_S else None


def near_transition(a: Item, b: Item) -> float | None:
    """TRECVID's rule for gradual transitions: they overlap; here within the tolerance of a point."""
    gap = max(a.start_s - b.end_s, b.start_s - a.end_s)
    return -gap if gap <= TOLERANCE_S else None


def near_state(a: Item, b: Item) -> float | None:
    close = max(abs(a.start_s - b.start_s), abs(a.end_s - b.end_s)) <= TOLERANCE_S
    return iou(a, b) if close or iou(a, b) >= STATE_IOU else None


def near_caption(a: Item, b: Item) -> float | None:
    alike = similarity(a.text, b.text)
    return alike + iou(a, b) if alike >= TEXT_LIKENESS and iou(a, b) >= TEXT_IOU else None


NEAR: dict[str, Near] = {
    **dict.fromkeys(POINTS, near_point),
    **dict.fromkeys(GRADUAL, near_transition),
    **dict.fromkeys(STATES, near_state),
    "text": near_caption,
}


@dataclass
class Cost:
    """CPU seconds over many clips."""

    decode_s: float = 0.0
    watch_s: float = 0.0
    video_s: float = 0.0
    frames: int = 0

    def row(self) -> dict[str, Any]:
        return {
            "watch_cpu_s_per_video_hour": round(3600 * self.watch_s / self.video_s),
            "decode_cpu_s_per_video_hour": round(3600 * self.decode_s / self.video_s),
        }


def watch(model: SignalsModel, path: Path, sampling: Sampling, cost: Cost) -> tuple[Event, ...]:
    """The events of a whole file: decoded, watched by window, reduced."""
    video = probe(str(path), path.stat().st_size, "bench", (str(path),))
    windows = (WINDOWING.window("bench", i, video.duration_us) for i in range(WINDOWING.count(video.duration_us)))
    answers: list[WindowEvents] = []
    began = time.process_time()
    for window, frames in decode_windows(video, windows, sampling):
        decoded = time.process_time()
        cost.decode_s += decoded - began
        answers += model.watch([(window, frames)])
        began = time.process_time()
        cost.watch_s += began - decoded
        cost.frames += len(frames)
    cost.video_s += video.duration_us / SECOND_US
    return reduce_events(answers, RULES, video.duration_us).events


def true_items(clip: Clip, kind: str) -> list[Item]:
    return [
        Item(t.start_s, t.end_s, t.detail, " ".join(filter(None, (t.ground, f"{t.size_px} px" if t.size_px else ""))))
        for t in clip.truth
        if t.kind == kind
    ]


def found_items(events: Iterable[Event], kind: str) -> list[Item]:
    return [Item(e.start_us / SECOND_US, e.end_us / SECOND_US, e.text) for e in events if e.kind == kind]


def boundaries(items: Iterable[tuple[str, float, float]]) -> list[Item]:
    """Transitions of any kind; a fade out and the fade in that follows it within 1.5 s are one."""
    found: list[Item] = []
    faded: Item | None = None
    for kind, start_s, end_s in sorted(items, key=lambda item: item[1]):
        if kind == "fade_in" and faded is not None and start_s - faded.end_s < 1.5:
            found[-1] = Item(faded.start_s, end_s)
        elif kind in (*POINTS, *GRADUAL):
            found.append(Item(start_s, start_s if kind in POINTS else end_s))
        else:
            continue
        faded = found[-1] if kind == "fade_out" else None
    return found


def bench_edits(clips: Sequence[ClipFile], rates: Sequence[float], misses: bool) -> dict[str, Any]:
    """Shot boundaries and states, per kind, per sampling rate, beside the peers."""
    result: dict[str, Any] = {}
    model = SignalsModel(SignalSettings(text=False))
    for fps in rates:
        scores = {kind: Score() for kind in (*POINTS, *GRADUAL, *STATES)}
        every, cost = Score(), Cost()
        for clip, path in clips:
            events = watch(model, path, replace(SAMPLING, fps=Fraction(fps)), cost)
            for kind, score in scores.items():
                told = score.count(true_items(clip, kind), found_items(events, kind), NEAR[kind])
                if misses:
                    show(f"{clip.name} at {fps} fps, {kind}", *told)
            true = boundaries((t.kind, t.start_s, t.end_s) for t in clip.truth)
            mine = boundaries((e.kind, e.start_us / SECOND_US, e.end_us / SECOND_US) for e in events)
            every.count(true, mine, near_transition)
        rows = {kind: score.row() for kind, score in scores.items()}
        result[f"signals at {fps} fps"] = {**cost.row(), "any boundary": every.row(), **rows}
    for name, detect in peer_detectors().items():
        cut, every, cpu_s, video_s = Score(), Score(), 0.0, 0.0
        for clip, path in clips:
            began = time.process_time()
            points = [Item(at_s, at_s) for at_s in detect(path)]
            cpu_s, video_s = cpu_s + time.process_time() - began, video_s + clip.frames / float(clip.rate)
            every.count(boundaries((t.kind, t.start_s, t.end_s) for t in clip.truth), points, near_transition)
            cut.count(true_items(clip, "cut"), points, near_point)
        spent = {"watch_and_decode_cpu_s_per_video_hour": round(3600 * cpu_s / video_s)}
        result[name] = {**spent, "any boundary": every.row(), "cut": cut.row()}
    return result


def peer_detectors() -> dict[str, Callable[[Path], list[float]]]:
    """PySceneDetect's detectors as they come, on every frame: the times of their cuts in s."""
    try:
        import scenedetect
    except ImportError:
        print("PySceneDetect is not installed (pip install scenedetect): no peers in this run")
        return {}

    def run(detector: Callable[[], Any]) -> Callable[[Path], list[float]]:
        return lambda path: [float(scene[0].seconds) for scene in scenedetect.detect(str(path), detector())[1:]]

    names = ("ContentDetector", "AdaptiveDetector", "HistogramDetector")
    return {f"PySceneDetect {scenedetect.__version__} {n}": run(getattr(scenedetect, n)) for n in names}


def bench_activity(clips: Sequence[ClipFile]) -> dict[str, Any]:
    """The level seen in each shot beside the pace it was drawn with, and how often levels change within a shot."""
    model = SignalsModel(SignalSettings(text=False))
    seconds: dict[str, dict[str, float]] = {}
    changes, minutes = 0, 0.0
    for clip, path in clips:
        events = [e for e in watch(model, path, SAMPLING, Cost()) if e.kind == "activity"]
        for shot in true_items(clip, "shot"):
            row = seconds.setdefault(shot.text, {})
            spans = [
                (e, max(e.start_us / SECOND_US, shot.start_s), min(e.end_us / SECOND_US, shot.end_s)) for e in events
            ]
            inside = [(str(e.attributes["level"]), end - start) for e, start, end in spans if end - start > TOLERANCE_S]
            for level, s in inside:
                row[level] = row.get(level, 0.0) + s
            changes += max(0, len(inside) - 1)
            minutes += (shot.end_s - shot.start_s) / 60
    return {
        "share of time per level, by pace of the shot": {
            pace: {level: round(s / sum(row.values()), 2) for level, s in sorted(row.items())}
            for pace, row in sorted(seconds.items())
        },
        "changes of level per minute within shots": round(changes / minutes, 2),
    }


def bench_text(clips: Sequence[ClipFile], sides: Sequence[int], rates: Sequence[int], misses: bool) -> dict[str, Any]:
    """Captions read, by size of the picture and sampling rate; at the default also with every frame read."""
    result: dict[str, Any] = {}
    for side in sides:
        for fps in rates:
            name, sampling = f"{side} px at {fps} fps", replace(SAMPLING, short_side=side, fps=Fraction(fps))
            result[name] = text_run(clips, sampling, False, misses)
    result[f"{SAMPLING.short_side} px at {SAMPLING.fps} fps, every frame read"] = text_run(
        clips, SAMPLING, True, misses
    )
    return result


def text_run(clips: Sequence[ClipFile], sampling: Sampling, every_frame: bool, misses: bool) -> dict[str, Any]:
    model = SignalsModel(SignalSettings())
    assert model.reader is not None
    if every_frame:
        model.thresholds = replace(model.thresholds, stroke_cells=0, read_burst=1e9)
    score, cost = Score(), Cost()
    parts: dict[str, tuple[int, int]] = {}
    for clip, path in clips:
        events = watch(model, path, sampling, cost)
        true = true_items(clip, "text")
        missed, wrong = score.count(true, found_items(events, "text"), near_caption)
        for item in true:
            ground, _, size = item.note.partition(" ")
            for part in (size.rjust(5), ground, "English" if item.text.isascii() else "Chinese"):
                hit, of = parts.get(part, (0, 0))
                parts[part] = hit + (item not in missed), of + 1
        if misses:
            show(f"{clip.name}, text", missed, wrong)
    return {
        **cost.row(),
        "frames": cost.frames,
        "reads": model.reader.reads,
        "reads_saved": round(1 - model.reader.reads / cost.frames, 3),
        **score.row(),
        "recall by part": {part: f"{hit / of:.2f} of {of}" for part, (hit, of) in sorted(parts.items())},
    }


def show(name: str, missed: Sequence[Item], wrong: Sequence[Item]) -> None:
    if missed or wrong:
        print(f"  {name}: missed {[str(m) for m in missed]}, wrong {[str(w) for w in wrong]}")


def make(folder: Path, clips: Iterable[Clip]) -> list[ClipFile]:
    made = []
    for clip in clips:
        path = folder / f"{clip.name}.mp4"
        if not path.exists():
            encode(clip, path.with_suffix(".part.mp4"))
            path.with_suffix(".part.mp4").rename(path)
        made.append((clip, path))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few clips at the default sampling: about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--seed", type=int, default=1000, help="first seed of the footage")
    parser.add_argument("--part", choices=("edits", "activity", "text"), action="append", help="only these parts")
    parser.add_argument("--clips", type=int, help="clips of each sort (default 12, quick 2)")
    parser.add_argument("--misses", action="store_true", help="print what was missed and what was wrong")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the footage in DIR, and use what lies there")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    parts = args.part or ["edits", "activity", "text"]
    n = args.clips or (2 if args.quick else 12)
    default = int(SAMPLING.fps), SAMPLING.short_side or 0
    report: dict[str, Any] = {"clips of each sort": n, "first seed": args.seed}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if {"edits", "activity"} & set(parts):
            edited = make(folder, (edited_clip(args.seed + i) for i in range(n)))
        if "edits" in parts:
            report["edits"] = bench_edits(edited, (default[0],) if args.quick else (1, 2, 4, 8), args.misses)
        if "activity" in parts:
            report["activity"] = bench_activity(edited)
        if "text" in parts:
            captioned = make(folder, [*(captioned_clip(args.seed + i) for i in range(n)), clock_clip(args.seed)])
            sides, rates = ((default[1],), (default[0],)) if args.quick else ((180, 270, 360), (2, 4))
            report["text"] = bench_text(captioned, sides, rates, args.misses)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if args.json:
        args.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
