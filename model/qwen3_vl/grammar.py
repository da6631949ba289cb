"""Constrained decoding: at every step only the tokens that can still lead to a valid answer.

llguidance, chosen over xgrammar 0.2.8 and outlines-core 0.2.14 by `python -m jobs.bench.grammar`: for this schema and
a vocabulary of 151 643 tokens it compiles in milliseconds (xgrammar: 12 s; outlines-core: over 100 s), masks faster on
average (0.13 against 0.8 ms), holds numbers to tenths, which xgrammar ignores, and takes quotes inside bounded
strings, which xgrammar refuses. It needs no other package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
import torch

from pipeline.errors import ModelError


class Grammar:
    """Makes one `Constraint` per answer. Compiled schemas are kept: windows of a run share one or two.

    `tokenizer_json`: the text of tokenizer.json. `vocabulary`: rows of the model's output layer, which is often larger
    than the tokenizer. Costs some seconds for a tokenizer of 150 000 tokens.
    """

    def __init__(self, tokenizer_json: str, vocabulary: int, eos: int) -> None:
        try:
            self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=eos)
        except Exception as error:
            raise ModelError(f"tokenizer.json cannot be used for constrained decoding: {error}") from error
        self.vocabulary = vocabulary
        self._compiled: dict[str, str] = {}

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        key = json.dumps(schema)
        if key not in self._compiled:
            self._compiled[key] = llguidance.LLMatcher.grammar_from_json_schema(
                dict(schema), overrides={"whitespace_flexible": False}
            )
        matcher = llguidance.LLMatcher(self._tokenizer, self._compiled[key])
        if matcher.is_error():
            raise ModelError(f"the prompt's answer form makes no grammar: {matcher.get_error()}")
        return Constraint(matcher, self.vocabulary)


class Constraint:
    """Where one answer stands in the grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def allowed(self) -> np.ndarray:
        """Bool [vocabulary]: the tokens that may come next."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(packed, bitorder="little", count=self._vocabulary).view(np.bool_)

    def take(self, token: int) -> bool:
        """The answer goes on with `token`. True when it is complete: nothing more may follow."""
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"token {token} was not allowed: {self._matcher.get_error()}")
        return bool(self._matcher.is_stopped())


def forbid(logits: torch.Tensor, constraints: Sequence[Constraint | None]) -> None:
    """Set the logits [B, vocabulary] of tokens that may not come next to -inf, in place."""
    if all(constraint is None for constraint in constraints):
        return
    rows = [np.ones(logits.shape[1], dtype=np.bool_) if c is None else c.allowed() for c in constraints]
    allowed = torch.from_numpy(np.stack(rows)).to(logits.device, non_blocking=True)
    logits.masked_fill_(~allowed, float("-inf"))
