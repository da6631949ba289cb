"""The tokenizer of the bundled checkpoint: whole words, whole numbers and whole pieces of JSON; bytes for all else.

A byte-level BPE without merges: a pre-tokenizer cuts text into the vocabulary's entries, each of which is one token
(`ignore_merges`), and what is none of them falls into its bytes. Any text can so be written and read, and an answer
about the generated world needs some 13 tokens per event.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from jobs.demo.archive import FILMS
from jobs.demo.shapes import SHAPES
from jobs.demo.story import WORDS
from jobs.demo.world import COLOURS

#: Qwen's own special tokens that a Qwen3-VL prompt uses.
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
#: Words that the world shows as text, besides numbers.
SHOWN = tuple(sorted({*WORDS, *(word for film in FILMS for word in film.title.split())}))
MOST_TENTHS = 160  # times up to 16.0 s are one token each

_TEXT = (
    "a", "an", "the", "appears", "moves", "left", "right", "up", "down", "turns", "becomes", "grows", "shrinks",
    "meets", "leaves", "cut", "fade", "out", "in", "black", "dissolve", "frozen",
)  # fmt: skip
#: The pieces after which an event's start or end comes.
BEFORE_TIME = ('{"events":[{"start":', '},{"start":', ',"end":')
BEFORE_CONFIDENCE = '","confidence":'
BEFORE_KIND = ',"kind":"'
_GLUE = (
    *BEFORE_TIME, '{"events":[', "]}", "}]}", BEFORE_KIND, BEFORE_CONFIDENCE, " seconds>", "system\n", "user\n",
    "assistant\n",
)  # fmt: skip


def build_tokenizer(kinds: Sequence[str], prompt_lines: Sequence[str]) -> Tokenizer:
    """A tokenizer for answers with these kinds, asked for by a prompt of these lines (each becomes one token)."""
    phrases = [*_GLUE, *(f'{kind}","text":"' for kind in kinds), *filter(None, prompt_lines)]
    numbers = [f"{n // 10}.{n % 10}" for n in range(MOST_TENTHS + 1)]
    numbers += [f"0.{n:02}" for n in range(1, 100) if n % 10]
    words = [space + word for word in (*_TEXT, *COLOURS, *SHAPES, *SHOWN) for space in ("", " ")]
    digits = [f" {n}" for n in range(10)]  # without the space they are bytes
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [as_bytes.pre_tokenize_str(entry)[0][0] for entry in (*phrases, *numbers, *words, *digits)]
    entries = [*alphabet, *sorted(set(spelled) - set(alphabet))]
    literal = "|".join(re.escape(phrase) for phrase in sorted(set(phrases), key=lambda p: (-len(p), p)))
    pieces = rf"{literal}|[0-9]+\.[0-9]+| ?[A-Za-z]+| ?[0-9]|[\s\S]"
    tokenizer = Tokenizer(models.BPE(vocab={e: i for i, e in enumerate(entries)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pieces), "isolated"), as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of one token that must be there."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return number
