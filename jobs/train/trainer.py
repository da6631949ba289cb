"""A training run: what decides the weights, the batch of each step, one step, and many."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from jobs.demo.story import Style
from jobs.train.checkpoint import build_model, prompt_tokenizer, save_checkpoint, system_text
from jobs.train.hints import CELL_CLASSES, CLASSES, HintHeads, TimeHead
from jobs.train.network import CONFIDENCE, TIME, AnswerLoss, Batch, Collator, Network, Outputs
from jobs.train.optimizer import optimizers
from jobs.train.samples import Difficulty, glances, samples
from jobs.train.state import load_state, save_state
from model.prompts import Prompt, load_prompt, read_prompt

PROMPT = Path(__file__).parents[2] / "model" / "bundled" / "world.toml"
GLANCES = 6  # pairs of frames for each window of a batch, while the vision tower learns alone
#: Still pictures are rare in the world's videos, and are learned late when they are as rare in training.
STORIES = Style(frozen=0.3)
EASY = Difficulty(aspects=(1.0, 0.0, 0.0, 0.0), full=1.0, spoiled=0.0, titles=0.0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the weights, besides the number of steps. `look_steps`: in which the vision tower learns alone, from
    hints on pairs of frames. After these, each `glance_every`th step is such a step too, of the others each
    `look_every`th changes the tower too, and for `easy_steps` there is one frame size and only whole windows.
    `slack_s`: how near a time counts as right. `hint`, `when`, `cell` and `balance`: weights of these losses beside the
    answer's.
    """

    seed: int = 1
    size: str = "bundled"
    batch: int = 12
    lr: float = 2e-3
    warmup: int = 100
    look_steps: int = 2600
    glance_every: int = 4
    look_every: int = 3
    easy_steps: int = 1000
    slack_s: float = 0.12
    hint: float = 4.0
    when: float = 0.3
    cell: float = 2.0
    balance: float = 0.02
    average: float = 0.998

    def glances(self, step: int) -> bool:
        """Whether the vision tower learns alone in this step."""
        return step < self.look_steps or (self.glance_every > 0 and step % self.glance_every == 1)


class Batches(Dataset[Batch]):
    """The batch of each step, by its number alone."""

    def __init__(self, recipe: Recipe, prompt: Prompt) -> None:
        self.recipe, self.prompt = recipe, prompt
        self._collate: Collator | None = None

    def __getitem__(self, step: int) -> Batch:
        import cv2

        if self._collate is None:  # in the process that makes the batches
            cv2.setNumThreads(1)
            torch.set_num_threads(1)
            tokenizer = prompt_tokenizer(self.prompt)
            with torch.device("meta"):
                model = build_model(tokenizer, self.recipe.size)
            self._collate = Collator(model, tokenizer, self.prompt)
        recipe, seed = self.recipe, [self.recipe.seed, step]
        if recipe.glances(step):
            return self._collate(glances(seed, self.prompt, GLANCES * recipe.batch))
        difficulty = EASY if step < recipe.look_steps + recipe.easy_steps else Difficulty()
        return self._collate(next(samples(seed, self.prompt, recipe.batch, difficulty, STORIES)))


