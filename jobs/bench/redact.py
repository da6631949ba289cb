"""How much of what must not be seen is hidden: on a generated set whose truth is known, frame by frame and held.

    python -m jobs.bench.redact [--quick] [--json FILE] [--portraits FILE:LEFT,TOP,RIGHT,BOTTOM ...]

A thing counts as hidden when 95% of its box is filled. "leaks": things of which a reader of text (the same PP-OCR that
`--model signals` reads with), of QR codes or of bar codes (OpenCV) still gets anything out of the redacted frame, of
those that it gets something out of in the frame before. Bar codes are EAN-13, upright and turned.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jobs.bench import bar_codes
from jobs.bench.bar_codes import with_check
from jobs.bench.redact_faces import FRAMES, installed_portraits, measure_faces, portrait, print_faces
from pipeline.detectors import Box
from pipeline.redact import Redactor, covered, hidden_at, parse

Picture = npt.NDArray[np.uint8]

_STEP_US = 500_000
_HIDDEN = 0.95
_BARS_HIGH = 0.45  # of their width
_WORDS = (
    "AB 123 CD",
    "Maria Keller",
    "+49 30 5550199",
    "EXIT 14",
    "Lindenweg 7",
    "王小明",
    "京A 88123",
    "confidential",
)


@dataclass
class Thing:
    """What is drawn: text, a QR code (codes) or a bar code (bars), `px` high, moving `dx`, `dy` px from frame to frame;
    bar codes turned by `degrees`."""

    kind: str
    said: str
    px: int
    x: float
    y: float
    dx: float
    dy: float
    degrees: int = 0


@dataclass
class Tally:
    things: int = 0
    hidden: int = 0
    held: int = 0
    readable: int = 0
    leaks: int = 0


@dataclass
class Result:
    by_size: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    excess: list[float] = field(default_factory=list)  # share of each held frame filled outside of all things
    cpu_s: float = 0.0
    frames: int = 0


def scenes(
    count: int, length: int, size: tuple[int, int], seed: int = 3
) -> Iterator[list[tuple[Picture, list[Thing]]]]:
    """`count` scenes of `length` frames with text and a QR code, then as many with a bar code: soft moving colours,
    grain, things that move, all through JPEG's mill."""
    random = np.random.default_rng(seed)
    width, height = size
    for number in range(count):
        things = []
        for kind, heights in (("text", (10, 14, 20, 32, 48)), ("codes", (48, 72, 110))):
            px = int(heights[number % len(heights)])
            said = _WORDS[int(random.integers(len(_WORDS)))] if kind == "text" else f"https://example.org/{number}"
            x, y = random.uniform(0.05, 0.4) * width, random.uniform(0.15, 0.4) * height
            if kind == "codes":
                x, y = random.uniform(0.55, 0.7) * width, random.uniform(0.45, 0.6) * height
                x, y = min(x, width - px - 8 * length), min(y, height - px - 8 * length)  # inside for as long
            things.append(Thing(kind, said, px, x, y, *random.uniform(-8, 8, 2)))
        yield _scene(things, length, size, random)
    for number in range(count):
        px, degrees = (43, 64, 86)[number % 3], (0, 10, 90, 0, 45)[number // 3 % 5]
        said = with_check(f"{4006381 + number:07d}{int(random.integers(10**5)):05d}")
        x, y = width * random.uniform(0.42, 0.58), height / 2
        dx, dy = random.uniform(-4, 4, 2).tolist()
        bars = Thing("bars", said, px, x, y, dx, dy, degrees)
        yield _scene([bars], length, size, random)


def _scene(
    things: list[Thing], length: int, size: tuple[int, int], random: np.random.Generator
) -> list[tuple[Picture, list[Thing]]]:
    coarse = random.integers(40, 215, (6, 9, 3)).astype(np.uint8)
    light = bool(random.integers(2))
    frames = []
    for at in range(length):
        shift = np.array([[1, 0, 2 * at], [0, 1, at]], np.float32)
        soft = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        soft = cv2.warpAffine(soft, shift, size, borderMode=cv2.BORDER_REFLECT)
        grain = random.normal(0, 6, (size[1], size[0], 1))
        picture: Picture = np.clip(soft + grain, 0, 255).astype(np.uint8)
        for thing in things:
            _draw(picture, thing, at, light)
        data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
        frames.append((np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1], things))
    return frames


def _draw(picture: Picture, thing: Thing, at: int, light: bool) -> None:
    left, top, right, bottom = box_of(thing, at)
    if thing.kind == "bars":
        x, y = thing.x + at * thing.dx, thing.y + at * thing.dy
        bar_codes.draw(picture, thing.said, thing.px / _BARS_HIGH, thing.px, x, y, thing.degrees)
        return
    if thing.kind == "text":
        ink = (245, 245, 240) if light else (15, 15, 20)
        area = picture[max(0, top - 3) : bottom + 3, max(0, left - 5) : right + 5]
        area[:] = area // 3 if light else 255 - (255 - area) // 3  # a caption's plate
        cv2.putText(picture, thing.said, (left, bottom), ink, cv2.FontFace("sans"), round(thing.px / 0.72), 500)
        return
    code = cv2.QRCodeEncoder.create().encode(thing.said)
    code = cv2.resize(code, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)
    picture[top:bottom, left:right] = code[..., None]


