"""Hints while learning: what each pair of frames shows, and where, asked of the model besides the answer.

An answer is a few words at the end of a window. Hints tell after each pair what is there, what it does and which words
are shown, and of each vision token what stands in its part of the picture, which is learned far sooner. Their output
layers exist only in training and are not part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from jobs.demo.shapes import ANGLES, SHAPES, outline
from jobs.demo.truth import events
from jobs.demo.world import COLOURS, World, pose
from jobs.train.samples import TENTH_US, Sample
from jobs.train.tokens import SHOWN

_DOING = ("", "appears", "left", "right", "up", "down", "turns", "becomes", "grows", "shrinks", "meets", "leaves")
_SCREEN = ("", "cut", "fade out", "black", "fade in", "dissolve")
_WORDS = ("", *SHOWN)
_COLOURS = tuple(COLOURS)
#: Classes of each question: for each colour the shape it has (0: not there) and what it does; the screen; whether it
#: stands still; the word shown, then the tens and the ones after it (10: none).
CLASSES = (*[len(SHAPES) + 1] * len(_COLOURS), *[len(_DOING)] * len(_COLOURS), len(_SCREEN), 2, len(_WORDS), 11, 11)

_CELL, _BINS = 32, 8
_DIRECTIONS, _REACHES, _REACH_PX = 12, 12, 1.75  # every 30 degrees; how far in each, in steps
_THING = 4 + _DIRECTIONS
#: Classes of each question about a vision token's part of the picture: for the first and for the second frame the shape
#: whose middle lies in it (0: none), its colour, where in it that middle is from left to right and from top to bottom,
#: and how far it reaches in each direction; then the words shown there, with the tens and the ones of a number.
CELL_CLASSES = (*(len(SHAPES) + 1, len(_COLOURS), _BINS, _BINS, *[_REACHES] * _DIRECTIONS) * 2, len(_WORDS), 11, 11)
_UNASKED = -100  # of what is not there

_SUBJECTS = (
    len(_COLOURS) + 3
)  # whose times are asked after: each colour; the screen, whether it stands still, the words
_TENTHS = 40


def hints(sample: Sample) -> npt.NDArray[np.int64]:
    """The right class of each question for each pair of frames, [pairs, len(CLASSES)]."""
    times = [t + sample.start_us for t in sample.frame_us]
    times += times[-1:] * (len(times) % 2)
    meant = events(sample.world)
    found = np.zeros((len(times) // 2, len(CLASSES)), np.int64)
    n = len(_COLOURS)
    found[:, -2:] = 10
    before = sample.start_us
    for row, (first, second) in zip(found, zip(times[::2], times[1::2], strict=True), strict=True):
        for shot, share in sample.world.layers(second):
            for thing in shot.scene.things if share >= 0.5 else ():
                at = pose(thing, shot.clock_us(second))
                if at is not None:
                    colour = at.colour[at.colour[2] >= 0.5]
                    row[_COLOURS.index(str(colour))] = 1 + SHAPES.index(str(at.shape[at.shape[2] >= 0.5]))
        for event in meant:
            if event.kind == "cut":
                if before < event.start_us <= second:  # also one between this pair and the last
                    row[2 * n] = _SCREEN.index("cut")
            elif event.start_us < second and event.end_us > first:
                _hint(row, event.kind, event.text)
        before = second
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


def whens(sample: Sample) -> npt.NDArray[np.int64]:
    """How many tenths of a second before the second frame of each pair what is going on there began, and what has ended
    since the pair before did so, [pairs, 2 * subjects]."""
    times = [t + sample.start_us for t in sample.frame_us]
    times += times[-1:] * (len(times) % 2)
    found = np.full((len(times) // 2, 2, _SUBJECTS), _UNASKED, np.int64)
    before = sample.start_us
    meant = [e for e in events(sample.world) if e.end_us >= before and e.start_us <= times[-1]]
    for (began, ended), second in zip(found, times[1::2], strict=True):
        for event in meant:
            subject = _subject(event.kind, event.text)
            if sample.start_us <= event.start_us <= second and event.end_us > before:
                began[subject] = min((second - event.start_us) // TENTH_US, _TENTHS - 1)
            if before < event.end_us <= second:
                ended[subject] = min((second - event.end_us) // TENTH_US, _TENTHS - 1)
        before = second
    return found.reshape(-1, 2 * _SUBJECTS)


def _subject(kind: str, text: str) -> int:
    if kind == "frozen":
        return len(_COLOURS) + 1
    if kind == "text":
        return len(_COLOURS) + 2
    return len(_COLOURS) if text in _SCREEN else _COLOURS.index(text.split()[1])


def cells(sample: Sample) -> npt.NDArray[np.int64]:
    """The right class of each question for each vision token, [tokens, len(CELL_CLASSES)], row by row of each pair."""
    times = [t + sample.start_us for t in sample.frame_us]
    times += times[-1:] * (len(times) % 2)
    rows, columns = sample.size[0] // _CELL, sample.size[1] // _CELL
    found = np.full((len(times) // 2, rows, columns, len(CELL_CLASSES)), _UNASKED, np.int64)
    found[..., [0, _THING, 2 * _THING]] = 0
    for frame, time_us in enumerate(times):
        _things(found[frame // 2, ..., _THING * (frame % 2) :], sample.world, time_us)
    for pair, time_us in zip(found, times[1::2], strict=True):
        _words(pair[..., 2 * _THING :], sample.world, time_us)
    return found.reshape(-1, len(CELL_CLASSES))


def _things(found: npt.NDArray[np.int64], world: World, time_us: int) -> None:
    rows, columns = found.shape[:2]
    wide, high = columns * _CELL / world.width, rows * _CELL / world.height  # px of a short side: seldom equal
    for shot, share in world.layers(time_us):
        for thing in shot.scene.things if share >= 0.5 else ():
            at = pose(thing, shot.clock_us(time_us))
            if at is None:
                continue
            x = min(max(at.x * wide, 0), columns * _CELL - 1)
            y = min(max(at.y * high, 0), rows * _CELL - 1)
            radius = outline(str(at.shape[0])) * (1 - at.shape[2]) + outline(str(at.shape[1])) * at.shape[2]
            reach_px = radius[:: ANGLES // _DIRECTIONS] * at.size * high
            found[int(y) // _CELL, int(x) // _CELL, :_THING] = (
                1 + SHAPES.index(str(at.shape[at.shape[2] >= 0.5])),
                _COLOURS.index(str(at.colour[at.colour[2] >= 0.5])),
                int(x % _CELL * _BINS / _CELL),
                int(y % _CELL * _BINS / _CELL),
                *np.minimum(reach_px / _REACH_PX, _REACHES - 1).astype(int),
            )


def _words(found: npt.NDArray[np.int64], world: World, time_us: int) -> None:
    """In the middle of the row (or the two rows) of a picture where words are shown."""
    rows, columns = found.shape[:2]
    for shot, share in world.layers(time_us):
        clock = shot.clock_us(time_us)
        for caption in shot.scene.captions if share >= 0.5 else ():
            if caption.start_us <= clock < caption.end_us:
                word, _, number = caption.text.partition(" ")
                title = caption.place == "title"
                upper, lower = ((rows - 1) // 2, rows // 2) if title else (rows - 1, rows - 1)
                part = found[upper : lower + 1, columns // 4 : columns - columns // 4]
                part[..., 0] = _WORDS.index(word) if word in _WORDS else 0
                part[..., 1:] = divmod(int(number), 10) if number.isdigit() else (10, 10)


class HintHeads(nn.Module):
    """Output layers for one kind of questions with these classes. `widths`: of the features that each set reads."""

    def __init__(self, classes: Sequence[int], *widths: int) -> None:
        super().__init__()
        self.classes = list(classes)
        self.heads = nn.ModuleList(nn.Linear(width, sum(classes)) for width in widths)

    def loss(self, features: Sequence[torch.Tensor], wanted: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, mean over sets and questions. `features`: [things asked about, width] each; `wanted` [things
        asked about, questions]."""
        total = torch.zeros((), device=wanted.device)
        for head, given in zip(self.heads, features, strict=True):
            for question, logits in enumerate(head(given).float().split(self.classes, dim=1)):
                loss = F.cross_entropy(logits, wanted[:, question], ignore_index=_UNASKED, reduction="sum")
                total = total + loss / (wanted[:, question] != _UNASKED).sum().clamp(min=1)
        return total / (len(features) * len(self.classes))


class TimeHead(nn.Module):
    """Output layer for `whens`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.Linear(width, 2 * _SUBJECTS * _TENTHS)

    def loss(self, features: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, mean over what is asked. `features` [pairs, width]; `wanted` [pairs, 2 * subjects]."""
        logits = self.heads(features).float().view(-1, _TENTHS)
        asked = (wanted != _UNASKED).sum().clamp(min=1)
        return F.cross_entropy(logits, wanted.flatten(), ignore_index=_UNASKED, reduction="sum") / asked
