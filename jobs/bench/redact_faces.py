"""How many faces are hidden: photographs of a face at many sizes in generated scenes, mirrored, lit and blurred.

For `python -m jobs.bench.redact --portraits FILE:LEFT,TOP,RIGHT,BOTTOM ...`: photographs with one face each and its box
(brows to chin, ear to ear) in px. Two in the public domain come inside wheels (`IN_WHEELS`), of which nothing is
imported: `pip install --no-deps scikit-image matplotlib`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.detectors import Box
from pipeline.errors import UsageError
from pipeline.redact import Redactor, covered

Picture = npt.NDArray[np.uint8]
Portrait = tuple[Picture, Box]
FRAMES = ((640, 360), (398, 224))
#: Heights of a face, of the picture's height.
SIZES = (1 / 18, 1 / 13, 1 / 9, 1 / 6.4, 1 / 4.5, 1 / 3, 1 / 2)
_HIDDEN = 0.95
#: By module: the file of a portrait in the public domain (NASA; United States Navy), and the box of its face.
IN_WHEELS = {
    "skimage": ("data/astronaut.png", "177,70,268,172"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg", "165,140,372,360"),
}


def installed_portraits() -> list[str]:
    """Those of `IN_WHEELS` that are here, as `portrait` takes them."""
    found = []
    for module, (file, box) in IN_WHEELS.items():
        spec = find_spec(module)
        paths = [Path(folder) / file for folder in (spec.submodule_search_locations or ())] if spec else []
        found += [f"{path}:{box}" for path in paths if path.is_file()]
    return found


def portrait(told: str) -> Portrait:
    """ "FILE:LEFT,TOP,RIGHT,BOTTOM" as the picture and the box of its face. Raises UsageError."""
    name, _, numbers = told.rpartition(":")
    picture = cv2.imread(name) if Path(name).is_file() else None
    try:
        left, top, right, bottom = (int(n) for n in numbers.split(","))
    except ValueError:
        raise UsageError(f"--portraits {told}: write FILE:LEFT,TOP,RIGHT,BOTTOM") from None
    if picture is None:
        raise UsageError(f"--portraits {told}: {name!r} is no picture")
    return np.ascontiguousarray(picture[..., ::-1]).astype(np.uint8), (left, top, right, bottom)


def measure_faces(
    redactor: Redactor, people: list[Portrait], count: int, size: tuple[int, int] = FRAMES[0], seed: int = 5
) -> dict[str, dict[str, float]]:
    """By height of the face in pictures of `size`: how many were shown (`count` of each portrait), the share hidden
    whole, and the share of the picture filled beside them."""
    random = np.random.default_rng(seed)
    told: dict[str, dict[str, float]] = {}
    for px in (round(size[1] * share) for share in SIZES):
        hidden, beside = [], []
        for person in people * count:
            picture, (left, top, right, bottom) = scene(person, px, random, size)
            after = covered(picture, redactor.boxes(picture))
            changed = (after != picture).any(2)
            hidden.append(changed[top:bottom, left:right].mean() >= _HIDDEN)
            head = np.zeros_like(changed)
            head[max(0, top - px) : bottom + px // 2, max(0, left - px // 2) : right + px // 2] = True
            beside.append((changed & ~head).mean())
        told[f"{px} px"] = {"shown": len(hidden), "hidden": float(np.mean(hidden)), "beside": float(np.mean(beside))}
    return told


def scene(
    person: Portrait, px: int, random: np.random.Generator, size: tuple[int, int] = FRAMES[0]
) -> tuple[Picture, Box]:
    """A face of `px` height somewhere in a soft picture of `size`, and its box there."""
    whole, (left, top, right, bottom) = person
    high, wide = bottom - top, right - left
    cut = max(0, top - high // 2), min(whole.shape[0], bottom + high // 2)
    part = whole[cut[0] : cut[1], max(0, left - wide // 2) : right + wide // 2]
    box = np.array([left - max(0, left - wide // 2), top - cut[0], right - max(0, left - wide // 2), bottom - cut[0]])
    scale = px / high
    head = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    box = (box * scale).round().astype(int)
    if random.integers(2):
        head = head[:, ::-1]
        box[[0, 2]] = head.shape[1] - box[[2, 0]]
    head = (255 * (head / 255) ** random.uniform(0.6, 1.7)).astype(np.float32)
    picture = cv2.resize(random.integers(40, 215, (6, 9, 3)).astype(np.uint8), size, interpolation=cv2.INTER_CUBIC)
    y = int(random.integers(0, max(1, size[1] - head.shape[0])))
    x = int(random.integers(0, max(1, size[0] - head.shape[1])))
    high, wide = min(size[1] - y, head.shape[0]), min(size[0] - x, head.shape[1])
    picture[y : y + high, x : x + wide] = head[:high, :wide]
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    shown = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    face = x + int(box[0]), y + int(box[1]), x + int(box[2]), min(size[1], y + int(box[3]))
    return np.ascontiguousarray(shown), face


def print_faces(told: dict[str, dict[str, Any]], size: tuple[int, int]) -> None:
    print(f"\nfaces in {size[0]}x{size[1]}\n{'face':<10}{'shown':>7}{'hidden':>9}{'filled beside it':>18}")
    for high, figures in told.items():
        print(f"{high:<10}{figures['shown']:>7}{figures['hidden']:>9.1%}{figures['beside']:>18.1%}")
