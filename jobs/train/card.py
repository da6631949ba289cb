"""`python -m jobs.train.card FOLDER [--scores FILE ...]`: the model card of a training run's checkpoint.

FOLDER is that of `python -m jobs.train`, and may hold a `notes.md` to put at the end of the card; each FILE comes from
`python -m jobs.bench.truth --json FILE`, one for each precision that was measured. Writes `checkpoint/README.md` in
FOLDER.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from jobs.train.state import described_run

ROWS = 24  # of the curve, at most
_NOTES = "notes.md"
_CARD = """\
# A small Qwen3-VL mixture of experts for the generated world

It watches the videos of `secondsight demo` and writes down what happens in them. It knows nothing else: on other
footage its answers have the right form and no meaning.

{millions:.1f} M weights in {dtype}; {layers} layers of {experts} experts, {top} of them for each token. Trained by
`python -m jobs.train`: {looks:,} steps in which the vision tower learned alone from single scenes, then {steps:,} steps
of {batch} windows, all drawn for their step. Prompt: `world.toml`.

## Scores

Of videos from seeds that training never saw, by the whole job (`python -m jobs.bench.truth`).

{scores}

## Curve

`hints`, `times`: losses of the hints about what pairs of frames show, and when it began and ended. `glances`, `parts`:
about the parts of a picture, in single scenes and in windows. `right`: share of answer tokens (without times) that are
right given those before them. `off`: median error of a time, s. `busiest`: load of the busiest expert over the mean of
its layer, in the worst layer; 1 is even.

| step | loss | hints | times | glances | parts | right | off | busiest |
|---|---|---|---|---|---|---|---|---|
{curve}

## Settings

{settings}{notes}
"""


def card(folder: Path, scores: Sequence[Mapping[str, Any]]) -> str:
    """The card as Markdown."""
    steps, settings = described_run(folder)
    with safe_open(folder / "checkpoint" / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    curve = [line for _, line in sorted({line["step"]: line for line in lines}.items())]  # done again: counts once
    text = config["text_config"]
    weights = sum(_product(shape) for shape in shapes)
    columns = ("step", "loss", "hint", "when", "glance", "cell", "right", "off_s", "busiest")
    rows = [f"| {' | '.join(str(line.get(name, '')) for name in columns)} |" for line in _thinned(curve)]
    return _CARD.format(
        millions=weights / 1e6,
        dtype=config["dtype"],
        layers=text["num_hidden_layers"],
        experts=text.get("num_experts", text.get("num_local_experts")),  # as hub checkpoints and transformers 5 say it
        top=text["num_experts_per_tok"],
        looks=settings["look_steps"],
        steps=max(0, steps - settings["look_steps"]),
        batch=settings["batch"],
        scores="\n".join(_scores(scores) if scores else ["Not measured yet."]),
        curve="\n".join(rows),
        notes=f"\n\n{(folder / _NOTES).read_text().strip()}" if (folder / _NOTES).exists() else "",
        settings="\n".join(f"- {name}: {value}" for name, value in sorted(settings.items()) if name != "prompt"),
    )


def _scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(scores[0]["groups"]["all"]["figures"])
    lines = [f"| precision | videos | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for measured in scores:
        for group, found in measured["groups"].items():
            cells = " | ".join("-" if v is None else f"{v:.3g}" for v in found["figures"].values())
            lines.append(f"| {measured['precision']} | {group} | {cells} |")
    return lines


def _thinned(curve: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    every = max(1, -(-len(curve) // ROWS))
    return [line for i, line in enumerate(curve) if i % every == every - 1 or i == len(curve) - 1]


def _product(shape: Sequence[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.train.card", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scores", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    scores = [json.loads(path.read_text()) for path in args.scores]
    # A file of several precisions is a list.
    text = card(args.folder, [one for found in scores for one in (found if isinstance(found, list) else [found])])
    (args.folder / "checkpoint" / "README.md").write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
