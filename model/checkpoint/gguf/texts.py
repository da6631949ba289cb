"""What GGUF metadata say of a Qwen3-VL, as the text files that a checkpoint has: configuration, tokenizer, template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import ModelError

ARCHITECTURES = {"qwen3vl": "qwen3_vl", "qwen3vlmoe": "qwen3_vl_moe"}
#: How Qwen's tokenizer cuts text before it merges; tokenizer.ggml.pre names it.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
Refuse = Callable[[str], ModelError]


class Metadata:
    """Typed look-ups. Raises ModelError naming the key that is missing or of another type."""

    def __init__(self, values: Mapping[str, Any], refuse: Refuse) -> None:
        self.values, self.refuse = values, refuse

    def whole(self, key: str) -> int:
        value = self.values.get(key)
        if type(value) is not int or not 0 < value < 1 << 32:
            raise self.refuse(f"{key} is {ascii(value)[:40]}, expected a whole number")
        return value

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if not isinstance(value, (int, float)) or not 0 < value < 1e12:
            raise self.refuse(f"{key} is {ascii(value)[:40]}, expected a number")
        return float(value)

    def listed(self, key: str, of: type, least: int = 1) -> list[Any]:
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) < least or not all(isinstance(item, of) for item in value):
            raise self.refuse(f"{key} is {ascii(value)[:40]}, expected a list")
        return value


def architecture(text: Metadata) -> str:
    """`qwen3_vl` or `qwen3_vl_moe`. Raises ModelError for another model's file, listing what is known."""
    named = text.values.get("general.architecture")
    if named not in ARCHITECTURES:
        raise text.refuse(f"its architecture is {ascii(named)[:40]}; known are {', '.join(ARCHITECTURES)}")
    return str(named)


def deepstack_layers(vision: Metadata) -> list[int]:
    return [i for i, taken in enumerate(vision.listed("clip.vision.is_deepstack_layers", bool)) if taken]


def config_of(text: Metadata, vision: Metadata, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """config.json. `shapes` by the checkpoint's names."""
    arch = architecture(text)
    kind = ARCHITECTURES[arch]
    if vision.values.get("clip.projector_type") != "qwen3vl_merger":
        raise vision.refuse(f"its projector is {ascii(vision.values.get('clip.projector_type'))[:40]}, not Qwen3-VL's")
    embedding, positions = shapes.get("model.language_model.embed_tokens.weight"), shapes.get(
        "model.visual.pos_embed.weight"
    )  # fmt: skip
    if embedding is None or positions is None:
        raise text.refuse("it has no token embedding, or its mmproj no position embedding")
    tokens = _tokens(text)
    config: dict[str, Any] = {
        "model_type": f"{kind}_text",
        "hidden_size": text.whole(f"{arch}.embedding_length"),
        "num_hidden_layers": text.whole(f"{arch}.block_count"),
        "num_attention_heads": text.whole(f"{arch}.attention.head_count"),
        "num_key_value_heads": text.whole(f"{arch}.attention.head_count_kv"),
        "head_dim": text.whole(f"{arch}.attention.key_length"),
        "intermediate_size": text.whole(f"{arch}.feed_forward_length"),
        "vocab_size": embedding[0],
        "max_position_embeddings": text.whole(f"{arch}.context_length"),
        "rms_norm_eps": text.number(f"{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": text.number(f"{arch}.rope.freq_base"),
        "rope_scaling": {
            "rope_type": "default",
            "mrope_section": text.listed(f"{arch}.rope.dimension_sections", int, 3)[:3],
            "mrope_interleaved": True,
        },
        "attention_bias": False,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }
    if kind == "qwen3_vl_moe":
        config |= {
            "num_experts": text.whole(f"{arch}.expert_count"),
            "num_experts_per_tok": text.whole(f"{arch}.expert_used_count"),
            "moe_intermediate_size": text.whole(f"{arch}.expert_feed_forward_length"),
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        }
    return {
        "model_type": kind,
        "text_config": config,
        "vision_config": {
            "model_type": kind,
            "depth": vision.whole("clip.vision.block_count"),
            "hidden_size": vision.whole("clip.vision.embedding_length"),
            "intermediate_size": vision.whole("clip.vision.feed_forward_length"),
            "num_heads": vision.whole("clip.vision.attention.head_count"),
            "in_channels": 3,
            "patch_size": vision.whole("clip.vision.patch_size"),
            "temporal_patch_size": 2,
            "spatial_merge_size": vision.whole("clip.vision.spatial_merge_size"),
            "num_position_embeddings": positions[0],
            "out_hidden_size": vision.whole("clip.vision.projection_dim"),
            "deepstack_visual_indexes": deepstack_layers(vision),
            "hidden_act": "gelu_pytorch_tanh",
        },
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        **{
            key: tokens.index(token)
            for key, token in (
                ("image_token_id", "<|image_pad|>"),
                ("video_token_id", "<|video_pad|>"),
                ("vision_start_token_id", "<|vision_start|>"),
                ("vision_end_token_id", "<|vision_end|>"),
            )
            if token in tokens
        },
    }


def tokenizer_of(text: Metadata) -> dict[str, Any]:
    """tokenizer.json: Qwen's byte-level BPE."""
    kind, pre = text.values.get("tokenizer.ggml.model"), text.values.get("tokenizer.ggml.pre")
    if (kind, pre) != ("gpt2", "qwen2"):
        raise text.refuse(f"its tokenizer is {ascii(kind)[:40]}, {ascii(pre)[:40]}; known is gpt2, qwen2")
    tokens, types = _tokens(text), text.listed("tokenizer.ggml.token_type", int)
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise text.refuse("its tokens and their types differ in number, or a token occurs twice")
    merges = [merge.partition(" ") for merge in text.listed("tokenizer.ggml.merges", str, 0)]
    if not all(first and second and " " not in second for first, _, second in merges):
        raise text.refuse("a merge of its tokenizer is not two parts")
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[i] == _CONTROL,
        }
        for i, token in enumerate(tokens)
        if types[i] in (_CONTROL, _USER_DEFINED)
    ]
    special = (_CONTROL, _USER_DEFINED, _UNUSED)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens) if types[i] not in special},
            "merges": [[first, second] for first, _, second in merges],
        },
    }


def generation_of(text: Metadata) -> dict[str, Any]:
    """generation_config.json: the tokens that end an answer."""
    tokens = _tokens(text)
    ends = {tokens.index(token) for token in ("<|im_end|>", "<|endoftext|>") if token in tokens}
    named = text.values.get("tokenizer.ggml.eos_token_id")
    return {"eos_token_id": sorted(ends | ({named} if type(named) is int else set()))}


def preprocessor_of(vision: Metadata) -> dict[str, Any]:
    """video_preprocessor_config.json; what GGUF does not say is Qwen3-VL's default."""
    return {
        "patch_size": vision.whole("clip.vision.patch_size"),
        "temporal_patch_size": 2,
        "merge_size": vision.whole("clip.vision.spatial_merge_size"),
        "image_mean": vision.listed("clip.vision.image_mean", float, 3)[:3],
        "image_std": vision.listed("clip.vision.image_std", float, 3)[:3],
    }


def _tokens(text: Metadata) -> list[str]:
    return text.listed("tokenizer.ggml.tokens", str)
