"""Greedy generation for many windows at once: batches, prefill, decode.

Windows of like length share a batch, padded on the left; what all prompts begin with is computed once and begins every
batch's cache; rows that are done leave the batch. Every forward of the language model is one step of the lockstep
that keeps the ranks of a replica together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from model.checkpoint.load import LoadedModel
from model.qwen3_vl.cache import Prefix, RoomyCache
from model.qwen3_vl.grammar import Constraint, forbid
from model.qwen3_vl.pictures import pooled
from model.qwen3_vl.prompt import TokenizedPrompt, positions
from model.qwen3_vl.vision import VisionEncoder


@dataclass(slots=True)
class Request:
    """One window to be answered. `video` uint8 [T', 3, h, w], resized. `seen`, once it was looked at: one vector
    float32 [pairs, D] for each temporal pair (pictures.py)."""

    prompt: TokenizedPrompt
    video: torch.Tensor
    constraint: Constraint | None = None
    seen: torch.Tensor | None = None


@dataclass(slots=True)
class Answer:
    """Token ids of the answer, without the end token. `complete`: it ended by itself, not at the length limit."""

    tokens: list[int] = field(default_factory=list)
    complete: bool = False
    seconds: float = 0.0


class Generator:
    """One rank's generation loop.

    `prefix`: token ids that prompts begin with. `max_new_tokens`: of one answer. `batch_tokens`: prompt and answer
    tokens of one batch, padding included; it bounds the memory of cache and activations. `end_ids`: tokens that end
    an answer where no constraint does.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        vision: VisionEncoder,
        prefix: Sequence[int],
        end_ids: frozenset[int],
        max_new_tokens: int = 1024,
        batch_tokens: int = 16_384,
    ) -> None:
        self.loaded, self.vision = loaded, vision
        self.max_new_tokens, self.batch_tokens = max_new_tokens, batch_tokens
        self._end_ids = end_ids
        self._prefix_ids = torch.tensor(list(prefix), dtype=torch.int64)
        self._prefix: Prefix | None = None
        self._layers: int = loaded.config.text_config.num_hidden_layers
        self.prefill_tokens = self.decode_tokens = 0
        self.prefill_s = self.decode_s = 0.0

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of the requests. Collective among the ranks of a replica, each with its own requests
        (none at all is fine): returns when all ranks are done."""
        if self._prefix is None and len(self._prefix_ids):
            self._prefix = self._compute_prefix()
        answers = [Answer() for _ in requests]
        for batch in plan_batches([len(r.prompt) for r in requests], self.max_new_tokens, self.batch_tokens):
            started = time.perf_counter()
            self._run_batch([requests[i] for i in batch], [answers[i] for i in batch])
            for i in batch:
                answers[i].seconds = (time.perf_counter() - started) / len(batch)
        while self.loaded.lockstep.step(False):
            self.loaded.lockstep.idle()
        return answers

    @torch.inference_mode()
    def generate_together(self, requests: Sequence[Request]) -> list[Answer]:
        """The same answers for the same requests on every rank: for fewer windows than ranks. All ranks work on each
        token, each with its own experts, and rank 0 says what comes next."""
        parallel = self.loaded.parallel
        if parallel is None or parallel.ranks == 1:
            return self.generate(requests)
        with parallel.replicated():
            return self.generate(requests)

    def _run_batch(self, requests: Sequence[Request], answers: Sequence[Answer]) -> None:
        started = time.perf_counter()
        batch = _Batch(self, requests)
        logits = batch.prefill()
        self.prefill_s += time.perf_counter() - started
        self.prefill_tokens += sum(len(r.prompt) for r in requests)
        started = time.perf_counter()
        of_row: list[int | None] = list(range(len(requests)))  # whose row it is; None: done, but still in the batch
        while True:
            live = [(row, i) for row, i in enumerate(of_row) if i is not None]
            if len(live) < batch.rows:
                logits = logits[[row for row, _ in live]]
            forbid(logits, [requests[i].constraint for _, i in live])
            tokens = self._agree(logits.argmax(-1)).tolist()
            self.decode_tokens += len(tokens)
            following = [0] * batch.rows
            for (row, i), token in zip(live, tokens, strict=True):
                following[row] = token
                if self._take(answers[i], requests[i].constraint, token):
                    of_row[row] = None
            going = [row for row, i in enumerate(of_row) if i is not None]
            if not going:
                break
            if len(going) <= batch.rows // 2:
                batch.keep(going)
                of_row, following = [of_row[row] for row in going], [following[row] for row in going]
            logits = batch.decode(following)
        self.decode_s += time.perf_counter() - started

    def _take(self, answer: Answer, constraint: Constraint | None, token: int) -> bool:
        """Append a token. True when the answer is over."""
        if constraint is None and token in self._end_ids:
            answer.complete = True
            return True
        answer.tokens.append(token)
        if constraint is not None and constraint.take(token):
            answer.complete = True
        return answer.complete or len(answer.tokens) >= self.max_new_tokens

    def _agree(self, tokens: torch.Tensor) -> torch.Tensor:
        """Where all ranks work on the same tokens they must stay the same to the bit: rank 0's count."""
        parallel = self.loaded.parallel
        if parallel is not None and parallel.same_tokens and parallel.ranks > 1:
            dist.broadcast(tokens, group=parallel.group, group_src=0)
        return tokens

    def _forward(self, **inputs: Any) -> torch.Tensor:
        """One step: hidden states [B, S, hidden] of transformers' language model."""
        self.loaded.lockstep.step(True)
        out = self.loaded.model.model.language_model(use_cache=True, return_dict=True, **inputs)
        hidden: torch.Tensor = out.last_hidden_state
        return hidden

    def _compute_prefix(self) -> Prefix:
        ids = self._prefix_ids[None].to(self.loaded.device)
        cache = RoomyCache(self._layers, ids.shape[1])
        at = torch.arange(ids.shape[1], device=ids.device).expand(4, 1, -1)
        embeds = self.loaded.model.get_input_embeddings()(ids)
        self._forward(inputs_embeds=embeds, position_ids=at, past_key_values=cache)
        return cache.as_prefix()


