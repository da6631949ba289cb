"""What finds the things that must not be seen: faces (dlib, YuNet), text (PP-OCR), QR and linear bar codes (OpenCV).

They are set to find too much rather than too little. Boxes are (left, top, right, bottom) in px.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.bars import whole
from pipeline.errors import UsageError

Picture = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]

#: Names the file of YuNet's weights: the wheel of OpenCV has the code of this detector and no weights.
FACE_MODEL = "SECONDSIGHT_FACE_MODEL"
_FACE_SCORE = 0.5
_FACE_SIDE = 480  # px of the short side that faces are looked for in: YuNet finds them from about 10 px on
_FRONTAL_SCORE = -0.2  # dlib's own is 0
_FRONTAL_SIDE = 720  # px of the short side: it finds faces from 80 px on
_TEXT = {"Det.limit_type": "min", "Det.limit_side_len": 736, "Det.thresh": 0.2, "Det.box_thresh": 0.3}
#: Of a line of text that takes more than this of both sides of a picture, the sharp parts are hidden.
_WHOLE = 0.8
#: Sharp is, with the short side at _SIDE px, where a channel changes within _NEAR px by _SHARE of its change within
#: _FAR px, and by _CONTRAST (less in pictures without grain). It goes on to where that share is _REST. Parts with fewer
#: sharp px than _AREA are grain and JPEG's blocks.
_SIDE, _NEAR, _FAR, _SHARE, _REST, _CONTRAST, _AREA = 224, 9, 33, 0.55, 0.4, (6, 10), 250
#: Sizes at which QR codes are looked for: enlarged, small ones are found that a reader can still read.
_CODE_SCALES = (1, 3)
#: And bar codes: the detector misses wide bars (3 px and more) and thin ones.
_BAR_SCALES = (1 / 3, 0.75, 2)


class Faces:
    """OpenCV's FaceDetectorYN with the weights at `path` (OpenCV Zoo: face_detection_yunet, MIT licence)."""

    def __init__(self, path: str) -> None:
        self._file = Path(path)
        if not self._file.is_file():
            raise UsageError(
                f"--redact faces=PATH takes the weights of OpenCV's face detector, and {str(self._file)!r} is no file: "
                f"get face_detection_yunet_2026may.onnx from OpenCV Zoo and name it, faces=PATH or {FACE_MODEL}=PATH"
            )
        try:
            self._net = cv2.FaceDetectorYN.create(str(self._file), "", (320, 320), _FACE_SCORE, 0.3, 5000)
            self(np.zeros((96, 128, 3), np.uint8))
            self(np.zeros((128, 96, 3), np.uint8))  # weights of one fixed size fail here
        except cv2.error as error:
            said = str(error.err or error).strip()[:160]
            raise UsageError(f"{self._file}: OpenCV cannot find faces with these weights: {said}") from error

    def identity(self) -> dict[str, Any]:
        """What makes its answers its own; the place of the file does not."""
        with self._file.open("rb") as file:
            weights = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return {"what": "faces", "opencv": cv2.__version__, "weights_hash": weights, "score": _FACE_SCORE}

    def __call__(self, picture: Picture) -> list[Box]:
        high, wide = picture.shape[:2]
        scale = max(1.0, _FACE_SIDE / min(high, wide))
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        self._net.setInputSize(size)
        _, found = self._net.detect(cv2.resize(picture[..., ::-1], size, interpolation=cv2.INTER_LINEAR))
        if found is None:
            return []
        return [
            _box(x / scale, y / scale, (x + w) / scale, (y + h) / scale, 0.15 * w / scale, 0.25 * h / scale)
            for x, y, w, h in np.asarray(found)[:, :4].tolist()
        ]


class FrontalFaces:
    """dlib's detector of faces seen from the front, whose weights are part of its code (Boost licence; histograms of
    gradients, Dalal and Triggs 2005). It misses profiles and covered faces."""

    def __init__(self) -> None:
        try:
            self._dlib = importlib.import_module("dlib")
        except ImportError:
            raise UsageError(
                "--redact faces needs a detector of faces: pip install 'secondsight[faces]' (dlib: faces from the "
                f"front), or the weights of OpenCV's YuNet, which finds more: faces=PATH or {FACE_MODEL}=PATH"
            ) from None
        self._find = self._dlib.get_frontal_face_detector()

    def identity(self) -> dict[str, Any]:
        return {"what": "faces", "dlib": self._dlib.__version__, "score": _FRONTAL_SCORE, "side": _FRONTAL_SIDE}

    def __call__(self, picture: Picture) -> list[Box]:
        high, wide = picture.shape[:2]
        scale = max(1.0, _FRONTAL_SIDE / min(high, wide))
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        large = np.ascontiguousarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR))
        found, _, _ = self._find.run(large, 0, _FRONTAL_SCORE)
        # Its box goes from the brows to the chin: forehead, hair and ears lie outside.
        return [
            _box(f.left() / scale, (f.top() - 0.35 * f.height()) / scale, f.right() / scale, f.bottom() / scale,
                 0.2 * f.width() / scale, 0.15 * f.height() / scale)
            for f in found
        ]  # fmt: skip


