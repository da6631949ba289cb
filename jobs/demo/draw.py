"""Drawing the generated world: any time, at any size, without encoding anything.

Painted with anti-aliasing at the size asked for: a soft, drifting background; things of flat colour, a little lighter
above, with a shadow under them; words in the variable font that OpenCV carries.
"""

from __future__ import annotations

from math import ceil, floor, pi
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from jobs.demo.shapes import ANGLES, outline
from jobs.demo.world import COLOURS, Caption, Pose, Scene, World, pose

Picture = npt.NDArray[np.uint8]
_Overlay = tuple[int, int, npt.NDArray[np.float32], npt.NDArray[np.float32]]
FIELD = 40  # points along the short side of the background before it is enlarged

_TURN = np.arange(ANGLES) * 2 * pi / ANGLES
_DIRECTIONS = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)


class Painter:
    """Draws one world at one size in pixels; its aspect should be the world's. Not thread-safe."""

    def __init__(self, world: World, width: int, height: int) -> None:
        self.world, self.width, self.height = world, width, height
        self.scale = min(width / world.width, height / world.height)  # px per short side
        self._words: dict[Caption, _Overlay] = {}
        self._lit: tuple[Scene, Picture] | None = None  # the last scene's light

    def frame(self, time_us: int) -> Picture:
        """uint8 [height, width, 3], RGB: the world at a time of its video."""
        layers = self.world.layers(time_us)
        if not layers:
            return np.zeros((self.height, self.width, 3), np.uint8)
        (picture, share), *over = [(self.scene(s.scene, s.clock_us(time_us)), share) for s, share in layers]
        if over:
            return cast(Picture, cv2.addWeighted(picture, share, over[0][0], over[0][1], 0))
        return picture if share == 1.0 else cast(Picture, cv2.convertScaleAbs(picture, alpha=share))

    def scene(self, scene: Scene, clock_us: int) -> Picture:
        """The scene at a time of its own clock."""
        picture = self._background(scene, clock_us)
        for thing in scene.things:
            at = pose(thing, clock_us)
            if at is not None:
                self._thing(picture, at)
        for caption in scene.captions:
            if caption.start_us <= clock_us < caption.end_us:
                self._caption(picture, caption, clock_us, sum(scene.top + scene.bottom) > 6 * 140)
        return picture

    def _background(self, scene: Scene, clock_us: int) -> Picture:
        w, h = round(FIELD * self.world.width), round(FIELD * self.world.height)
        seconds = clock_us / 1e6
        lights = [(g.x, g.y, g.dx, g.dy, g.radius, g.light) for g in scene.glows]
        spread = np.array(lights, np.float32).reshape(-1, 6).T
        radius, edge = spread[4], 2 * spread[4]
        # They leave on one side and come in again on the other.
        x = (spread[0] + spread[2] * seconds + edge) % (self.world.width + 2 * edge) - edge
        y = (spread[1] + spread[3] * seconds + edge) % (self.world.height + 2 * edge) - edge
        columns = np.exp(-(((((np.arange(w, dtype=np.float32) + 0.5) / FIELD)[:, None] - x) / radius) ** 2))
        rows = np.exp(-(((((np.arange(h, dtype=np.float32) + 0.5) / FIELD)[:, None] - y) / radius) ** 2))
        glow = (rows * spread[5]) @ columns.T
        large = _rounded_bytes(cv2.resize(glow, (self.width, self.height), interpolation=cv2.INTER_CUBIC))
        return cast(Picture, cv2.add(self._light(scene), cv2.merge([large, large, large])))

    def _light(self, scene: Scene) -> Picture:
        if self._lit is None or self._lit[0] is not scene:
            down = np.linspace(0, 1, self.height, dtype=np.float32)[:, None, None]
            top, bottom = np.array(scene.top, np.float32), np.array(scene.bottom, np.float32)
            wide = np.broadcast_to(top + (bottom - top) * down, (self.height, self.width, 3))
            self._lit = (scene, _rounded_bytes(np.ascontiguousarray(wide)))
        return self._lit[1]

    def _thing(self, picture: Picture, at: Pose) -> None:
        before, after, share = at.shape
        radius = outline(before) if share == 0 else outline(before) * (1 - share) + outline(after) * share
        points = (_DIRECTIONS * radius[:, None] * at.size + (at.x, at.y)) * self.scale - 0.5
        first, second, share = at.colour
        colour = (1 - share) * np.array(COLOURS[first], np.float32) + share * np.array(COLOURS[second], np.float32)

        lift = 0.12 * at.size * self.scale  # how far the shadow falls, and how soft it is
        box = self._box(points, margin=3 * lift + 2)
        if box is None:
            return
        left, upper, right, lower = box
        part = picture[upper:lower, left:right]
        shadow = _mask(part.shape, points - (left, upper - lift))
        blur = 2 * ceil(1.2 * lift) + 1
        shadow = cast(Picture, cv2.blur(cv2.blur(shadow, (blur, blur)), (blur, blur)))
        cover = _mask(part.shape, points - (left, upper))

        heights = (np.arange(upper, lower, dtype=np.float32) - np.float32(at.y * self.scale)) / (at.size * self.scale)
        lit = np.clip(colour * (1 - 0.09 * heights)[:, None], 0, 255)[:, None, :]  # lighter above, darker below
        base = part * (1 - shadow.astype(np.float32) * np.float32(0.32 / 255))[..., None]
        share_of = cover.astype(np.float32)[..., None] / np.float32(255)
        part[:] = _rounded_bytes(base + (lit - base) * share_of)

    def _box(self, points: npt.NDArray[np.float64], margin: float) -> tuple[int, int, int, int] | None:
        (left, upper), (right, lower) = points.min(0) - margin, points.max(0) + margin
        box = (
            max(0, floor(left)),
            max(0, floor(upper)),
            min(self.width, ceil(right) + 1),
            min(self.height, ceil(lower) + 1),
        )
        return box if box[0] < box[2] and box[1] < box[3] else None

    def _caption(self, picture: Picture, caption: Caption, clock_us: int, on_light: bool) -> None:
        x, y, colour, cover = self._words.get(caption) or self._write(caption, on_light)
        self._words.setdefault(caption, (x, y, colour, cover))
        # Comes and goes softly, but is plainly there from its first frame to its last.
        age = min(clock_us - caption.start_us, caption.end_us - clock_us) / 250_000
        share = np.float32(min(1.0, 0.5 + 0.5 * age))
        part = picture[y : y + cover.shape[0], x : x + cover.shape[1]]
        part[:] = _rounded_bytes(part + (colour - part) * (cover * share))

    def _write(self, caption: Caption, on_light: bool) -> _Overlay:
        """Words as (x, y, colour float32 [h, w, 3], cover float32 [h, w, 1]), to be laid over the picture there."""
        font = cv2.FontFace("sans")
        wanted = (0.2 if caption.place == "title" else 0.15) * self.scale
        weight = 700 if caption.place == "title" else 600
        size = wanted
        while size > 4 and _text_width(font, caption.text, size, weight) > 0.86 * self.width:
            size *= 0.94
        width = _text_width(font, caption.text, size, weight)
        pad = size * 0.5
        box_w, box_h = ceil(width + 2 * pad), ceil(size * 1.3 + pad * 0.6)
        x = max(0, (self.width - box_w) // 2)
        y = (self.height - box_h) // 2 if caption.place == "title" else round(self.height - 0.07 * self.scale - box_h)
        box_w, box_h = min(box_w, self.width - x), min(box_h, self.height - y)

        ink = np.zeros((box_h, box_w, 3), np.uint8)
        baseline = (round(pad), round(box_h / 2 + size * 0.35))
        cv2.putText(ink, caption.text, baseline, (255, 255, 255), font, round(size), weight)
        letters = ink[..., :1].astype(np.float32) / 255
        panel = _mask((box_h, box_w), _round_corners(box_w, box_h, box_h * 0.28)).astype(np.float32)[..., None] / 255
        panel *= 0.0 if caption.place == "title" else 0.72
        cover = letters + panel * (1 - letters)
        paper, dark = np.array((255, 253, 248), np.float32), np.array((22, 24, 34), np.float32)
        if caption.place == "title" and on_light:
            paper = np.array((52, 48, 66), np.float32)
        colour = np.where(cover > 0, (paper * letters + dark * panel * (1 - letters)) / np.maximum(cover, 1e-6), 0)
        return x, y, colour.astype(np.float32), cover.astype(np.float32)


def _rounded_bytes(picture: npt.NDArray[Any]) -> Picture:
    return cast(Picture, cv2.convertScaleAbs(picture))  # saturates too, and is faster than rint, clip and astype


def _mask(shape: tuple[int, ...], points: npt.NDArray[np.float64]) -> Picture:
    """uint8 [h, w]: how much of each pixel lies in the polygon, corners to a sixteenth of a pixel."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def _round_corners(width: int, height: int, radius: float) -> npt.NDArray[np.float64]:
    """The outline of a rectangle with round corners."""
    quarter = np.linspace(0, pi / 2, 12)
    arc = np.stack([np.cos(quarter), np.sin(quarter)], 1) * radius
    right, lower = width - 1 - radius, height - 1 - radius
    turns = [(arc, (right, lower)), (arc[:, ::-1] * (-1, 1), (radius, lower))]
    turns += [(-arc, (radius, radius)), (arc[:, ::-1] * (1, -1), (right, radius))]
    return np.concatenate([np.add(turn, middle) for turn, middle in turns])


def _text_width(font: cv2.FontFace, text: str, size: float, weight: int) -> int:
    return int(cv2.getTextSize((0, 0), text, (0, 0), font, round(size), weight)[2])
