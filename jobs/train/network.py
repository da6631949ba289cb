"""The forward pass of training: transformers' own modules and weights, called in the cheapest way.

All windows of a batch have equal frames, so the vision tower runs as one batch of frame pairs instead of one attention
call per pair (equal to its own forward: tests/jobs/test_train.py), and the language model runs without a mask, padded
on the right. Experts run as one matrix product each over the tokens that chose them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from jobs.train.checkpoint import CHAT_TEMPLATE, MERGE, PATCH, TEMPORAL, system_text
from jobs.train.hints import cells, hints, whens
from jobs.train.samples import Sample, answer
from jobs.train.tokens import BEFORE_CONFIDENCE, BEFORE_KIND, BEFORE_TIME, MOST_TENTHS, token_id
from model.prompts import Prompt
from model.qwen3_vl.patches import patchify
from model.qwen3_vl.prompt import PromptBuilder, positions
from model.qwen3_vl.sizes import PatchConfig

PATCHES = PatchConfig(patch=PATCH, temporal=TEMPORAL, merge=MERGE)
#: What an answer's token is: that another event comes, a start or end, a kind, a confidence, or anything else.
PLAIN, BEGIN, TIME, KIND, CONFIDENCE = range(5)
#: A time this near counts as found when the model's confidence is reckoned, or one nearer than a quarter of its event's
#: length: the tIoU is 0.5 then, however both ends are off.
_NEAR_TENTHS = 3


@dataclass(slots=True)
class Batch:
    """`ids` int64 [B, L]; `at` [4, B, L] MRoPE positions; `seen` bool [B, L] vision tokens; `ends` [B * P] places in
    the flattened ids where each pair's last token stands; `video` uint8 [B * T, 3, h, w], T even; `asked` places
    before, and `wanted` ids of, the answers' tokens; `role` of each of them: PLAIN, TIME, ...; `hints` and
    `whens` [B * P, questions], `cells` [B * P * tokens, questions]; `real` bool [B, L]: not padding.
    """

    ids: Tensor
    at: Tensor
    seen: Tensor
    ends: Tensor
    video: Tensor
    asked: Tensor
    wanted: Tensor
    role: Tensor
    hints: Tensor
    whens: Tensor
    cells: Tensor
    real: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__})


class Collator:
    """Samples to a batch, by the prompt code that inference uses. `model` may be on the meta device: only its
    configuration is needed.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, prompt: Prompt) -> None:
        self._model, self._tokenizer = model.model, tokenizer
        self._end: int = token_id(tokenizer, "<|im_end|>")
        self._pad: int = token_id(tokenizer, "<|endoftext|>")
        self._pair_end: int = token_id(tokenizer, "<|vision_end|>")
        self._prompts = PromptBuilder(tokenizer, CHAT_TEMPLATE, system_text(prompt), prompt.user, MERGE, TEMPORAL)
        self._roles = {token_id(tokenizer, piece): TIME for piece in BEFORE_TIME}
        self._roles |= {token_id(tokenizer, BEFORE_KIND): KIND, token_id(tokenizer, BEFORE_CONFIDENCE): CONFIDENCE}
        self._begins = {token_id(tokenizer, piece) for piece in BEFORE_TIME[:2]}
        self._positions: dict[tuple[bytes, tuple[int, int, int]], tuple[Tensor, int]] = {}

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        videos = [_even(torch.from_numpy(s.pixels).permute(0, 3, 1, 2)) for s in samples]
        pairs, rows, columns = len(videos[0]) // TEMPORAL, samples[0].size[0] // PATCH, samples[0].size[1] // PATCH
        prompts = [self._prompts.build(s.frame_us, (pairs, rows, columns)) for s in samples]
        answers = [self._answer(s) for s in samples]
        length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = torch.full((len(samples), length), self._pad)
        at = torch.zeros(4, len(samples), length, dtype=torch.int64)
        real = torch.zeros(len(samples), length, dtype=torch.bool)
        asked: list[int] = []
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True)):
            ids[i, : len(p)], ids[i, len(p) : len(p) + len(a)] = p.ids, torch.tensor(a)
            real[i, : len(p) + len(a)] = True
            asked += range(i * length + len(p) - 1, i * length + len(p) + len(a) - 1)
            key = (p.types.numpy().tobytes(), p.grid)
            if key not in self._positions:
                self._positions[key] = positions(self._model, p)
            known, following = self._positions[key]
            at[:, i, : len(p)] = known
            later = torch.arange(length - len(p))
            at[0, i, len(p) :], at[1:, i, len(p) :] = len(p) + later, following + later
        return Batch(
            ids,
            at,
            ids == self._prompts.video_id,
            (ids == self._pair_end).flatten().nonzero()[:, 0],
            torch.cat(videos),
            torch.tensor(asked),
            torch.tensor([token for a in answers for token in a]),
            torch.tensor([self._role(before, token) for a in answers for before, token in pairwise([-1, *a])]),
            torch.cat([torch.from_numpy(hints(s)) for s in samples]),
            torch.cat([torch.from_numpy(whens(s)) for s in samples]),
            torch.cat([torch.from_numpy(cells(s)) for s in samples]),
            real,
        )

    def _role(self, before: int, token: int) -> int:
        """Of an answer's token."""
        return self._roles.get(before, BEGIN if token in self._begins else PLAIN)

    def _answer(self, sample: Sample) -> list[int]:
        return [*self._tokenizer.encode(answer(sample.told), add_special_tokens=False).ids, self._end]


