"""Reading a picture's text with PP-OCR through RapidOCR, whose wheel carries the models."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError

#: Pictures with a side below this hold no line of text that PP-OCR could read (it needs about 8 px of height).
LEAST_SIDE = 16


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text: `box` is (left, top, right, bottom) as shares of the picture's width and height."""

    text: str
    score: float
    box: tuple[float, float, float, float]


class TextReader:
    """PP-OCR detection and recognition on one picture at a time, on `threads` threads."""

    def __init__(self, threads: int = 1, least_score: float = 0.5) -> None:
        rapidocr = importlib.import_module("rapidocr")
        self.reads = 0
        self._ocr = rapidocr.RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,  # turned-over lines: rare in video, and the test costs every line
                "Global.text_score": least_score,
                "Det.limit_type": "min",
                "Det.limit_side_len": 2 * LEAST_SIDE,  # read at the size given: the default enlarges to 736 px
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, picture: npt.NDArray[np.uint8]) -> list[Line]:
        """Lines of an RGB picture uint8 [H, W, 3], top to bottom."""
        height, width, _ = picture.shape
        if min(height, width) < LEAST_SIDE:
            return []
        self.reads += 1
        answer = self._ocr(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if answer.txts is None:
            return []
        lines = []
        for text, score, corners in zip(answer.txts, answer.scores, answer.boxes, strict=True):
            x, y = np.asarray(corners, float)[:, 0] / width, np.asarray(corners, float)[:, 1] / height
            box = tuple(float(np.clip(v, 0, 1)) for v in (x.min(), y.min(), x.max(), y.max()))
            lines.append(Line(" ".join(str(text).split()), float(score), box))  # type: ignore[arg-type]
        return lines


def reader_digest() -> str:
    """Digest (32 hex digits) of the model files and the version of the code around them. Loads neither.

    Raises ModelError where RapidOCR is not installed or came without its models.
    """
    found = importlib.util.find_spec("rapidocr")
    folder = Path(found.origin).parent / "models" if found and found.origin else None
    files = sorted(folder.glob("*.onnx")) if folder else []
    if not files:
        raise ModelError(
            "rapidocr and its models are not installed: pip install rapidocr, or turn text off (text=false)"
        )
    digest = hashlib.blake2b(importlib.metadata.version("rapidocr").encode(), digest_size=16)
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()
