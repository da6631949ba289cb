"""Tiny random Qwen3-VL checkpoints for tests: transformers' own models, saved in every expert layout in the wild."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

VIDEO, IMAGE, START, END = 90, 91, 92, 93

TEXT = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
}
VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 4,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}


def build(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0, **text: Any) -> Any:
    """A randomly initialised model of `kind` ("moe" or "dense") with weights large enough for every part to matter."""
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    moe = kind == "moe"
    config = (Qwen3VLMoeConfig if moe else Qwen3VLConfig)(
        text_config={**TEXT, **(EXPERTS if moe else {}), **text},
        vision_config=VISION,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=not moe,
    )
    torch.manual_seed(seed)
    model = (Qwen3VLMoeForConditionalGeneration if moe else Qwen3VLForConditionalGeneration)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5 if name.endswith("gate.weight") else 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return cast(model, dtype).eval()


def cast(model: Any, dtype: torch.dtype) -> Any:
    """The model with its parameters in `dtype`, and its RoPE frequencies left in float32 as from_pretrained does."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def save(model: Any, folder: Path, layout: str = "transformers5", shards: int = 1, fp8: int = 0) -> Path:
    """Write `model` in one of the layouts "transformers5", "hub" (4.57 era) or "per_expert"; `fp8`: size of blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        tensors.update(_stored(name, tensor, layout))
    config = json.loads(model.config.to_json_string(use_diff=False))
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    if fp8:
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [fp8, fp8]}
        for name in [name for name in tensors if "experts" in name or "self_attn.q_proj" in name]:
            weight, scale = quantise(tensors[name], fp8)
            tensors[name] = weight
            tensors[f"{name}_scale_inv"] = scale
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    if shards == 1:
        save_file({n: tensors[n].contiguous() for n in names}, folder / "model.safetensors", {"format": "pt"})
        return folder
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file({n: tensors[n].contiguous() for n in names[shard::shards]}, folder / file, {"format": "pt"})
        index.update(dict.fromkeys(names[shard::shards], file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def _stored(name: str, tensor: Tensor, layout: str) -> dict[str, Tensor]:
    if ".experts." not in name or layout == "transformers5":
        return {name: tensor}
    if layout == "hub":
        return {name: tensor.transpose(1, 2).contiguous()}
    prefix, _, leaf = name.rpartition(".")
    found = {}
    for expert, matrix in enumerate(tensor):
        if leaf == "down_proj":
            found[f"{prefix}.{expert}.down_proj.weight"] = matrix
        else:
            gate, up = matrix.chunk(2)
            found[f"{prefix}.{expert}.gate_proj.weight"] = gate
            found[f"{prefix}.{expert}.up_proj.weight"] = up
    return found


def quantise(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """FP8 weight and block scales of [..., R, C], by a plain loop over blocks: independent of the reader."""
    stacked = weight.float().reshape(-1, *weight.shape[-2:])
    rows, columns = stacked.shape[1:]
    scale = torch.zeros(len(stacked), -(-rows // block), -(-columns // block))
    out = torch.zeros_like(stacked)
    for n, matrix in enumerate(stacked):
        for i in range(scale.shape[1]):
            for j in range(scale.shape[2]):
                part = (slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block))
                scale[n, i, j] = matrix[part].abs().max() / 448
                out[n][part] = matrix[part] / scale[n, i, j]
    return (
        out.to(torch.float8_e4m3fn).reshape(weight.shape),
        scale.reshape(*weight.shape[:-2], *scale.shape[1:]),
    )


def sample(seed: int, text: int, frames: int = 0, images: int = 0, grid: tuple[int, int] = (4, 6)) -> dict[str, Tensor]:
    """Inputs of one prompt: `text` random tokens, then images, then a video of `frames` temporal patches."""
    generator = torch.Generator().manual_seed(seed)
    h, w = grid
    patch = 3 * 2 * 4 * 4
    ids = [torch.randint(0, 90, (text,), generator=generator)]
    kinds = [torch.zeros(text, dtype=torch.long)]

    def visual(token: int, kind: int) -> None:
        count = h * w // 4
        ids.append(torch.tensor([START] + [token] * count + [END]))
        kinds.append(torch.tensor([0] + [kind] * count + [0]))
        ids.append(torch.randint(0, 90, (3,), generator=generator))
        kinds.append(torch.zeros(3, dtype=torch.long))

    found: dict[str, Tensor] = {}
    for _ in range(images):
        visual(IMAGE, 1)
    for _ in range(frames):
        visual(VIDEO, 2)
    if images:
        found["pixel_values"] = torch.randn(images * h * w, patch, generator=generator)
        found["image_grid_thw"] = torch.tensor([[1, h, w]] * images)
    if frames:
        found["pixel_values_videos"] = torch.randn(frames * h * w, patch, generator=generator)
        found["video_grid_thw"] = torch.tensor([[frames, h, w]])
    found["input_ids"] = torch.cat(ids)[None]
    found["mm_token_type_ids"] = torch.cat(kinds)[None]
    return found
