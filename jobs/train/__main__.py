"""`python -m jobs.train FOLDER`: train the bundled checkpoint, or go on with a run that was stopped.

FOLDER gets `state.safetensors` (to go on), `curve.jsonl` (one line per report) and `checkpoint/` (the averaged weights
in the layout of Hugging Face). The same seed and settings give the same weights, stopped or not, on one kind of device.

  python -m jobs.train RUN --steps 12000 --decay 2500 --workers 1                     # two cores, hours
  python -m jobs.train RUN --steps 6000 --decay 1500 --batch 192 --look-steps 1500 --easy-steps 300 --workers 15 \
      --device cuda                                                                   # minutes, never run so far

Then score it and write its card:

  python -m jobs.bench.truth --model RUN/checkpoint --json SCORES
  python -m jobs.train.card RUN --scores SCORES
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from jobs.train.trainer import PROMPT, Recipe, Trainer, train
from pipeline.errors import SecondsightError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.train", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", default=str(PROMPT), help="profile that the model is trained for")
    parser.add_argument("--steps", type=int, default=12_000, help="go on up to this step (default %(default)s)")
    parser.add_argument("--decay", type=int, default=2_500, help="steps over which the rate falls to 0 at the end")
    parser.add_argument("--report", type=int, default=50, help="steps per line of the curve")
    parser.add_argument("--save", type=int, default=500, help="steps between two states kept")
    parser.add_argument("--workers", type=int, default=0, help="processes that make samples (0: this one)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--yield-to", type=Path, metavar="FILE", help="wait while somebody holds a lock on FILE alone")
    for name, kind in Recipe.__annotations__.items():
        convert = {"int": int, "float": float, "str": str}[kind]
        default = getattr(Recipe(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=convert, default=default, help=f"(default {default})")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        recipe = Recipe(**{name: getattr(args, name) for name in Recipe.__annotations__})
        trainer = Trainer(args.folder, recipe, args.prompt, args.device)
        train(trainer, args.steps, args.decay, args.report, args.save, args.workers, args.yield_to)
    except SecondsightError as error:
        print(f"secondsight: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