class Trainer:
    """A run: the model, what it learns by, and how far it is."""

    def __init__(self, folder: Path, recipe: Recipe, prompt: str = str(PROMPT), device: str = "cpu") -> None:
        self.folder, self.recipe, self.device = folder, recipe, torch.device(device)
        self.prompt, self.prompt_text = load_prompt(prompt), read_prompt(prompt)
        torch.manual_seed(recipe.seed)
        self.tokenizer = prompt_tokenizer(self.prompt)
        self.model: Any = build_model(self.tokenizer, recipe.size).to(self.device)
        text = self.model.config.text_config
        self.hints = HintHeads(CLASSES, text.hidden_size, text.hidden_size).to(self.device)
        deep = len(self.model.config.vision_config.deepstack_visual_indexes)
        self.cells = HintHeads(CELL_CLASSES, *[text.hidden_size] * (1 + deep)).to(self.device)
        self.whens = TimeHead(text.hidden_size).to(self.device)
        self.average: Any = copy.deepcopy(self.model).requires_grad_(False)
        self.loss = AnswerLoss(self.tokenizer, text.vocab_size, recipe.slack_s).to(self.device)
        self.network = Network(self.model)
        self._learning: dict[str, nn.Module] = {"model": self.model, "hints": self.hints, "cells": self.cells}
        self._learning["whens"] = self.whens
        self.optimizers = optimizers(self._learning.values(), recipe.lr)
        self._modules = {**self._learning, "average": self.average}
        tokens = hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()[:16]
        self._settings = {**asdict(recipe), "prompt": system_text(self.prompt) + self.prompt.user, "tokenizer": tokens}
        self.step = load_state(folder, self._settings, self._modules, self.optimizers)

    def learn(self, batch: Batch, rate: float) -> dict[str, float]:
        """One step at `rate` of the full learning rate; figures for the curve."""
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            if self.recipe.glances(self.step):
                loss, figures = self._looking(batch)
            else:
                loss, figures = self._answering(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for part in self._learning.values() for p in part.parameters()], 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.lr * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._follow(min(self.recipe.average, (1 + self.step) / (10 + self.step)))
        return {**figures, "norm": float(norm)}

    def _looking(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        cell = self.cells.loss(self.network.look(batch), batch.cells)
        return cell, {"glance": cell.item()}

    def _answering(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        recipe, looking = self.recipe, self.step % self.recipe.look_every == 0
        out = self.network(batch, looking)
        logits = self.model.lm_head(out.answers)
        answer = self.loss(logits, batch.wanted, batch.role)
        hint = self.hints.loss(out.pairs, batch.hints)
        when = self.whens.loss(out.pairs[0], batch.whens)
        loss = answer + recipe.hint * hint + recipe.when * when + recipe.balance * out.balance
        figures = {"loss": answer.item(), "hint": hint.item(), "when": when.item(), **self._figures(batch, logits, out)}
        if looking:
            cell = self.cells.loss(out.tokens, batch.cells)
            loss, figures["cell"] = loss + recipe.cell * cell, cell.item()
        return loss, figures

    def _follow(self, keep: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)

    def _figures(self, batch: Batch, logits: Tensor, out: Outputs) -> dict[str, float]:
        """Share of answer tokens (without times and confidences) that are right given all before them; how far off
        times are (median, s); the busiest expert's load over the mean, in the worst layer."""
        said = logits.detach().argmax(-1)
        is_time = batch.role == TIME
        right = (said == batch.wanted)[~is_time & (batch.role != CONFIDENCE)].float().mean()
        tenths = self.loss.tenth[said[is_time]]
        off = (tenths - self.loss.tenth[batch.wanted[is_time]]).abs().float() / 10
        off = torch.where(tenths < 0, 16.0, off)  # no time at all
        busiest = out.load.max() * out.load.shape[1]
        return {"right": right.item(), "off_s": float(off.median()) if len(off) else 0.0, "busiest": busiest.item()}

    def save(self) -> None:
        """Keep the state, and the averaged weights as a checkpoint with the prompt that they are asked by."""
        save_state(self.folder, self.step, self._settings, self._modules, self.optimizers)
        save_checkpoint(self.folder / "checkpoint", self.average, self.tokenizer)
        (self.folder / "checkpoint" / PROMPT.name).write_text(self.prompt_text)


def train(
    trainer: Trainer,
    steps: int,
    decay: int = 0,
    report: int = 50,
    save: int = 500,
    workers: int = 0,
    give_way: Path | None = None,
) -> None:
    """Learn up to step `steps`, over the last `decay` of which the learning rate falls to nothing."""
    recipe = trainer.recipe
    batches = DataLoader(
        Batches(recipe, trainer.prompt),
        batch_size=None,
        sampler=range(trainer.step, steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )
    curve: list[dict[str, float]] = []
    began = time.perf_counter()
    for batch in batches:
        left = (steps - trainer.step) / decay if decay else 1.0
        with giving_way(give_way):
            begun = trainer.step - (recipe.look_steps if trainer.step >= recipe.look_steps else 0)
            curve.append(trainer.learn(batch, min(1.0, (begun + 1) / recipe.warmup, left)))
        if trainer.step % report == 0 or trainer.step == steps:
            names = dict.fromkeys(name for figures in curve for name in figures)
            line = {name: round(fmean(c[name] for c in curve if name in c), 4) for name in names}
            speed = round(len(curve) * recipe.batch / (time.perf_counter() - began), 2)
            _tell(trainer.folder, {"step": trainer.step, **line, "samples_per_s": speed})
            curve, began = [], time.perf_counter()
        if trainer.step % save == 0 or trainer.step == steps:
            trainer.save()


def _tell(folder: Path, line: dict[str, float]) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "curve.jsonl").open("a") as file:
        file.write(text + "\n")


@contextmanager
def giving_way(lock: Path | None) -> Iterator[None]:
    """Wait while somebody holds `lock` (flock) alone, e.g. for a measurement on the same machine."""
    if lock is None:
        yield
        return
    import fcntl

    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
    time.sleep(0.002)  # so that who waits for it gets it
