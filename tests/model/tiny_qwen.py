"""Whole tiny Qwen3-VL checkpoints for tests: random weights, a tokenizer trained here, a chat template, all files.

The same file layout as the published checkpoints; nothing is downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PROMPTS = Path(__file__).parents[2] / "model" / "prompts"
#: A prompt with short answers, so that a model of random weights both ends answers and is cut off in them.
PROMPT = """
user = "List the events."
[answer]
kinds = ["person", "vehicle"]
max_events = 2
max_text = 12
"""
#: The same, about windows of four frames: files of seconds make several.
PROMPT_2S = f"""{PROMPT}
[sampling]
fps = 2
[window]
length_s = 2
overlap_s = 0
"""
VOCABULARY = 1024  # rows of the output layer; the tokenizer has fewer, as the published ones do
CONTROL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip

# Words split as GPT-4's tokenizer does, digits one by one: as the published tokenizers.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEMPLATE = r"""
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{- message.content }}{%- else %}
{%- for part in message.content %}
{%- if part.type == 'text' %}{{- part.text }}
{%- elif part.type == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{%- endif %}
{%- endfor %}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
""".replace("\n", "")


def tokenizer() -> Tokenizer:
    """A byte-level BPE of some 700 tokens, with Qwen's control tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = [path.read_text() for path in sorted(PROMPTS.glob("*.toml"))]
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(CONTROL)
    return bpe


def random_model(
    kind: str, bpe: Tokenizer, seed: int = 0, text: dict[str, Any] | None = None, experts: dict[str, Any] | None = None
) -> Any:
    """transformers' own model of `kind` ("moe": 8 experts, top 2; "dense"), float32, DeepStack on, random weights
    large enough for every part to matter. `text` and `experts`: other sizes."""
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 32_768,
        "eos_token_id": bpe.token_to_id("<|im_end|>"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    }
    for name, value in (text or {}).items():
        shape[name] = {**shape[name], **value} if isinstance(value, dict) else value
    sparse = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, **(experts or {})}
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 16,
        "out_hidden_size": shape["hidden_size"],
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    moe = kind == "moe"
    config = (Qwen3VLMoeConfig if moe else Qwen3VLConfig)(
        text_config={**shape, **(sparse if moe else {})},
        vision_config=vision,
        image_token_id=bpe.token_to_id("<|image_pad|>"),
        video_token_id=bpe.token_to_id("<|video_pad|>"),
        vision_start_token_id=bpe.token_to_id("<|vision_start|>"),
        vision_end_token_id=bpe.token_to_id("<|vision_end|>"),
        tie_word_embeddings=not moe,
    )
    torch.manual_seed(seed)
    built = (Qwen3VLMoeForConditionalGeneration if moe else Qwen3VLForConditionalGeneration)(config)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5 if name.endswith("gate.weight") else 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return built.eval()


def save(folder: Path, kind: str, seed: int = 0, model: Any = None) -> Path:
    """Write a whole checkpoint of `kind` into `folder`; of `model` where it is given."""
    bpe = tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    built = model or random_model(kind, bpe, seed)
    built.generation_config.eos_token_id = [bpe.token_to_id("<|im_end|>"), bpe.token_to_id("<|endoftext|>")]
    built.generation_config.pad_token_id = bpe.token_to_id("<|endoftext|>")
    built.save_pretrained(folder)
    bpe.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    preprocessor = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 4096, "longest_edge": 25_165_824},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
        "video_processor_type": "Qwen3VLVideoProcessor",
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
