"""Hints while learning: what goes on in each pair of frames, asked of the model besides the answer.

An answer is a few words at the end of a window; hints tell after each pair what is there, what it does and which words
are shown, which is learned far sooner. Their output layers exist only in training and are not part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from jobs.demo.shapes import SHAPES
from jobs.demo.truth import events
from jobs.demo.world import COLOURS, pose
from jobs.train.samples import Sample
from jobs.train.tokens import SHOWN

_DOING = ("", "appears", "left", "right", "up", "down", "turns", "becomes", "grows", "shrinks", "meets", "leaves")
_SCREEN = ("", "cut", "fade out", "black", "fade in", "dissolve")
_WORDS = ("", *SHOWN)
_COLOURS = tuple(COLOURS)
#: Classes of each question: for each colour the shape it has (0: not there) and what it does; the screen; whether it
#: stands still; the word shown, then the tens and the ones after it (10: none).
CLASSES = (*[len(SHAPES) + 1] * len(_COLOURS), *[len(_DOING)] * len(_COLOURS), len(_SCREEN), 2, len(_WORDS), 11, 11)


def hints(sample: Sample) -> npt.NDArray[np.int64]:
    """The right class of each question for each pair of frames, [pairs, len(CLASSES)]."""
    times = [t + sample.start_us for t in sample.frame_us]
    times += times[-1:] * (len(times) % 2)
    meant = events(sample.world)
    found = np.zeros((len(times) // 2, len(CLASSES)), np.int64)
    n = len(_COLOURS)
    found[:, -2:] = 10
    for row, (first, second) in zip(found, zip(times[::2], times[1::2], strict=True), strict=True):
        for shot, share in sample.world.layers(second):
            for thing in shot.scene.things if share >= 0.5 else ():
                at = pose(thing, shot.clock_us(second))
                if at is not None:
                    colour = at.colour[at.colour[2] >= 0.5]
                    row[_COLOURS.index(str(colour))] = 1 + SHAPES.index(str(at.shape[at.shape[2] >= 0.5]))
        for event in meant:
            if event.kind == "cut":
                if first < event.start_us <= second:
                    row[2 * n] = _SCREEN.index("cut")
            elif event.start_us < second and event.end_us > first:
                _hint(row, event.kind, event.text)
    return found


def _hint(row: npt.NDArray[np.int64], kind: str, text: str) -> None:
    n = len(_COLOURS)
    if kind == "frozen":
        row[2 * n + 1] = 1
    elif kind == "text":
        word, _, number = text.partition(" ")
        row[2 * n + 2] = _WORDS.index(word) if word in _WORDS else 0
        if number.isdigit():
            row[2 * n + 3] = int(number) // 10
            row[2 * n + 4] = int(number) % 10
    elif text in _SCREEN:
        row[2 * n] = _SCREEN.index(text)
    else:
        _, colour, _, verb, *rest = text.split()
        verb = rest[0] if verb == "moves" else verb
        row[n + _COLOURS.index(colour)] = _DOING.index(verb)


class HintHeads(nn.Module):
    """Output layers for the questions. `widths`: of the features that each set of them reads."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, sum(CLASSES)) for width in widths)

    def loss(self, features: Sequence[torch.Tensor], wanted: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, mean over sets and questions. `features`: [pairs, width] each; `wanted` [pairs, questions]."""
        total = features[0].new_zeros(())
        for head, given in zip(self.heads, features, strict=True):
            for question, logits in enumerate(head(given).float().split(CLASSES, dim=1)):
                total = total + F.cross_entropy(logits, wanted[:, question])
        return total / (len(features) * len(CLASSES))