def _even(video: Tensor) -> Tensor:
    return torch.cat((video, video[-1:])) if len(video) % TEMPORAL else video


@dataclass(slots=True)
class Outputs:
    """`answers` [asked, hidden]; `pairs`: features of each pair, from the language model and from the vision tower;
    `tokens`: features of each vision token, the tower's output and its DeepStack outputs; `load` [layers, experts]:
    shares of the tokens; `balance`: the load-balancing loss.
    """

    answers: Tensor
    pairs: tuple[Tensor, Tensor]
    tokens: list[Tensor]
    load: Tensor
    balance: Tensor


class Network:
    """The forward pass over one transformers model. Puts `experts_forward` in the place of its experts' own."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._layouts: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._routed: list[Tensor] = []
        for module in model.modules():
            if type(module).__name__ == "Qwen3VLMoeTextTopKRouter":
                module.register_forward_hook(lambda _module, _inputs, out: self._routed.append(out[0]))
            elif type(module).__name__ == "Qwen3VLMoeTextExperts":
                module.forward = experts_forward.__get__(module)

    def __call__(self, batch: Batch, learn_to_look: bool = True) -> Outputs:
        """Without `learn_to_look` the vision tower's weights get no gradient, which takes much less time."""
        self._routed.clear()
        with torch.set_grad_enabled(torch.is_grad_enabled() and learn_to_look):
            features, *deep = self.look(batch)
        language = self.model.model.language_model
        embeds = language.embed_tokens(batch.ids)
        embeds = embeds.masked_scatter(batch.seen[..., None], features.to(embeds.dtype))
        hidden = language(
            inputs_embeds=embeds,
            position_ids=batch.at,
            use_cache=False,
            visual_pos_masks=batch.seen,
            deepstack_visual_embeds=deep,
        ).last_hidden_state.flatten(0, 1)
        load, balance = self._balance(batch.real.flatten())
        pairs = (hidden[batch.ends], pooled(features, batch))
        return Outputs(hidden[batch.asked], pairs, [features, *deep], load, balance)

    def look(self, batch: Batch) -> list[Tensor]:
        """The vision tower alone: what `vision` returns."""
        rows, columns = batch.video.shape[2] // PATCH, batch.video.shape[3] // PATCH
        return self.vision(patchify(batch.video, PATCHES), (rows, columns))

    def vision(self, patches: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Patches [S, n, values] of S frame pairs of `grid` (rows, columns) -> [S * tokens, hidden]: the tower's
        output, then its DeepStack outputs."""
        tower = self.model.model.visual
        indices, weights, cos, sin = self._layout(grid, patches.device)
        weight, bias = tower.patch_embed.proj.weight, tower.patch_embed.proj.bias
        x = F.linear(patches.to(weight.dtype), weight.flatten(1), bias)
        x = x + (tower.pos_embed(indices) * weights[:, :, None]).sum(1).to(x.dtype)
        deep: list[Tensor] = []
        for depth, block in enumerate(tower.blocks):
            x = x + _vision_attention(block.attn, block.norm1(x), cos, sin)
            x = x + block.mlp(block.norm2(x))
            if depth in tower.deepstack_visual_indexes:
                deep.append(tower.deepstack_merger_list[len(deep)](x.flatten(0, 1)))
        return [tower.merger(x.flatten(0, 1)), *deep]

    def _layout(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where each patch of a picture stands: learned positions to mix and rotary angles."""
        if grid not in self._layouts:
            tower = self.model.model.visual
            thw = torch.tensor([[1, *grid]])
            indices, weights = get_vision_interpolation_indices_and_weights(
                thw,
                num_grid_per_side=tower.num_grid_per_side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
                spatial_merge_size=MERGE,
            )
            places = get_vision_position_ids(thw, MERGE).to(device)
            cos, sin = tower.rotary_pos_emb(tower.pos_embed.weight, places)
            self._layouts[grid] = (indices.to(device), weights.to(device), cos, sin)
        return self._layouts[grid]

    def _balance(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of the choices that fell on each expert, and the loss that evens them out: experts * sum over experts
        of (share of choices * mean probability), 1 when even (Fedus et al. 2021, eq. 4), mean over layers."""
        config = self.model.config.text_config
        loads, losses = [], []
        for logits in self._routed:
            chances = logits.float().softmax(-1)[real]
            chosen = chances.topk(config.num_experts_per_tok, dim=-1).indices.flatten()
            load = torch.bincount(chosen, minlength=config.num_experts) / len(chosen)
            loads.append(load)
            losses.append(config.num_experts * (load * chances.mean(0)).sum())
        return torch.stack(loads), torch.stack(losses).mean()


def pooled(features: Tensor, batch: Batch) -> Tensor:
    """The mean of each pair's vision tokens, [pairs, hidden]."""
    return features.view(len(batch.ends), -1, features.shape[-1]).mean(1)


def _vision_attention(module: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Full attention among the patches of each frame pair, [S, n, hidden]."""
    s, n, width = x.shape
    qkv = module.qkv(x).view(s, n, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = _rotated(qkv[0], cos, sin), _rotated(qkv[1], cos, sin)
    out = F.scaled_dot_product_attention(q, k, qkv[2], scale=module.scaling)
    out = module.proj(out.transpose(1, 2).reshape(s, n, width))
    return out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def experts_forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What transformers' experts module computes, tokens sorted by expert."""
    k = top_k_index.shape[1]
    order = top_k_index.flatten().argsort(stable=True)
    counts = torch.bincount(top_k_index.flatten(), minlength=self.num_experts).tolist()
    of_token = order // k
    parts = []
    for expert, part in enumerate(hidden_states[of_token].split(counts)):
        gate, up = F.linear(part, self.gate_up_proj[expert]).chunk(2, dim=-1)
        parts.append(F.linear(self.act_fn(gate) * up, self.down_proj[expert]))
    out = torch.cat(parts) * top_k_weights.flatten()[order][:, None]
    return torch.zeros_like(hidden_states).index_add_(0, of_token, out.to(hidden_states.dtype))


class AnswerLoss(nn.Module):
    """Cross-entropy of answer tokens, with two liberties.

    A time is wanted with some slack: a Gaussian of `slack_s` around it, so that near misses are better than far ones.
    The confidence that is wanted of an event is the chance that the model itself gave to it: to there being one more
    event, to its kind, to times near the right ones. So it learns to write down how sure it is while it learns to be
    right.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, slack_s: float) -> None:
        super().__init__()
        times = torch.tensor([token_id(tokenizer, f"{n // 10}.{n % 10}") for n in range(MOST_TENTHS + 1)])
        self.tenth = nn.Buffer(torch.full((vocabulary,), -1).scatter_(0, times, torch.arange(len(times))))
        apart = (torch.arange(len(times))[:, None] - torch.arange(len(times))).abs()
        weights = torch.exp(-0.5 * (apart / 10 / slack_s) ** 2) if slack_s else (apart == 0).float()
        self.times, self.soft = nn.Buffer(times), nn.Buffer(weights / weights.sum(1, keepdim=True))
        self.apart = nn.Buffer(apart)
        self.levels = nn.Buffer(torch.tensor([token_id(tokenizer, f"0.{n:02}") for n in range(5, 100, 10)]))

    def forward(self, logits: Tensor, wanted: Tensor, role: Tensor) -> Tensor:
        """Mean over tokens."""
        chances = logits.float().log_softmax(-1)
        is_time, is_confidence = role == TIME, role == CONFIDENCE
        wanted = wanted.clone()
        wanted[is_confidence] = self.levels[(self.sureness(chances.detach(), wanted, role) * 10).long().clamp(0, 9)]
        loss = -chances.gather(1, wanted[:, None])[:, 0]
        soft = -(self.soft[self.tenth[wanted[is_time]]] * chances[is_time][:, self.times]).sum(1)
        return torch.cat((loss[~is_time], soft)).mean()

    def sureness(self, chances: Tensor, wanted: Tensor, role: Tensor) -> Tensor:
        """The chance [events] of each event, from the log chances [tokens, vocabulary] of answers one after another."""
        told = chances.gather(1, wanted[:, None])[:, 0]
        is_time = role == TIME
        tenths = self.tenth[wanted[is_time]]
        lengths = (tenths[1::2] - tenths[::2]).repeat_interleave(2)  # each event says when it starts, then when it ends
        found = self.apart[tenths] <= (lengths // 4).clamp(min=_NEAR_TENTHS)[:, None]
        near = (found * chances[is_time][:, self.times].exp()).sum(1)
        told[is_time] = near.clamp(1e-9, 1).log()
        told[(role == PLAIN) | (role == CONFIDENCE)] = 0
        event = torch.cumsum(role == CONFIDENCE, 0) - (role == CONFIDENCE).long()
        count = int((role == CONFIDENCE).sum())
        sums = told.new_zeros(count + 1).index_add_(0, event, told)  # what follows the last event is dropped
        return sums[:count].exp()
