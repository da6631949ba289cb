"""The bundled checkpoint as files: what the model is like, and the exact Hugging Face layout of Qwen3-VL-MoE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from jobs.train.tokens import build_tokenizer, token_id
from model.prompts import Prompt
from model.qwen3_vl.answer import answer_instructions

PATCH, TEMPORAL, MERGE = 8, 2, 4
CONTEXT = 2048

#: The turns of a conversation as Qwen's chat models mark them; videos and images by their placeholders.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{- part['text'] -}}
{%- elif part['type'] == 'video' -%}{{- '<|video_pad|>' -}}
{%- elif part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

#: Size of the model. `tiny` is for tests.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "bundled": {
        "text": {"hidden_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "head_dim": 32, "moe_intermediate_size": 96, "intermediate_size": 192, "sections": [6, 5, 5]},
        "vision": {"depth": 4, "hidden_size": 64, "intermediate_size": 192, "num_heads": 4,
                   "deepstack_visual_indexes": [1]},
    },
    "tiny": {
        "text": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                 "head_dim": 16, "moe_intermediate_size": 24, "intermediate_size": 48, "sections": [4, 2, 2]},
        "vision": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                   "deepstack_visual_indexes": [0]},
    },
}  # fmt: skip


def system_text(prompt: Prompt) -> str:
    """The system text of `prompt`, as model/qwen3_vl puts it together."""
    return f"{prompt.system}\n\n{answer_instructions(prompt.answer)}".strip()


def prompt_tokenizer(prompt: Prompt) -> Tokenizer:
    return build_tokenizer(prompt.answer.kinds or (), [*system_text(prompt).split("\n"), *prompt.user.split("\n")])


def build_model(tokenizer: Tokenizer, size: str = "bundled", experts: int = 8, top: int = 2) -> Any:
    """A freshly initialised transformers model (float32) for `tokenizer`; torch's generator decides its weights."""
    text = {**SIZES[size]["text"]}
    sections = text.pop("sections")
    token = {name: token_id(tokenizer, f"<|{name}|>") for name in
             ("im_end", "endoftext", "video_pad", "image_pad", "vision_start", "vision_end")}  # fmt: skip
    vocabulary = -(-tokenizer.get_vocab_size() // 8) * 8
    config = Qwen3VLMoeConfig(
        text_config={
            **text,
            "vocab_size": vocabulary,
            "num_experts": experts,
            "num_experts_per_tok": top,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "max_position_embeddings": CONTEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": sections,
                "mrope_interleaved": True,
            },
            "eos_token_id": token["im_end"],
            "pad_token_id": token["endoftext"],
            "bos_token_id": None,
        },
        vision_config={
            **SIZES[size]["vision"],
            "patch_size": PATCH,
            "temporal_patch_size": TEMPORAL,
            "spatial_merge_size": MERGE,
            "out_hidden_size": text["hidden_size"],
            "num_position_embeddings": 256,
        },
        image_token_id=token["image_pad"],
        video_token_id=token["video_pad"],
        vision_start_token_id=token["vision_start"],
        vision_end_token_id=token["vision_end"],
        tie_word_embeddings=False,
    )
    return Qwen3VLMoeForConditionalGeneration(config)


def save_checkpoint(folder: Path, model: Any, tokenizer: Tokenizer, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write config, weights, tokenizer, chat template, processor and generation files into `folder`.

    Weights go last, and under their name only when they are whole, so that a folder with weights is a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.update(architectures=["Qwen3VLMoeForConditionalGeneration"], dtype=str(dtype).removeprefix("torch."))
    config["text_config"]["dtype"] = config["vision_config"]["dtype"] = config["dtype"]
    end, pad = token_id(tokenizer, "<|im_end|>"), token_id(tokenizer, "<|endoftext|>")
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    patches = {"patch_size": PATCH, "temporal_patch_size": TEMPORAL, "merge_size": MERGE, **normal}
    _write(folder, "config.json", config)
    _write(
        folder,
        "generation_config.json",
        {"eos_token_id": [end, pad], "pad_token_id": pad, "do_sample": False},
    )
    _write(
        folder,
        "preprocessor_config.json",
        {
            **patches,
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "processor_class": "Qwen3VLProcessor",
            "size": {"shortest_edge": 1024, "longest_edge": 1 << 20},
        },
    )
    _write(
        folder,
        "video_preprocessor_config.json",
        {
            **patches,
            "video_processor_type": "Qwen3VLVideoProcessor",
            "processor_class": "Qwen3VLProcessor",
            "size": {"shortest_edge": 4096, "longest_edge": 1 << 22},
            "fps": 2,
            "do_sample_frames": False,
        },
    )
    _write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "Qwen3VLProcessor",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    tokenizer.save(str(folder / "tokenizer.json"))
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    unfinished = folder / ".model.safetensors"
    save_file(tensors, unfinished, {"format": "pt"})
    unfinished.replace(folder / "model.safetensors")


def _write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
