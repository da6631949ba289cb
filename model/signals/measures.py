"""What is measured once per window, on small copies of the frames, and shared by every analyser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frames import Frames

#: Long side in px of the small copies. Area averaging down to it removes grain and coding noise, and a talking mouth
#: in a 16:9 picture is still several pixels wide.
SMALL_SIDE = 160
#: Width and height in px of the thumbnails that transitions are fitted on, for every aspect ratio.
THUMB = (32, 18)
#: Width and height in px of the pictures that block matching runs on, for every aspect ratio.
MATCH = (80, 48)
#: Side in px of a matched block.
BLOCK = 16
#: A picture persists as far as its best matching blocks do: a pan shows half of them elsewhere, a cut none.
BEST_BLOCKS = 0.7  # quantile


@dataclass(frozen=True, eq=False)
class Measures:
    """Small copies of a window's frames and their times.

    `small` uint8 [T, h, w, 3] RGB, long side at most `SMALL_SIDE`; `luma` float32 [T, h, w] in 0..255 (BT.601 weights,
    as OpenCV's grey); `time_us`, `end_us` int64 [T] relative to the window's start.
    """

    small: npt.NDArray[np.uint8]
    luma: npt.NDArray[np.float32]
    time_us: npt.NDArray[np.int64]
    end_us: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_us)

    @cached_property
    def thumbs(self) -> npt.NDArray[np.float32]:
        """float32 [T, 32 * 18 * 3]: what is left of a picture when its detail is gone."""
        shape = (len(self), THUMB[0] * THUMB[1] * 3)
        return (
            np.stack([cv2.resize(p, THUMB, interpolation=cv2.INTER_AREA) for p in self.small])
            .reshape(shape)
            .astype(np.float32)
        )

    @cached_property
    def contrast(self) -> npt.NDArray[np.float32]:
        """float32 [T]: standard deviation of the thumbnail's luma."""
        luma = self.thumbs.reshape(len(self), -1, 3) @ np.array([0.299, 0.587, 0.114], np.float32)
        return luma.std(axis=1)

    @cached_property
    def brightness(self) -> npt.NDArray[np.float32]:
        """float32 [T]: mean luma, 0..255."""
        return self.luma.mean(axis=(1, 2))

    @cached_property
    def change(self) -> npt.NDArray[np.float32]:
        """float32 [T]: mean absolute difference of luma to the frame before, 0..255; 0 for the first."""
        steps = [float(cv2.absdiff(a, b).mean()) for a, b in zip(self.luma[:-1], self.luma[1:], strict=True)]
        return np.array([0.0, *steps], np.float32)

    @cached_property
    def match(self) -> npt.NDArray[np.uint8]:
        """uint8 [T, 48, 80, 3]: what block matching runs on."""
        return np.stack([cv2.resize(p, MATCH, interpolation=cv2.INTER_AREA) for p in self.small])

    @cached_property
    def histogram(self) -> npt.NDArray[np.float32]:
        """float32 [T, 16 + 256]: of luma in 16 bins and of Cr x Cb in 16 x 16 bins, smoothed, each summing to 1."""
        rows = []
        for picture in self.small:
            ycc = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
            luma = cv2.GaussianBlur(cv2.calcHist([ycc], [0], None, [32], [0, 256]), (1, 5), 0)
            chroma = cv2.GaussianBlur(cv2.calcHist([ycc], [1, 2], None, [32, 32], [48, 208, 48, 208]), (5, 5), 0)
            rows.append(np.concatenate([luma.ravel() / luma.sum(), chroma.ravel() / max(chroma.sum(), 1e-6)]))
        return np.stack(rows).astype(np.float32)

    def histogram_distance(self, i: int, j: int) -> float:
        """0 (same colours in the same amounts) .. 1: one less the mean intersection of luma and of chroma."""
        return 1.0 - float(np.minimum(self.histogram[i], self.histogram[j]).sum()) / 2

    def correlation(self, i: int, j: int) -> float:
        """-1..1: of two thumbnails, all channels together; 0 where one is plain."""
        a, b = (self.thumbs[k] - self.thumbs[k].mean() for k in (i, j))
        both = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / both if both > 0 else 0.0

    def thumb_distance(self, i: int, j: int) -> float:
        """Mean absolute difference of two thumbnails, 0..255."""
        return float(np.abs(self.thumbs[i] - self.thumbs[j]).mean())

    def persistence(self, i: int, j: int) -> float:
        """0..1: how much of one picture can be found again, moved by up to a third of the picture, in the other.

        The better of both directions: what a pan or a zoom brings in is new; what it shows again decides. NaN where
        neither picture has texture.
        """
        there = found_again(self.match[i], self.match[j])
        if there > 0.9:
            return there
        back = found_again(self.match[j], self.match[i])
        return float(np.fmax(there, back))


def found_again(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """The `BEST_BLOCKS` quantile over the textured blocks of `a` of their best normalised correlation with what `b`
    shows around their place; NaN without such blocks."""
    reach_x, reach_y = MATCH[0] // 3, MATCH[1] // 3
    best = []
    for y in range(0, MATCH[1] - BLOCK + 1, BLOCK):
        for x in range(0, MATCH[0] - BLOCK + 1, BLOCK):
            block = a[y : y + BLOCK, x : x + BLOCK]
            if block.std(axis=(0, 1)).max() < 6.0:
                continue
            around = b[max(0, y - reach_y) : y + BLOCK + reach_y, max(0, x - reach_x) : x + BLOCK + reach_x]
            scores = cv2.matchTemplate(around, block, cv2.TM_CCOEFF_NORMED)
            best.append(max(0.0, float(scores.max())))
    return float(np.quantile(best, BEST_BLOCKS)) if best else float("nan")


def measure(frames: Frames, start_us: int) -> Measures:
    """Measures of `frames` (at least one), with times relative to `start_us`."""
    _, height, width, _ = frames.pixels.shape
    scale = min(1.0, SMALL_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in frames.pixels])
    luma = np.stack([cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in small]).astype(np.float32)
    return Measures(small, luma, frames.time_us - start_us, frames.end_us - start_us)
