"""The README's table of engines: what ran, what did not and why, and what FP8 costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from jobs.bench.engines_table import HEADER, MARKS, Row, as_table, notes, write_between

ROWS = [
    Row("secondsight", "bundled", "float32", "", 10, 10, 0.85, None, 17.1, 0.4),
    Row("secondsight", "bundled", "bf16", "", 9, 10, 0.84, 0.99, 8.5, 0.5),
    Row("secondsight", "bundled", "int4", "", 2, 10, 0.81, None, 34.5, 0.5, 27.5),
    Row("secondsight", "bundled", "FP8 as stored", "", 8, 10, 0.829, 1.0, 8.8, 0.4),
    Row("served: vllm", "-", "-", "no GPU"),
]


def test_every_row_has_every_column() -> None:
    lines = as_table(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS) and {line.count("|") for line in lines} == {len(HEADER) + 1}
    assert "| 9 of 10 | 0.84 | 0.99 | 8.5 MiB | 0.50 s |" in lines[3] and "not run here: no GPU" in lines[-1]


def test_what_fp8_costs_is_told_beside_what_is_published() -> None:
    told = notes(ROWS, 191)
    assert "has F1 0.829 and text 1.000, beside 0.840 and 0.990 in bf16, 0.850 and - in float32" in told
    assert "10 windows with 191 events, each of them 0.5 points" in told
    assert "under 0.8%" in told and "27.5 MiB" in told
    assert notes(ROWS[4:], 191) == notes(ROWS[4:], 29) == ""
    few = notes(ROWS, 29)
    assert "10 windows with 29 events" in few and "each event is 3.4 points" in few
    assert "0.8%" not in few and "FP8" not in few and "27.5 MiB" in few, "too few events to say what a precision costs"


def test_it_gets_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    write_between(page, "new")
    assert page.read_text() == f"before\n{MARKS[0]}\nnew\n{MARKS[1]}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="holds no"):
        write_between(page, "new")
    assert page.read_text() == "no marks"


def test_a_server_that_does_not_come_up_costs_its_own_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command as a whole: what was measured before it is written, and a server that was named is asked."""
    from jobs.bench import engines
    from jobs.bench.server_process import TransformersServer

    dies = ["sh", "-c", "echo Traceback; echo 'ValueError: a | b'; exit 1"]
    monkeypatch.setattr(TransformersServer, "command", lambda self: dies)
    monkeypatch.setattr(TransformersServer, "NEEDED", ())
    monkeypatch.setattr(engines, "show", lambda folder, quick: ({}, {}, SimpleNamespace(rules={})))
    monkeypatch.setattr(engines, "here", lambda *_: iter(ROWS[:1]))
    monkeypatch.setattr(engines, "_served", lambda specs, *_: (Row(f"asked: {spec}", "-", "-", "-") for spec in specs))
    page, told = tmp_path / "page.md", tmp_path / "told.json"
    page.write_text(f"{MARKS[0]}\n{MARKS[1]}\n")
    monkeypatch.setattr(sys, "argv", ["engines", "--write", str(page), "--json", str(told), "--served", "openai:other"])
    assert engines.main() == 0
    lines = page.read_text().splitlines()
    assert any("| 10 of 10 | 0.85 |" in line for line in lines)
    (own,) = (line for line in lines if "served: transformers" in line)
    assert r"not run here: it did not come up: ValueError: a \| b |" in own
    assert any(line.startswith("| asked: openai:other |") for line in lines)
    assert len(json.loads(told.read_text())["rows"]) > 3
