"""The published shapes of the Qwen3-VL family, as config.json states them: for dry runs, never for reading weights.

Checked against public copies of the hub's config.json (30B-A3B, 4B) and torchtitan's model definitions
(pytorch/torchtitan, experiments/qwen3_vl: 2B, 8B, 30B-A3B, 235B-A22B);
32B is the text shape of Qwen3-32B. A checkpoint's own config.json always wins.
"""

from __future__ import annotations

from typing import Any

#: name -> (hidden, layers, heads, key/value heads, width of a dense layer, experts, top, width of an expert)
_TEXT: dict[str, tuple[int, int, int, int, int, int, int, int]] = {
    "2B": (2048, 28, 16, 8, 6144, 0, 0, 0),
    "4B": (2560, 36, 32, 8, 9728, 0, 0, 0),
    "8B": (4096, 36, 32, 8, 12288, 0, 0, 0),
    "32B": (5120, 64, 64, 8, 25600, 0, 0, 0),
    "30B-A3B": (2048, 48, 32, 4, 6144, 128, 8, 768),
    "235B-A22B": (4096, 94, 64, 4, 12288, 128, 8, 1536),
}
_SMALL_TOWER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
_TIED = ("2B", "4B")

PUBLISHED = tuple(_TEXT)


def published_config(name: str) -> dict[str, Any]:
    """config.json of one published size, with the keys that the hub's files have."""
    hidden, layers, heads, kv_heads, width, experts, top, expert_width = _TEXT[name]
    kind = "qwen3_vl_moe" if experts else "qwen3_vl"
    text: dict[str, Any] = {
        "model_type": f"{kind}_text",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "intermediate_size": width,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5_000_000,
        "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
        "attention_bias": False,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }
    if experts:
        text |= {
            "num_experts": experts,
            "num_experts_per_tok": top,
            "moe_intermediate_size": expert_width,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        }
    vision = {
        **(_SMALL_TOWER if name in _TIED else _TOWER),
        "model_type": kind,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": hidden,
        "hidden_act": "gelu_pytorch_tanh",
    }
    return {
        "architectures": ["Qwen3VLMoeForConditionalGeneration" if experts else "Qwen3VLForConditionalGeneration"],
        "model_type": kind,
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": name in _TIED,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
    }
