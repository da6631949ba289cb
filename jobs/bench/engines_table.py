"""The README's table of engines: one row of it, what stands under it, and how it gets into the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from model.experts.blocks import SESSION_BYTES

MARKS = ("<!-- engines: made by python -m jobs.bench.engines -->", "<!-- /engines -->")
HEADER = ("engine", "checkpoint", "precision", "runs here", "same answers", "F1", "text", "weights", "a window")
RESOLVED = 100  # events: with fewer, one of them is more than a point of F1
FP8_PUBLISHED = "under 0.8%"  # said of the published FP8 checkpoints, whose blocks and scales are stored the same way


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `why`: what keeps it from running here, "" where it ran."""

    engine: str
    checkpoint: str
    precision: str
    why: str = ""
    same: int | None = None
    windows: int = 0
    f1: float | None = None
    text: float | None = None
    weights_mib: float | None = None
    window_s: float | None = None
    sessions_mib: float = 0.0  # of the weights: what ONNX Runtime keeps for each expert

    def cells(self) -> list[str]:
        if self.why:
            why = shorten(self.why, 240, placeholder=" …")  # one line, whatever a server said
            return [self.engine, self.checkpoint, self.precision, f"not run here: {why}", *"-----"]
        return [
            self.engine,
            self.checkpoint,
            self.precision,
            "yes",
            "-" if self.same is None else f"{self.same} of {self.windows}",
            "-" if self.f1 is None else f"{self.f1:.2f}",
            "-" if self.text is None else f"{self.text:.2f}",
            "-" if self.weights_mib is None else f"{self.weights_mib:.1f} MiB",
            "-" if self.window_s is None else f"{self.window_s:.2f} s",
        ]


def as_table(rows: Sequence[Row]) -> str:
    lines = [HEADER, ("---",) * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def notes(rows: Sequence[Row], events: int) -> str:
    """What stands under the table: the cost of FP8 beside what is published of it, and what int4's weights hold."""
    ours = {row.precision: row for row in rows if row.engine == "secondsight" and row.f1 is not None}
    lines = []
    if events < RESOLVED and ours:
        windows = next(iter(ours.values())).windows
        lines.append(
            f"{windows} windows with {events} events show which answers are equal, and speed. What a precision costs "
            f"they do not show: each event is {100 / max(1, events):.1f} points of F1."
        )
    elif (stored := ours.get("FP8 as stored")) and (before := ours.get("bf16")) and (exact := ours.get("float32")):
        lines.append(
            f"Stored in FP8 the bundled checkpoint has F1 {_of(stored.f1)} and text {_of(stored.text)}, beside "
            f"{_of(before.f1)} and {_of(before.text)} in bf16, {_of(exact.f1)} and {_of(exact.text)} in float32, on "
            f"{stored.windows} windows with {events} events, each of them {100 / max(1, events):.1f} points; the "
            f"change published for FP8 checkpoints is {FP8_PUBLISHED}."
        )
    if (small := ours.get("int4")) and small.sessions_mib:
        lines.append(
            f"Of int4's weights, {small.sessions_mib:.1f} MiB are what ONNX Runtime keeps for each expert "
            f"({SESSION_BYTES >> 10} KiB): most of it for experts as small as these, little for published ones."
        )
    return "\n".join(lines)


def _of(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def write_between(path: Path, table: str) -> None:
    """Put the table between the marks of a file. Raises SystemExit where it has none."""
    text = path.read_text()
    before, first, rest = text.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not first or not last:
        raise SystemExit(f"{path}: holds no {MARKS[0]} with {MARKS[1]} after it")
    path.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")
