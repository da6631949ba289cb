"""Ground truth: what really happens in videos, in the layout of ActivityNet's JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.plan import SECOND_US

MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Truth:
    """What really happens. `text` "" where the ground truth gives none."""

    start_us: int
    end_us: int
    kind: str
    text: str = ""


def read_truth(path: str | Path, subset: str | None = None) -> dict[str, list[Truth]]:
    """Ground truth by the name of its video, from a file in the layout of ActivityNet's JSON
    (https://activity-net.org/download.html): `database`, by name: `annotations` of `segment` [s, s] and `label`;
    `text`, `start_us` and `end_us` are taken where they are there. `subset`: only videos of it ("validation").

    Raises UsageError naming the file and what is wrong with it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a ground-truth file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise UsageError(f'{path}: has no "database": ground truth must be in the layout of ActivityNet\'s JSON')
    found = {}
    for name, video in database.items():
        if subset is not None and isinstance(video, dict) and video.get("subset") != subset:
            continue
        annotations = video.get("annotations") if isinstance(video, dict) else None
        if not isinstance(annotations, list):
            raise UsageError(f'{path}: video {name!r} has no list of "annotations"')
        found[name] = [_truth(path, name, a) for a in annotations]
    if not found:
        raise UsageError(f"{path}: holds no video{'' if subset is None else f' of subset {subset!r}'}")
    return found


def _truth(path: Path, name: str, annotation: Any) -> Truth:
    try:
        start, end = (annotation.get(f"{edge}_us") for edge in ("start", "end"))
        if type(start) is not int or type(end) is not int:
            start, end = (_microseconds(s) for s in annotation["segment"])
        kind, text = annotation["label"], annotation.get("text", "")
        if not isinstance(kind, str) or not isinstance(text, str) or not 0 <= start <= end:
            raise ValueError
        return Truth(start, end, kind, text)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise UsageError(
            f'{path}: video {name!r}: annotation {json.dumps(annotation)[:120]} needs a "segment" of two times in '
            'seconds, the first not after the second, and a "label"'
        ) from None


def _microseconds(seconds: Any) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        raise ValueError
    return round(seconds * SECOND_US)