class Text:
    """The text detector of RapidOCR's PP-OCR models, which its wheel carries."""

    def __init__(self) -> None:
        rapidocr = importlib.import_module("rapidocr")
        self._models = sorted((Path(str(rapidocr.__file__)).parent / "models").glob("*det*.onnx"))
        params = {
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        self._ocr = rapidocr.RapidOCR(params=params | _TEXT)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=16)
        for model in self._models:
            digest.update(model.read_bytes())
        version = importlib.metadata.version("rapidocr")
        return {"what": "text", "rapidocr": version, "weights_hash": digest.hexdigest(), "settings": _TEXT}

    def __call__(self, picture: Picture) -> list[Box]:
        lines = self._lines(picture)
        found = [corners for corners in lines if not _whole(picture, corners)]
        if len(found) < len(lines):
            # Letters may fill a picture, and a soft background is often taken for one line: only letters have edges.
            found += _sharp_parts(picture)
        boxes = []
        for corners in found:
            (left, top), (right, bottom) = corners.min(0), corners.max(0)
            pad = 0.25 * min(right - left, bottom - top)
            boxes.append(_box(left, top, right, bottom, pad, pad))
        return boxes

    def _lines(self, picture: Picture) -> list[npt.NDArray[np.floating]]:
        """The corners [4, 2] of each line of text."""
        found = self._ocr(picture[..., ::-1], use_det=True, use_cls=False, use_rec=False)
        return [] if found.boxes is None else list(np.asarray(found.boxes, float))


class Codes:
    """OpenCV's detectors of QR codes and of linear bar codes (it reads EAN and UPC, and finds Code 128, 39 and 93, ITF,
    Codabar and DataBar too), which need no weights. They find no PDF417, DataMatrix, Aztec or Micro QR code."""

    def __init__(self) -> None:
        self._squares = cv2.QRCodeDetectorAruco().detectMulti
        self._bars = cv2.barcode.BarcodeDetector().detectMulti

    def identity(self) -> dict[str, Any]:
        return {"what": "codes", "opencv": cv2.__version__, "scales": _CODE_SCALES, "bar_scales": _BAR_SCALES}

    def __call__(self, picture: Picture) -> list[Box]:
        grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
        boxes = []
        for corners in _found(self._squares, grey, _CODE_SCALES):
            (left, top), (right, bottom) = corners.min(0), corners.max(0)
            boxes.append(_box(left, top, right, bottom, 0.1 * (right - left), 0.1 * (bottom - top)))
        for corners in _found(self._bars, grey, _BAR_SCALES):
            points = whole(grey, corners)
            (left, top), (right, bottom) = points.min(0), points.max(0)
            boxes.append(_box(left, top, right, bottom, 0, 0))
        return boxes


def _found(find: Callable[..., Any], grey: Picture, scales: Sequence[float]) -> Iterator[npt.NDArray[np.floating]]:
    """The corners [4, 2] of each find, in a picture of each of these sizes."""
    for scale in scales:
        size = max(1, round(scale * grey.shape[1])), max(1, round(scale * grey.shape[0]))
        how = cv2.INTER_CUBIC if scale >= 1 else cv2.INTER_AREA
        there, corners = find(cv2.resize(grey, size, interpolation=how))
        if there:
            yield from np.asarray(corners, float).reshape(-1, 4, 2) / scale


def _whole(picture: Picture, corners: npt.NDArray[np.floating]) -> bool:
    """Whether a find takes nearly the whole picture."""
    return bool((np.ptp(corners, axis=0) > _WHOLE * np.array(picture.shape[1::-1])).all())


def _sharp_parts(picture: Picture) -> list[npt.NDArray[np.floating]]:
    """Two corners [2, 2] of each part of a picture that has sharp edges: letters and things, no shades or blurred
    lights."""
    scale = _SIDE / min(picture.shape[:2])
    size = max(1, round(scale * picture.shape[1])), max(1, round(scale * picture.shape[0]))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    small = cv2.GaussianBlur(small, (0, 0), 1.5)
    near, far = (
        cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((width, width), np.uint8)) for width in (_NEAR, _FAR)
    )
    changed = near >= np.clip(4 * np.percentile(near, 25), *_CONTRAST)
    sharp = (changed & (near >= _SHARE * far)).any(axis=2)
    # Edges before lights change too little of what is around them, but go on from sharper ones.
    edges = (changed & (near >= _REST * far)).any(axis=2)
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(edges.astype(np.uint8))
    areas = np.bincount(parts[sharp], minlength=len(boxes))
    return [
        np.array([[left, top], [left + wide, top + high]]) / scale
        for (left, top, wide, high, _), area in zip(boxes.tolist(), areas, strict=True)
        if area >= _AREA
    ]


Detector = Faces | FrontalFaces | Text | Codes
_MADE: dict[str, Callable[[str | None], Detector]] = {
    "faces": lambda path: Faces(path) if path else FrontalFaces(),
    "text": lambda _: Text(),
    "codes": lambda _: Codes(),
}


def detector(spec: str) -> Detector:
    """The detector meant by "faces", "faces=PATH", "text" or "codes". Raises UsageError."""
    what, _, path = spec.partition("=")
    if what not in _MADE or (path and what != "faces"):
        raise UsageError(f"--redact {spec}: what can be hidden is {', '.join(_MADE)} (faces=PATH names its weights)")
    return _MADE[what](path or None)


def _box(left: float, top: float, right: float, bottom: float, pad_x: float, pad_y: float) -> Box:
    return (
        int(np.floor(left - max(2.0, pad_x))),
        int(np.floor(top - max(2.0, pad_y))),
        int(np.ceil(right + max(2.0, pad_x))),
        int(np.ceil(bottom + max(2.0, pad_y))),
    )
