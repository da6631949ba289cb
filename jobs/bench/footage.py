"""Seeded footage with known truth for the signals benchmark: natural-like scenes, edits, distractors and captions.

Scenes follow the dead-leaves model (overlapping discs with power-law radii: Lee, Mumford and Huang, "Occlusion models
for natural images", IJCV 2001), whose statistics are close to those of photographs, under a moving camera, with moving
objects and sensor noise. Clips are encoded with H.264, so that detectors meet real coding artefacts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

#: A drawing function returns this to show the frame before it again, noise and all.
FREEZE: Picture = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Truth:
    """One thing that is true of a clip. `detail`: a caption's text, a shot's pace."""

    kind: str
    start_s: float
    end_s: float
    detail: str = ""
    size_px: int = 0
    ground: str = ""


@dataclass
class Clip:
    """A clip before encoding: `pictures()` renders it frame by frame; `truth` is exact to the frame."""

    name: str
    width: int
    height: int
    rate: Fraction
    seed: int
    noise: float = 3.0  # standard deviation of the grain
    frames: int = 0
    parts: list[tuple[int, int, Callable[[int], Picture]]] = field(default_factory=list)
    overlays: list[Callable[[int, Picture], Picture]] = field(default_factory=list)
    truth: list[Truth] = field(default_factory=list)

    def count(self, seconds: float) -> int:
        """Frames in `seconds`, one at least."""
        return max(1, round(float(seconds * self.rate)))

    def add(self, kind: str, first: int, end: int, *details: Any) -> None:
        """State that `kind` holds on frames [first, end)."""
        self.truth.append(Truth(kind, float(first / self.rate), float(end / self.rate), *details))

    def append(self, frames: int, draw: Callable[[int], Picture]) -> None:
        """`draw(i)` gives the i-th of the next `frames` frames."""
        self.parts.append((self.frames, self.frames + frames, draw))
        self.frames += frames

    def pictures(self) -> Iterator[Picture]:
        rng = np.random.default_rng(self.seed)
        # Noise fields are drawn once and rolled: fresh Gaussian noise per frame would cost more than all else.
        fields = [rng.normal(0, self.noise, (self.height, self.width, 1)).astype(np.float32) for _ in range(4)]
        last = FREEZE
        for first, end, draw in self.parts:
            for i in range(first, end):
                picture = draw(i - first)
                if picture is not FREEZE:
                    for overlay in self.overlays:
                        picture = overlay(i, picture)
                    shift = (int(rng.integers(self.height)), int(rng.integers(self.width)))
                    grain = np.roll(fields[int(rng.integers(4))], shift, axis=(0, 1))
                    last = np.clip(picture + grain, 0, 255).astype(np.uint8)
                yield last


def encode(clip: Clip, path: Path) -> None:
    """Write `clip` as H.264 in MP4, as a player's upload would be (CRF 23, one thread)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=clip.rate)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "23", "threads": "1"}
        for picture in clip.pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


# -- scenes ------------------------------------------------------------------------------------------------------------


