"""Rows as the index of words keeps them: what the standard library's JSON makes of them, whatever they hold."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from pipeline.search.rows import KEPT, packed, unpacked

TEXTS = ["a", "é红\u2028", '"\\\n\t\x00\x1f', "😀", ""]


def columns(count: int) -> dict[str, list[Any]]:
    draw = random.Random(1)
    made: dict[str, list[Any]] = {name: [draw.choice(TEXTS) for _ in range(count)] for name in KEPT}
    for name in ("start_us", "end_us", "window_first", "window_last"):
        made[name] = [draw.randrange(-(2**62), 2**62) for _ in range(count)]
    made["confidence"] = [draw.choice([0.1, 1.0, 1e-7, 0.8999999761581421]) for _ in range(count)]
    made["evidence_us"] = [[draw.randrange(10**12) for _ in range(draw.randrange(4))] for _ in range(count)]
    return made


@pytest.mark.parametrize("odd", [{}, {"text": None, "start_us": None, "confidence": None, "evidence_us": [None, 1]}])
def test_rows_are_those_of_json(odd: dict[str, Any]) -> None:
    made = columns(200)
    for name, value in odd.items():
        made[name][7] = value
    for i, row in enumerate(packed(made)):
        wanted = [made[name][i] for name in KEPT]
        assert json.loads(row) == json.loads(json.dumps(wanted))
        assert unpacked(row) == dict(zip(KEPT, wanted, strict=True))
