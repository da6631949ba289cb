"""Captions with known text, place and time over the footage of the signals benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from jobs.bench.footage import Clip, Editor, Picture, Scene

ENGLISH = (
    "city council voted on monday to open a new bridge over north river after years of delay",
    "storm warning for coastal towns winds up to 90 km per hour expected before sunrise",
    "final score home team wins interview with doctor chief engineer market report shares fell",
    "oil price weather live from station exit only no parking chapter part",
)
CHINESE = (
    "新闻联播",
    "今日天气",
    "北京上海",
    "大雨红色预警",
    "记者现场报道",
    "经济增长",
    "国际消息",
    "体育比赛冠军",
    "教育医院",
    "交通安全",
    "城市中心公园",
    "学生老师",
)
WORDS = " ".join(ENGLISH).split()
#: Heights in px (of capitals and ascenders, in a picture 360 px high) and what is called easy to read.
SIZES = (8, 11, 14, 18, 24, 34)


@dataclass(frozen=True)
class Style:
    """How a caption is drawn: `ink` on a box, with an outline, or plain."""

    font: str
    weight: int
    ink: tuple[int, int, int]
    ground: str  # box, outline, plain


STYLES = (
    Style("sans", 600, (255, 255, 255), "outline"),
    Style("sans", 400, (255, 255, 255), "box"),
    Style("italic", 600, (255, 230, 60), "outline"),
    Style("sans", 800, (20, 20, 20), "box"),
    Style("uni", 500, (240, 240, 240), "outline"),
    Style("sans", 600, (200, 200, 200), "plain"),
)


def caption_layer(text: str, style: Style, size_px: int) -> tuple[Picture, npt.NDArray[np.float32]]:
    """(colours uint8 [h, w, 3], opacity float32 [h, w, 1]) of a line of text, cropped to what is drawn."""
    face = cast(Any, cv2).FontFace("uni" if not text.isascii() else style.font)
    canvas = np.zeros((size_px * 4, size_px * (len(text) + 4) * 2, 3), np.uint8)
    cv2.putText(canvas, text, (size_px, size_px * 2), (255, 255, 255), face, size_px, style.weight)
    rows, columns = np.nonzero(canvas[..., 0].any(1))[0], np.nonzero(canvas[..., 0].any(0))[0]
    pad = max(2, size_px // 4)
    canvas = canvas[max(0, rows[0] - pad) : rows[-1] + pad + 1, max(0, columns[0] - pad) : columns[-1] + pad + 1]
    cover = canvas[..., :1].astype(np.float32) / 255
    dark = (0, 0, 0) if sum(style.ink) > 300 else (235, 235, 235)
    colours = np.clip(cover * style.ink + (1 - cover) * dark, 0, 255).astype(np.uint8)
    if style.ground == "box":
        opacity = np.maximum(cover, 0.8)
    elif style.ground == "outline":
        width = max(1, size_px // 12)
        opacity = cv2.dilate(cover[..., 0], np.ones((2 * width + 1, 2 * width + 1), np.uint8))[..., None]
    else:
        colours, opacity = np.broadcast_to(np.array(style.ink, np.uint8), colours.shape), cover
    return colours, opacity.astype(np.float32)


def place_caption(
    clip: Clip, text: str, style: Style, size_px: int, first: int, frames: int, at: tuple[float, float], fade: int = 0
) -> bool:
    """Show `text` on frames [first, first + frames), its left top corner at `at` (shares of what room it leaves), with
    `fade` frames of fading in and out. False where it does not fit."""
    colours, opacity = caption_layer(text, style, size_px)
    height, width = opacity.shape[:2]
    if height >= clip.height or width >= clip.width:
        return False
    x, y = int(at[0] * (clip.width - width)), int(at[1] * (clip.height - height))

    def overlay(i: int, picture: Picture) -> Picture:
        if not first <= i < first + frames:
            return picture
        strength = min(1.0, (i - first + 1) / (fade + 1), (first + frames - i) / (fade + 1))
        cover = opacity * strength
        picture = picture.copy()
        under = picture[y : y + height, x : x + width]
        picture[y : y + height, x : x + width] = (under * (1 - cover) + colours * cover).astype(np.uint8)
        return picture

    clip.overlays.append(overlay)
    clip.add("text", first, first + frames, text, size_px, style.ground)
    return True


def captioned_clip(
    seed: int, seconds: float = 30.0, size: tuple[int, int] = (640, 360), rate: int = 25, sizes: Sequence[int] = SIZES
) -> Clip:
    """Shots with captions of several sizes, styles and languages that follow each other at the foot and the head."""
    rng = np.random.default_rng(seed)
    clip = Clip(f"captioned-{seed}", *size, Fraction(rate), seed, noise=float(rng.choice([1.5, 3])))
    Editor(clip, rng).run(seconds, ("still", "low", "moderate", "moderate", "high"), ("cut",))
    for row in (0.06, 0.92):
        at = clip.count(rng.uniform(0.2, 1.5))
        while at < clip.frames - clip.count(1):
            chinese = rng.random() < 0.3
            words = rng.choice(CHINESE, 1) if chinese else rng.choice(WORDS, int(rng.integers(2, 6)))
            text = "".join(words) if chinese else " ".join(words)
            if not chinese and rng.random() < 0.5:
                text = text.upper() if rng.random() < 0.5 else text.capitalize()
            n = min(clip.count(rng.uniform(0.9, 4.0)), clip.frames - at)
            where = (float(rng.uniform(0, 1)), row + float(rng.uniform(-0.03, 0.03)))
            style = STYLES[int(rng.integers(len(STYLES)))]
            px = int(rng.choice(sizes)) * size[1] // 360
            place_caption(clip, text, style, max(px, 11) if chinese else px, at, n, where, int(rng.choice([0, 0, 4])))
            at += n + (0 if rng.random() < 0.3 else clip.count(rng.uniform(0.2, 2.0)))
    return clip


def clock_clip(seed: int, seconds: int = 12, size: tuple[int, int] = (640, 360), rate: int = 25) -> Clip:
    """A still shot with a running clock in a corner: the smallest change of text, every second."""
    rng = np.random.default_rng(seed)
    clip = Clip(f"clock-{seed}", *size, Fraction(rate), seed, noise=1.5)
    scene = Scene(rng, clip, "still")
    clip.append(seconds * rate, scene.at)
    start = int(rng.integers(3600, 80_000))
    for i in range(seconds):
        now = start + i
        text = f"{now // 3600:02d}:{now // 60 % 60:02d}:{now % 60:02d}"
        place_caption(clip, text, STYLES[1], 18, i * rate, rate, (0.95, 0.05))
    return clip