def dead_leaves(rng: np.random.Generator, width: int, height: int) -> Picture:
    """A canvas of discs over discs, muted in colour as most footage is, with shading and fine grain."""
    hues = (rng.normal(rng.choice([14, 22, 100, 110, 60]), 12, 10) % 180).astype(np.uint8)
    tones = np.stack([hues, rng.integers(5, 110, 10), rng.integers(20, 240, 10)], axis=-1).astype(np.uint8)
    palette = cv2.cvtColor(tones[None], cv2.COLOR_HSV2RGB)[0].astype(np.float64)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = palette[0]
    radii = np.sort(np.minimum(height / 3, 4 * (1 - rng.random(900)) ** -0.65))[::-1]
    for radius in radii.astype(int):
        colour = palette[rng.integers(10)] + rng.normal(0, 10, 3)
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(radius), max(2, int(radius * rng.uniform(0.25, 1))))
        ink = tuple(float(np.clip(c, 0, 255)) for c in colour)
        cv2.ellipse(picture, centre, axes, rng.uniform(0, 180), 0, 360, ink, -1, cv2.LINE_AA)
    shade = cv2.resize(rng.normal(0, 1, (6, 8)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 1.5)
    return np.clip(picture + (22 * shade + 14 * grain)[..., None], 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Pace:
    """How a shot moves: camera in picture widths per second, its shake in picture widths, things and their swing."""

    camera: float
    shake: float
    things: int
    swing: float


#: still: a tripod, one thing barely moves; low: a tripod, things move; moderate: a hand, a slow pan; high: whip pans.
PACES = {
    "still": Pace(0.0, 0.0, 1, 0.015),
    "low": Pace(0.0, 0.0, 2, 0.08),
    "moderate": Pace(0.06, 0.004, 3, 0.15),
    "high": Pace(0.75, 0.012, 4, 0.3),
}


class Scene:
    """One place seen by one camera."""

    def __init__(self, rng: np.random.Generator, clip: Clip, pace: str, canvas: Picture | None = None) -> None:
        self.width, self.height, self.pace, self.name = clip.width, clip.height, PACES[pace], pace
        self.canvas = dead_leaves(rng, clip.width * 2, clip.height * 2) if canvas is None else canvas
        angle = rng.uniform(0, 2 * np.pi)
        speed = self.pace.camera * rng.uniform(0.7, 1.4) * clip.width
        self.velocity = np.array([np.cos(angle), 0.4 * np.sin(angle)]) * speed
        self.zoom = float(rng.choice([0.0, 0.0, 0.06])) if pace == "moderate" else 0.0
        self.phase = rng.uniform(0, 2 * np.pi, 4)
        self.origin = rng.uniform(0.1, 0.9, 2) * (clip.width, clip.height)
        self.things = [
            (rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.16), rng.uniform(0, 6.28), rng.uniform(0.5, 1.5),
             np.clip(rng.integers(30, 200) + rng.integers(-30, 30, 3), 0, 255))
            for _ in range(self.pace.things)
        ]  # fmt: skip

    def at(self, seconds: float) -> Picture:
        """The picture `seconds` after the shot began."""
        p, t = self.phase, seconds
        sway = np.array(
            [np.sin(7.1 * t + p[0]) + 0.5 * np.sin(17 * t + p[1]), np.sin(6.3 * t + p[2]) + 0.5 * np.sin(19 * t + p[3])]
        )
        eye = self.origin + self.velocity * t + self.pace.shake * self.width * sway
        x, y = reflect(eye[0], self.width), reflect(eye[1], self.height)
        centre = np.array([x + self.width / 2, y + self.height / 2])
        scale = 1.0 / (1.0 + self.zoom * t)
        corner = centre - np.array([self.width, self.height]) * scale / 2
        matrix = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]])
        picture = cv2.warpAffine(
            self.canvas, matrix, (self.width, self.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip
        for place, radius, phase, tempo, colour in self.things:
            turn = phase + 2 * tempo * t
            spot = (place + self.pace.swing * np.array([np.cos(turn), np.sin(1.3 * turn)])) * (self.width, self.height)
            middle, r = (int(spot[0] * 8), int(spot[1] * 8)), int(radius * self.height)
            cv2.circle(picture, middle, r * 8, [int(c) for c in colour], -1, cv2.LINE_AA, 3)
            cv2.circle(picture, middle, r * 5, [int(c) // 2 for c in colour], -1, cv2.LINE_AA, 3)
        return np.asarray(picture, np.uint8)


def reflect(value: float, span: float) -> float:
    """Triangle wave: a camera that pans to and fro over `span`."""
    value = value % (2 * span)
    return value if value <= span else 2 * span - value


# -- edits -------------------------------------------------------------------------------------------------------------


class Editor:
    """Joins shots by cuts, dissolves and fades, with black, blank and frozen stretches, and flashes as distractors."""

    def __init__(self, clip: Clip, rng: np.random.Generator) -> None:
        self.clip, self.rng = clip, rng
        self.place: Picture | None = None

    def run(self, seconds: float, paces: Sequence[str], endings: Sequence[str]) -> None:
        clip, rng = self.clip, self.rng
        scene, age = self.scene(str(rng.choice(paces))), 0.0
        while True:
            age = self.shot(scene, age)
            if clip.frames >= seconds * clip.rate:
                return
            follower = self.scene(str(rng.choice(paces)))
            scene, age = getattr(self, f"join_{rng.choice(endings)}")(scene, age, follower)

    def scene(self, pace: str) -> Scene:
        """Two shots in seven show the place of the one before from elsewhere, perhaps partly the same: hard cuts."""
        if self.place is None or self.rng.random() > 2 / 7:
            self.place = dead_leaves(self.rng, self.clip.width * 2, self.clip.height * 2)
        return Scene(self.rng, self.clip, pace, self.place)

    def shot(self, scene: Scene, age: float) -> float:
        clip, rng = self.clip, self.rng
        first, n = clip.frames, clip.count(rng.uniform(1.6, 6.0))
        rate = float(clip.rate)
        clip.append(n, lambda i: scene.at(age + i / rate))
        clip.add("shot", first, first + n, scene.name)
        if n > clip.count(2.4) and rng.random() < 0.25:
            flash(clip, first + clip.count(rng.uniform(1.0, 1.4)), clip.count(rng.uniform(0.04, 0.2)))
        return age + n / rate

    def join_cut(self, scene: Scene, age: float, follower: Scene) -> tuple[Scene, float]:
        self.clip.add("cut", self.clip.frames, self.clip.frames + 1)
        return follower, 0.0

    def join_dissolve(self, scene: Scene, age: float, follower: Scene) -> tuple[Scene, float]:
        clip, n, rate = self.clip, self.clip.count(self.rng.uniform(0.5, 1.8)), float(self.clip.rate)
        clip.add("dissolve", clip.frames, clip.frames + n)
        clip.append(n, lambda i: mix(scene.at(age + i / rate), follower.at(i / rate), (i + 1) / (n + 1)))
        return follower, n / rate

    def join_fade(self, scene: Scene, age: float, follower: Scene) -> tuple[Scene, float]:
        clip, rng, rate = self.clip, self.rng, float(self.clip.rate)
        level = int(rng.choice([0, 0, 255]))
        colour = np.full((clip.height, clip.width, 3), level, np.uint8)
        out, hold, back = (
            clip.count(rng.uniform(0.5, 1.5)),
            clip.count(rng.uniform(0, 0.8)),
            clip.count(rng.uniform(0.5, 1.5)),
        )
        clip.add("fade_out", clip.frames, clip.frames + out)
        clip.append(out, lambda i: mix(scene.at(age + i / rate), colour, (i + 1) / out))
        clip.add("blank" if level else "black", clip.frames, clip.frames + hold)
        clip.append(hold, lambda i: colour)
        clip.add("fade_in", clip.frames, clip.frames + back)
        clip.append(back, lambda i: mix(colour, follower.at(i / rate), i / back))
        return follower, back / rate

    def join_black(self, scene: Scene, age: float, follower: Scene) -> tuple[Scene, float]:
        return self.insert("black", (0, 0, 0), follower)

    def join_blank(self, scene: Scene, age: float, follower: Scene) -> tuple[Scene, float]:
        return self.insert("blank", cast(Sequence[int], self.rng.integers(40, 256, 3)), follower)

    def insert(self, kind: str, colour: Sequence[int], follower: Scene) -> tuple[Scene, float]:
        clip, n = self.clip, self.clip.count(self.rng.uniform(0.6, 3.0))
        picture = np.empty((clip.height, clip.width, 3), np.uint8)
        picture[:] = colour
        clip.add("cut", clip.frames, clip.frames + 1)
        clip.add(kind, clip.frames, clip.frames + n)
        clip.append(n, lambda i: picture)
        clip.add("cut", clip.frames, clip.frames + 1)
        return follower, 0.0

    def join_frozen(self, scene: Scene, age: float, follower: Scene) -> tuple[Scene, float]:
        clip, n = self.clip, self.clip.count(self.rng.uniform(2.5, 5.0))
        clip.add("frozen", clip.frames - 1, clip.frames + n)
        clip.append(n, lambda i: FREEZE)
        return self.join_cut(scene, age, follower) if self.rng.random() < 0.5 else (scene, age)


def mix(a: Picture, b: Picture, share: float) -> Picture:
    return np.asarray(cv2.addWeighted(a, 1 - share, b, share, 0), np.uint8)


def flash(clip: Clip, first: int, frames: int) -> None:
    """A photographer's flash: much lighter, then fading away within `frames`. Not an event: a distractor."""

    def overlay(i: int, picture: Picture) -> Picture:
        if not first <= i < first + frames:
            return picture
        gain = 1 - (i - first) / frames
        return np.clip(picture.astype(np.float32) * (1 + 1.5 * gain) + 90 * gain, 0, 255).astype(np.uint8)

    clip.overlays.append(overlay)


def edited_clip(seed: int, seconds: float = 40.0, size: tuple[int, int] = (640, 360), rate: int = 25) -> Clip:
    """About `seconds` of edited footage."""
    rng = np.random.default_rng(seed)
    clip = Clip(f"edited-{seed}", *size, Fraction(rate), seed, noise=float(rng.choice([1.5, 3, 5])))
    endings = ("cut", "cut", "cut", "cut", "dissolve", "dissolve", "fade", "black", "blank", "frozen")
    Editor(clip, rng).run(seconds, ("still", "low", "low", "moderate", "moderate", "high"), endings)
    return clip
