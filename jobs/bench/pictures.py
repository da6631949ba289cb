"""Search by picture: what the bundled model's features find in generated worlds, and how long a search takes.

Found: films of worlds whose content is known are seen as a run sees them (2 frames a second, in pairs). Then they are
asked for stills that lie between those frames, made smaller or larger and put through JPEG: the share of which the
nearest moment (of the nearest five one) is within a second of the right one; chance is a moment drawn from the log. And
for new pictures of one thing before a background from elsewhere: the share of the first ten moments that show a thing
of that shape and colour, of that colour, beside the share of all moments that do.

Time: among random vectors, against numpy's product of a float32 matrix in memory with a vector, the least that exact
search could do.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jobs.bench.search import print_rows
from jobs.demo.archive import Film
from jobs.demo.draw import Painter
from jobs.demo.world import COLOURS, Scene, Thing, World, pose
from model.bundled import FOLDER, profile
from model.qwen3_vl.pictures import PictureEmbedder
from pipeline.features.search import Moment, PictureSearch, picture
from pipeline.features.vectors import FrameFeatures
from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
from pipeline.plan import SECOND_US, Window

Pixels = npt.NDArray[np.uint8]

SEED = 700_001
WIDTH, HEIGHT, FILM_S = 640, 360, 40
DIMENSIONS = 128


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.pictures", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer films, 10^4 and 10^5 vectors")
    parser.add_argument("--only", choices=["found", "speed"], help="only this part")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        if args.only in (None, "found"):
            films, asked = (8, 100) if args.quick else (40, 500)
            figures["found"] = found(Path(name, "found"), films, asked)
            print_rows(f"found by picture in {films} films of {FILM_S} s", figures["found"])
        if args.only in (None, "speed"):
            sizes = (10**4, 10**5) if args.quick else (10**4, 10**5, 10**6)
            figures["speed"] = [row for size in sizes for row in speed(Path(name, str(size)), size)]
            print_rows(f"the 20 nearest moments among vectors of {DIMENSIONS}", figures["speed"])
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))
    return 0


# -- what is found


def found(log: Path, films: int, asked: int) -> list[dict[str, Any]]:
    draw = random.Random(SEED)
    eye = PictureEmbedder(str(FOLDER))
    worlds = [Film(f"p{i}.mp4", "", FILM_S, WIDTH, HEIGHT, Fraction(25), 50).world(SEED) for i in range(films)]
    write_log(log, worlds, eye)
    search = PictureSearch(str(log))
    search.update()
    rows = [_stills(search, worlds, eye, draw, asked, scale) for scale in (1.0, 0.5, 0.2)]
    return rows + _elsewhere(search, worlds, eye, draw, asked // 2)


def write_log(log: Path, worlds: list[World], eye: PictureEmbedder) -> None:
    """A log of the worlds as a run leaves it, of features only."""
    writer = EventLog.open(str(log), create=True)
    who = profile({})
    sampling = {"short_side": None, "max_pixels": who.sampling.max_pixels, "multiple": who.sampling.multiple}
    writer.begin_run(
        RunRecord("run", "c", {"sampling": sampling}, "bundled", eye.made_by.split(":")[0], "", {}, 10**15)
    )
    size = who.sampling.size(WIDTH, HEIGHT)
    for number, world in enumerate(worlds):
        painter = Painter(world, WIDTH, HEIGHT)
        times = list(range(0, world.duration_us - SECOND_US, SECOND_US))
        pairs = [np.stack([_resized(painter.frame(t + k), size) for k in (0, SECOND_US // 2)]) for t in times]
        vectors = np.stack([eye.embed_frames(pair)[0] for pair in pairs])
        window = Window(_video(number), 0, 0, world.duration_us)
        seen = WindowRecord(window, times, features=FrameFeatures.of(eye.made_by, times, vectors))
        writer.commit(
            [
                VideoResult(
                    _video(number),
                    "run",
                    "c",
                    (f"/p{number}.mp4",),
                    1,
                    "done",
                    duration_us=world.duration_us,
                    windows=(seen,),
                )
            ]
        )


def _video(number: int) -> str:
    return f"{number:032x}"


def _stills(
    search: PictureSearch, worlds: list[World], eye: PictureEmbedder, draw: random.Random, asked: int, scale: float
) -> dict[str, Any]:
    first = five = count = 0
    total = sum(w.duration_us for w in worlds)
    while count < asked:
        number = draw.randrange(len(worlds))
        at_us = draw.randrange(0, worlds[number].duration_us - SECOND_US)
        pixels = Painter(worlds[number], WIDTH, HEIGHT).frame(at_us)
        if pixels.std() < 8:  # black, or nearly: it is everywhere
            continue
        hits = search.find(eye.embed(_reencoded(pixels, scale, 60)), eye.made_by, limit=5)
        right = [_is_at(hit, number, at_us) for hit in hits]
        first, five, count = first + right[0], five + any(right), count + 1
    return {
        "asked for": f"stills at {scale:g} of their size",
        "asked": count,
        "nearest is right": first / count,
        "one of five is": five / count,
        "by chance": 3 * SECOND_US / total,
    }


def _is_at(hit: Moment, number: int, at_us: int) -> bool:
    return hit.video_id == _video(number) and hit.start_us - SECOND_US <= at_us < hit.end_us + SECOND_US


def _reencoded(pixels: Pixels, scale: float, quality: int) -> Pixels:
    """A picture in another size and through JPEG, as large as the model sees it."""
    small = _resized(pixels, (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)))
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    again = picture(data.tobytes(), "it")
    return _resized(again, profile({}).sampling.size(again.shape[1], again.shape[0]))


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)).astype(np.uint8)


def _elsewhere(
    search: PictureSearch, worlds: list[World], eye: PictureEmbedder, draw: random.Random, asked: int
) -> list[dict[str, Any]]:
    things: dict[tuple[int, int], set[tuple[str, str]]] = {}
    for number, world in enumerate(worlds):
        for at_us in range(0, world.duration_us - SECOND_US, SECOND_US):
            things[number, at_us] = _things(world, at_us)
    known = sorted({thing for those in things.values() for thing in those})
    scenes = [s.scene for w in worlds for s in w.shots]
    same: dict[str, list[float]] = {"shape and colour": [], "colour": []}
    chance: dict[str, list[float]] = {"shape and colour": [], "colour": []}
    for _ in range(asked):
        shape, colour = draw.choice(known)
        scene = draw.choice([s for s in scenes if _stands_out(colour, s)])
        lone = Thing(shape, colour, draw.uniform(0.5, 1.2), draw.uniform(0.3, 0.7), draw.uniform(0.12, 0.2))
        painter = Painter(worlds[0], WIDTH, HEIGHT)
        drawn = painter.scene(replace(scene, things=(lone,), captions=()), 0)
        hits = search.find(eye.embed(_reencoded(drawn, 1.0, 90)), eye.made_by, limit=10)
        seen = [things.get((int(h.video_id, 16), h.at_us), set()) for h in hits]
        tests: dict[str, Callable[[set[tuple[str, str]]], bool]] = {
            "shape and colour": lambda those, wanted=(shape, colour): wanted in those,  # type: ignore[misc]
            "colour": lambda those, wanted=colour: any(c == wanted for _, c in those),  # type: ignore[misc]
        }
        for name, test in tests.items():
            same[name].append(sum(map(test, seen)) / max(1, len(seen)))
            chance[name].append(sum(map(test, things.values())) / len(things))
    return [
        {
            "asked for": f"a thing elsewhere: the same {name}",
            "asked": asked,
            "share of the first ten": float(np.mean(same[name])),
            "by chance": float(np.mean(chance[name])),
        }
        for name in same
    ]


def _stands_out(colour: str, scene: Scene) -> bool:
    return min(float(np.linalg.norm(np.subtract(COLOURS[colour], light))) for light in (scene.top, scene.bottom)) > 95


def _things(world: World, at_us: int) -> set[tuple[str, str]]:
    """(shape, colour) of what is wholly there in the second that begins at `at_us`."""
    found = set()
    for shot, share in world.layers(at_us):
        for thing in shot.scene.things if share > 0.5 else ():
            at = pose(thing, shot.clock_us(at_us))
            if at is not None and 0 < at.x < world.width and 0 < at.y < world.height:
                found.add((at.shape[round(at.shape[2])], at.colour[round(at.colour[2])]))
    return {(str(s), str(c)) for s, c in found}


# -- how long it takes


def speed(log: Path, size: int, asked: int = 20) -> list[dict[str, Any]]:
    rng = np.random.default_rng(SEED)
    writer = EventLog.open(str(log), create=True)
    writer.begin_run(RunRecord("run", "c", {"sampling": {}}, "random", "w", "", {}, 10**15))
    of_each = 1000
    vectors = rng.standard_normal((size, DIMENSIONS)).astype(np.float16)
    results = []
    for number in range(size // of_each):
        times = [i * SECOND_US for i in range(of_each)]
        window = Window(_video(number), 0, 0, of_each * SECOND_US)
        features = FrameFeatures.of("w:r", times, vectors[number * of_each : (number + 1) * of_each])
        results.append(
            VideoResult(
                _video(number),
                "run",
                "c",
                (f"/v{number}.mp4",),
                1,
                "done",
                duration_us=of_each * SECOND_US,
                windows=(WindowRecord(window, (), features=features),),
            )
        )
    for first in range(0, len(results), 64):
        writer.commit(results[first : first + 64])
    search = PictureSearch(str(log))
    began = time.process_time()
    search.update()
    indexing_s = time.process_time() - began
    wanted = rng.standard_normal((asked, DIMENSIONS)).astype(np.float32)
    whole = vectors.astype(np.float32)

    def median_ms(call: Callable[[np.ndarray], object]) -> float:
        times = []
        for vector in wanted:
            began = time.process_time()
            call(vector)
            times.append(time.process_time() - began)
        return float(np.median(times)) * 1e3

    search.find(wanted[0], "w:r")  # the files are in memory then
    ours = median_ms(lambda vector: search.find(vector, "w:r"))
    least = median_ms(lambda vector: np.argpartition(whole @ vector, -20)[-20:])
    return [
        {
            "vectors": size,
            "found in, CPU ms": ours,
            "numpy float32 product, CPU ms": least,
            "times as long": ours / least,
            "indexed a second (CPU)": size / max(indexing_s, 1e-9),
        }
    ]


if __name__ == "__main__":
    raise SystemExit(main())
