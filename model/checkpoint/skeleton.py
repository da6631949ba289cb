"""transformers' own Qwen3-VL, built without memory: parameters on the meta device, buffers real."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from pipeline.errors import ModelError

KINDS = {
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    "qwen3_vl_moe": (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration),
}
MOST_LAYERS = 1024

#: Settings that choose code (attention kernels and expert kernels can be fetched from the hub): ours, not the file's.
CODE_CHOICES = ("auto_map", "attn_implementation", "experts_implementation", "custom_pipelines")


def parse_config(raw: dict[str, Any], path: str) -> Any:
    """transformers' configuration object for the text of config.json. Raises ModelError for another kind of model."""
    where = f"{path}/config.json"
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelError(f"{where}: model_type is {ascii(kind)[:80]}, this reads {' and '.join(KINDS)}")
    try:
        config = KINDS[kind][0].from_dict(_without_code(raw))
    except Exception as error:
        raise ModelError(f"{where}: not a Qwen3-VL configuration ({' '.join(str(error).split())[:200]})") from error
    text, vision = config.text_config, config.vision_config
    sizes = {
        "num_hidden_layers": (text.num_hidden_layers, MOST_LAYERS),
        "depth": (vision.depth, MOST_LAYERS),
        "hidden_size": (text.hidden_size, 1 << 20),
        "vocab_size": (text.vocab_size, 1 << 24),
        "num_experts": (getattr(text, "num_experts", 1), 1 << 15),
    }
    for name, (value, most) in sizes.items():
        if not isinstance(value, int) or not 0 < value <= most:
            raise ModelError(f"{where}: {name} is {ascii(value)[:40]}, expected 1 to {most}")
    return config


def build_skeleton(config: Any, attention: str, path: str) -> nn.Module:
    """The model with every parameter on the meta device and every buffer (RoPE frequencies) real, in eval mode."""
    model_class = KINDS[config.model_type][1]
    config._attn_implementation = attention
    try:
        with torch.device("meta"):
            model: nn.Module = model_class(config)
        for module in model.modules():
            if module._buffers:  # they are not stored: compute them again, on the host
                fresh = type(module)(module.config)
                for name, buffer in fresh.named_buffers(recurse=False):
                    module.register_buffer(name, buffer, persistent=False)
    except Exception as error:
        raise ModelError(f"{path}/config.json: cannot be built ({' '.join(str(error).split())[:200]})") from error
    return model.eval()


def _without_code(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_code(v) for k, v in value.items() if k not in CODE_CHOICES and not str(k).startswith("_")}
    return value
