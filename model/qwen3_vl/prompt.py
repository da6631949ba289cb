"""From a window's grid and times to token ids: chat template, time stamps, video placeholders, positions.

Each temporal pair of frames becomes `<{t:.1f} seconds><|vision_start|><|video_pad|>...<|vision_end|>`, t the mean of
the pair's times (transformers' `Qwen3VLProcessor.replace_video_token`; here with the frames' true times). The
placeholder goes into the template bare, as text: the vision start and end that templates write around a video of
their own would stay in the prompt as an extra pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer

from model.qwen3_vl.answer import announced_us
from pipeline.errors import ModelError
from pipeline.plan import SECOND_US

VIDEO, VISION_START, VISION_END = "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
TEXT_TYPE, VIDEO_TYPE = 0, 2  # mm_token_type_ids


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """One window's prompt. `ids` and `types` (mm_token_type_ids) int64 [L]; `grid` (t, h, w) of its video."""

    ids: torch.Tensor
    types: torch.Tensor
    grid: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.ids)


class PromptBuilder:
    """The prompts of one profile: everything but the video is the same for all windows.

    `template`: the checkpoint's Jinja chat template, which transformers renders in a sandbox. Raises ModelError where
    it cannot be rendered or swallows the video.
    """

    def __init__(self, tokenizer: Tokenizer, template: str, system: str, user: str, merge: int, temporal: int) -> None:
        self._tokenizer, self._merge, self._temporal = tokenizer, merge, temporal
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in (VIDEO, VISION_START, VISION_END) if token not in vocabulary]:
            raise ModelError(f"the tokenizer does not know {', '.join(missing)}: this is no Qwen3-VL tokenizer")
        self.video_id: int = vocabulary[VIDEO]
        text = _render(template, system, user)
        if text.count(VIDEO) != 1:
            raise ModelError(f"the chat template shows the video {text.count(VIDEO)} times, not once")
        self._before, self._after = text.split(VIDEO)
        #: Token ids that every prompt begins with, whatever the window.
        self.prefix: list[int] = _common(
            *(self._encode(f"{self._before}<{t} seconds>") for t in ("0.0", "12.5", "9.9"))
        )

    def build(self, frame_us: Sequence[int], grid: tuple[int, int, int]) -> TokenizedPrompt:
        """`frame_us`: times of the frames relative to the window's start; `grid`: (t, h, w) of the resized video."""
        text = self.text(frame_us, grid)
        ids = torch.tensor(self._encode(text))
        types = torch.where(ids == self.video_id, VIDEO_TYPE, TEXT_TYPE)
        return TokenizedPrompt(ids, types, grid)

    def text(self, frame_us: Sequence[int], grid: tuple[int, int, int]) -> str:
        """The prompt as text, placeholders written out."""
        pairs, rows, columns = grid
        seconds = [us / SECOND_US for us in announced_us(frame_us, self._temporal)]
        if len(seconds) != pairs:
            raise ValueError(f"{len(frame_us)} frames do not make {pairs} temporal pairs")
        shown = VISION_START + VIDEO * (rows * columns // self._merge**2) + VISION_END
        return self._before + "".join(f"<{t:.1f} seconds>{shown}" for t in seconds) + self._after

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def positions(model: Any, prompt: TokenizedPrompt) -> tuple[torch.Tensor, int]:
    """MRoPE `position_ids` int64 [4, L] (text, then time, height, width) and the position of the first answer token.

    `model` is transformers' `Qwen3VL(Moe)Model`, whose own `get_rope_index` computes them.
    """
    vision, _ = model.get_rope_index(
        prompt.ids[None], mm_token_type_ids=prompt.types[None], video_grid_thw=torch.tensor([prompt.grid])
    )
    text = torch.arange(len(prompt))
    return torch.cat((text[None], vision[:, 0])), int(vision.max()) + 1


def _render(template: str, system: str, user: str) -> str:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    def say(role: str, *texts: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}

    messages = ([say("system", system)] if system else []) + [say("user", VIDEO, user)]
    try:
        rendered = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)[0]
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(f"the checkpoint's chat template cannot be rendered: {error}") from error
    text = str(rendered[0])
    # A thinking model's template opens its thoughts here; the answer must come at once, so they are closed again.
    return f"{text}\n</think>\n\n" if text.rstrip().endswith("<think>") else text


def _common(*sequences: Sequence[int]) -> list[int]:
    """What all begin with."""
    shared = []
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) != 1:
            break
        shared.append(tokens[0])
    return shared