def plan_batches(lengths: Sequence[int], max_new_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Which requests share a batch: indices, longest first, so that like lengths come together and padding is small.

    Rows x (longest prompt + answer) stays within `batch_tokens`; a single row may exceed it.
    """
    batches: list[list[int]] = []
    row_tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * row_tokens > batch_tokens:
            batches.append([])
            row_tokens = lengths[i] + max_new_tokens
        batches[-1].append(i)
    return batches


class _Batch:
    """Rows that are computed together: their cache, mask and next positions."""

    def __init__(self, generator: Generator, requests: Sequence[Request]) -> None:
        self._generator, self._requests = generator, requests
        self._device = generator.loaded.device
        self.rows = len(requests)

    def prefill(self) -> torch.Tensor:
        """Logits [B, vocabulary] of the first answer tokens, float32."""
        generator, device = self._generator, self._device
        prefix = self._shared_prefix()
        begun = 0 if prefix is None else prefix[0][0].shape[2]
        lengths = [len(r.prompt) - begun for r in self._requests]
        width = max(lengths)
        ids = torch.zeros(self.rows, width, dtype=torch.int64)
        at = torch.zeros(4, self.rows, width, dtype=torch.int64)
        mask = torch.zeros(self.rows, begun + width, dtype=torch.int64)
        mask[:, :begun] = 1
        seen = torch.zeros(self.rows, width, dtype=torch.bool)
        next_at = []
        for row, (request, length) in enumerate(zip(self._requests, lengths, strict=True)):
            whole, following = positions(generator.loaded.model.model, request.prompt)
            ids[row, width - length :] = request.prompt.ids[begun:]
            at[:, row, width - length :] = whole[:, begun:]
            mask[row, begun + width - length :] = 1
            seen[row, width - length :] = request.prompt.types[begun:] != 0
            next_at.append([len(request.prompt), following, following, following])
        self._mask = None if bool(mask.all()) else mask.to(device)
        self._next_at = torch.tensor(next_at, device=device).T[:, :, None]
        self._cache = RoomyCache(generator._layers, begun + width + generator.max_new_tokens, prefix)

        encoded = generator.vision.encode([r.video for r in self._requests])
        for request, levels in zip(self._requests, encoded, strict=True):
            request.seen = pooled(levels, len(request.video) // generator.vision.config.temporal)
        features = torch.cat(encoded, dim=1)
        embeds = generator.loaded.model.get_input_embeddings()(ids.to(device))
        seen = seen.to(device)
        embeds[seen] = features[0].to(embeds.dtype)
        hidden = generator._forward(
            inputs_embeds=embeds,
            position_ids=at.to(device),
            attention_mask=self._mask,
            past_key_values=self._cache,
            visual_pos_masks=seen,
            deepstack_visual_embeds=list(features[1:]),
        )
        return self._logits(hidden)

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [B, vocabulary] after one more token in each row, float32."""
        ids = torch.tensor(tokens, device=self._device)[:, None]
        if self._mask is not None:
            self._mask = torch.cat((self._mask, self._mask.new_ones(self.rows, 1)), dim=1)
        hidden = self._generator._forward(
            inputs_embeds=self._generator.loaded.model.get_input_embeddings()(ids),
            position_ids=self._next_at,
            attention_mask=self._mask,
            past_key_values=self._cache,
        )
        self._next_at = self._next_at + 1
        return self._logits(hidden)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        index = torch.tensor(rows, device=self._device)
        self._cache.keep(index)
        self._next_at = self._next_at[:, index]
        if self._mask is not None:
            self._mask = self._mask[index]
            if bool(self._mask.all()):
                self._mask = None
        self.rows = len(rows)

    def _shared_prefix(self) -> Prefix | None:
        """The prefix, where every prompt really begins with it and goes on after it."""
        ids = self._generator._prefix_ids
        fits = all(len(r.prompt) > len(ids) and torch.equal(r.prompt.ids[: len(ids)], ids) for r in self._requests)
        return self._generator._prefix if fits else None

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._generator.loaded.model.lm_head(hidden[:, -1]).float()
        return logits
