"""Letters that fill a picture are hidden; soft backgrounds, which PP-OCR takes for one line of text, are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.detectors import Text
from pipeline.redact import Redactor, redactor

SOFT = {
    "shades": lambda x, y, _: np.stack([30 + 35 * y, 35 + 22 * y, 70 + 45 * y], -1),
    "across": lambda x, y, _: np.stack([30 + 150 * x, 60 + 60 * x, 90 - 40 * x], -1),
    "vignette": lambda x, y, _: np.array([180, 150, 120]) * (1 - 1.5 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None],
    "defocus": lambda x, y, random: cv2.resize(random.uniform(40, 215, (6, 9, 3)), x.shape[::-1], interpolation=2),
    "lights": lambda x, y, random: (
        30 + sum(60 * np.exp(-150 * ((x - a) ** 2 + (y - b) ** 2)) for a, b in random.uniform(0, 1, (6, 2)))[..., None]
    ).repeat(3, axis=2),
}


def soft(kind: str, high: int = 224, wide: int = 398, grain: float = 0.0) -> np.ndarray:
    """A picture without any edge, as JPEG gives it where it has grain."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:high, :wide]
    picture = SOFT[kind](x / wide, y / high, random) + random.normal(0, grain, (high, wide, 1))
    picture = picture.clip(0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1) if grain else picture


def letters(ground: np.ndarray, words: str, px: int, ink: object, blur: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Words in the middle of a picture, and where their ink is."""
    from PIL import Image, ImageDraw, ImageFont

    mask = Image.new("L", ground.shape[1::-1])
    middle = tuple(side / 2 for side in mask.size)
    ImageDraw.Draw(mask).text(middle, words, font=ImageFont.load_default(px), fill=255, anchor="mm")
    share = np.asarray(mask, float)[..., None] / 255
    share = cv2.GaussianBlur(share, (0, 0), blur)[..., None] if blur else share
    return np.rint(ground * (1 - share) + np.array(ink) * share).astype(np.uint8), share[..., 0] > 0.5


def test_letters_that_fill_a_picture_are_hidden_and_soft_backgrounds_are_not(hider: Redactor) -> None:
    """PP-OCR takes all of these for one line of text that fills the picture, and is rather sure."""
    assert hider.boxes(soft("shades", 432, 768)) == []
    for words, px in (("42", 240), ("GO", 260)):
        picture, ink = letters(np.full((224, 398, 3), (40, 60, 90), np.uint8), words, px, 255)
        after = hider.picture(picture)
        assert (after[ink] < 200).all(), words


@pytest.fixture(scope="module")
def hider() -> Redactor:
    return redactor(("text",))


def area_of(boxes: list[tuple[int, int, int, int]], like: np.ndarray) -> np.ndarray:
    area = np.zeros(like.shape[:2], bool)
    for left, top, right, bottom in boxes:
        area[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return area


@pytest.fixture
def taken_whole(hider: Redactor, monkeypatch: pytest.MonkeyPatch) -> Redactor:
    """One whose text detector takes each picture whole, and finds a caption in its corner besides."""

    def lines(self: Text, picture: np.ndarray) -> list[np.ndarray]:
        high, wide = picture.shape[:2]
        return [np.array([[0, 0], [wide, 0], [wide, high], [0, high]]), np.array([[0, 0], [8, 0], [8, 8], [0, 8]])]

    monkeypatch.setattr(Text, "_lines", lines)
    return hider


@pytest.mark.parametrize("kind", SOFT)
def test_of_a_find_as_large_as_the_picture_only_what_is_sharp_is_hidden(taken_whole: Redactor, kind: str) -> None:
    caption = (-2, -2, 10, 10)
    for high, wide, grain in ((224, 398, 0), (224, 398, 4), (360, 640, 3), (224, 126, 0)):
        ground = soft(kind, high, wide, grain)
        boxes = taken_whole.boxes(ground)
        assert boxes[0] == caption, "other finds stay"
        assert area_of(boxes[1:], ground).mean() <= 0.02 * bool(grain), "but for the edge of some of JPEG's blocks"
    for words, px, high, wide in (
        ("42", 240, 224, 398),
        ("GO", 260, 224, 398),
        ("MAX", 300, 360, 640),
        ("A", 150, 224, 126),
    ):
        for how, blur in ((1.8, 0), (0.5, 3)):
            ground = soft(kind, high, wide)
            picture, ink = letters(ground, words, px, (ground.mean((0, 1)) * how).clip(0, 255), blur)
            assert area_of(taken_whole.boxes(picture), ink)[ink].mean() > 0.99, (words, how)


@pytest.mark.parametrize(("contrast", "blur"), [(7, 0), (9, 1), (20, 4), (120, 6)])
def test_faint_and_blurred_letters_that_fill_a_picture_are_hidden(
    taken_whole: Redactor, contrast: int, blur: float
) -> None:
    ground = np.full((224, 398, 3), (40, 60, 90), np.uint8)
    for words in ("GO", "42", "7"):
        picture, ink = letters(ground, words, 200, ground[0, 0] + np.uint8(contrast), blur)
        hidden = area_of(taken_whole.boxes(picture), ink)
        assert hidden[ink].all() and hidden.mean() < 0.99


def test_tiny_pictures_that_are_taken_whole(taken_whole: Redactor) -> None:
    for shape in ((1, 1, 3), (41, 1, 3), (2, 7, 3)):
        assert set(taken_whole.boxes(np.zeros(shape, np.uint8))) <= {(-2, -2, 10, 10)}