def box_of(thing: Thing, at: int) -> Box:
    """The box of a thing's ink (capital letters) in frame `at`."""
    if thing.kind == "bars":
        across, along = (f(np.radians(thing.degrees)) for f in (np.cos, np.sin))
        half = np.array([across + along * _BARS_HIGH, along + across * _BARS_HIGH]) * thing.px / _BARS_HIGH / 2
        centre = np.array([thing.x + at * thing.dx, thing.y + at * thing.dy])
        (left, top), (right, bottom) = np.round(centre - half).astype(int), np.round(centre + half).astype(int)
        return int(left), int(top), int(right), int(bottom)
    left, top = round(thing.x + at * thing.dx), round(thing.y + at * thing.dy)
    wide = thing.px
    if thing.kind == "text":
        box = cv2.getTextSize((0, 0), thing.said, (0, 0), cv2.FontFace("sans"), round(thing.px / 0.72), 500)
        wide = int(box[2])
    return left, top, left + wide, top + thing.px


def measure(redactor: Redactor, count: int, length: int, size: tuple[int, int]) -> Result:
    result = Result()
    reader = _Reader()
    for frames in scenes(count, length, size):
        began = time.process_time()
        found = [(at * _STEP_US, redactor.boxes(picture)) for at, (picture, _) in enumerate(frames)]
        held = [covered(picture, hidden_at(at * _STEP_US, found)) for at, (picture, _) in enumerate(frames)]
        result.cpu_s += time.process_time() - began
        result.frames += length
        for at, (picture, things) in enumerate(frames):
            alone = covered(picture, found[at][1]) if at == length // 2 else None
            truth = np.zeros(picture.shape[:2], bool)
            for thing in things:
                left, top, right, bottom = box_of(thing, at)
                truth[max(0, top - 12) : bottom + 12, max(0, left - 12) : right + 12] = True
            result.excess.append(float(((held[at] != picture).any(2) & ~truth).mean()))
            if alone is None:
                continue
            for thing in things:
                tally = result.by_size[f"{thing.kind} {thing.px:3d} px"]
                tally.things += 1
                tally.hidden += _share(picture, alone, box_of(thing, at)) >= _HIDDEN
                tally.held += _share(picture, held[at], box_of(thing, at)) >= _HIDDEN
                if reader(picture, thing, box_of(thing, at)):
                    tally.readable += 1
                    tally.leaks += reader(held[at], thing, box_of(thing, at))
    return result


def _share(before: Picture, after: Picture, box: Box) -> float:
    """The share of a box in which the fill's one colour stands: runs of equal pixels, where there was ink and grain."""
    left, top, right, bottom = box
    inside = after[max(0, top) : bottom, max(0, left) : right]
    changed = (before[max(0, top) : bottom, max(0, left) : right] != inside).any(2)
    flat = (np.abs(np.diff(inside.astype(int), axis=1)).sum(2) == 0).mean(axis=1)
    return float((changed | (flat[:, None] > 0.9)).mean())


class _Reader:
    """Tries to get out what is written."""

    def __init__(self) -> None:
        from model.signals.text_reader import TextReader

        self._text, self._code, self._bars = TextReader(), cv2.QRCodeDetector(), cv2.barcode.BarcodeDetector()

    def __call__(self, picture: Picture, thing: Thing, box: Box) -> bool:
        left, top, right, bottom = box
        part = picture[max(0, top - 16) : bottom + 16, max(0, left - 16) : right + 16]
        part = np.ascontiguousarray(cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
        if thing.kind == "codes":
            return bool(self._code.detectAndDecode(part[..., ::-1].copy())[0])
        if thing.kind == "bars":
            return any(any(self._bars.detectAndDecodeMulti(p)[1] or ()) for p in (part, part[::2, ::2].copy()))
        wanted = set(thing.said.casefold()) - {" "}
        read = set("".join(line.text for line in self._text.read(part)).casefold())
        return len(wanted & read) > len(wanted) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer scenes (about a minute)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    parser.add_argument(
        "--portraits",
        nargs="+",
        metavar="FILE:L,T,R,B",
        help="photographs of one face each (default: those that scikit-image and matplotlib have, where installed)",
    )
    parser.add_argument("--faces", default="faces", metavar="faces[=PATH]", help="who finds faces (default: dlib)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    count = 5 if args.quick else 60
    redactor = Redactor(("codes", "text"))
    told: dict[str, Any] = {}
    for size in ((640, 360),) if args.quick else ((398, 224), (640, 360), (1280, 720)):
        result = measure(redactor, count, 3, size)
        name = f"{size[0]}x{size[1]}"
        print(f"\n{name}, {result.frames} frames, {1000 * result.cpu_s / result.frames:.0f} ms of CPU each")
        print(f"{'thing':<14} {'shown':>6} {'hidden':>8} {'held':>8} {'readable before':>16} {'leaks':>6}")
        for thing, tally in sorted(result.by_size.items()):
            alone, held = tally.hidden / tally.things, tally.held / tally.things
            print(f"{thing:<14} {tally.things:>6} {alone:>8.1%} {held:>8.1%} {tally.readable:>16} {tally.leaks:>6}")
        print(f"filled beside all things: {np.mean(result.excess):.1%} of the picture")
        told[name] = {
            "cpu_ms_per_frame": 1000 * result.cpu_s / result.frames,
            "excess": float(np.mean(result.excess)),
            "things": {thing: vars(tally) for thing, tally in sorted(result.by_size.items())},
        }
    people = [portrait(said) for said in (installed_portraits() if args.portraits is None else args.portraits)]
    if people:
        told["faces"] = {}
        for size in FRAMES[:1] if args.quick else FRAMES:
            faces = measure_faces(Redactor(parse(args.faces)), people, 2 if args.quick else 20, size)
            print_faces(faces, size)
            told["faces"][f"{size[0]}x{size[1]}"] = faces
    else:
        print("\nfaces: not measured (pip install --no-deps scikit-image matplotlib: a portrait each; or --portraits)")
    if args.json:
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
