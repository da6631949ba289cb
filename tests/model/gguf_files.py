"""Tiny GGUF files for tests, written by the gguf package under llama.cpp's own names, and what they stand for.

`write` turns transformers' model and a tokenizer into a text model and an mmproj, as llama.cpp's converter does; the
model it is given gets the dequantised weights, so that it is the reference for what was written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

#: K-quants cannot be written by the package: blocks of random bits are as good as any, with scales of a usual size.
SCALES = {Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}  # bytes at which a block's float16 scales lie


def stored(values: np.ndarray, kind: Type, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of a matrix in `kind`, and the float32 values that they stand for."""
    if kind in (Type.F32, Type.F16):
        raw = values.astype(np.float16 if kind == Type.F16 else np.float32)
        return raw, raw.astype(np.float32)
    if kind == Type.BF16 or kind not in SCALES:
        raw = gguf.quants.quantize(np.ascontiguousarray(values, np.float32), kind)
    else:
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        rng = np.random.default_rng(seed)
        raw = rng.integers(0, 256, (*values.shape[:-1], values.shape[-1] // block, nbytes), dtype=np.uint8)
        for at in SCALES[kind]:
            scale = np.full(raw.shape[:-1], 0.0002, np.float16)[..., None]
            raw[..., at : at + 2] = scale.view(np.uint8)
        raw = raw.reshape(*values.shape[:-1], -1)
    return raw, gguf.quants.dequantize(raw, kind)


def write(folder: Path, model: Any, tokenizer: Any, template: str, kind: Type, name: str = "model.gguf") -> Path:
    """Matrices of the language model in `kind`, norms in F32, vision in F16. `model` is changed to what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    moe = config.model_type == "qwen3_vl_moe"
    arch = gguf.MODEL_ARCH.QWEN3VLMOE if moe else gguf.MODEL_ARCH.QWEN3VL
    text, vision = config.text_config, config.vision_config
    main = gguf.GGUFWriter(folder / name, gguf.MODEL_ARCH_NAMES[arch])
    main.add_block_count(text.num_hidden_layers)
    main.add_context_length(text.max_position_embeddings)
    main.add_embedding_length(text.hidden_size)
    main.add_feed_forward_length(text.intermediate_size)
    main.add_head_count(text.num_attention_heads)
    main.add_head_count_kv(text.num_key_value_heads)
    main.add_key_length(text.head_dim)
    main.add_value_length(text.head_dim)
    main.add_layer_norm_rms_eps(text.rms_norm_eps)
    main.add_rope_freq_base(text.rope_parameters["rope_theta"])
    main.add_rope_dimension_sections([*text.rope_parameters["mrope_section"], 0])
    main.add_num_deepstack_layers(len(vision.deepstack_visual_indexes))
    if moe:
        main.add_expert_count(text.num_experts)
        main.add_expert_used_count(text.num_experts_per_tok)
        main.add_expert_feed_forward_length(text.moe_intermediate_size)
    _write_tokenizer(main, tokenizer, text.vocab_size, template)
    projector = gguf.GGUFWriter(folder / f"mmproj-{name}", "clip")
    projector.add_clip_has_vision_encoder(True)
    projector.add_clip_projector_type(gguf.VisionProjectorType.QWEN3VL)
    projector.add_vision_block_count(vision.depth)
    projector.add_vision_embedding_length(vision.hidden_size)
    projector.add_vision_feed_forward_length(vision.intermediate_size)
    projector.add_vision_head_count(vision.num_heads)
    projector.add_vision_attention_layernorm_eps(1e-6)
    projector.add_vision_image_size(vision.patch_size * round(vision.num_position_embeddings**0.5))
    projector.add_vision_patch_size(vision.patch_size)
    projector.add_vision_projection_dim(vision.out_hidden_size)
    projector.add_vision_spatial_merge_size(vision.spatial_merge_size)
    projector.add_vision_image_mean([0.5, 0.5, 0.5])
    projector.add_vision_image_std([0.5, 0.5, 0.5])
    projector.add_vision_use_gelu(True)
    projector.add_vision_is_deepstack_layers([i in vision.deepstack_visual_indexes for i in range(vision.depth)])

    names = gguf.get_tensor_name_map(arch, text.num_hidden_layers)
    vision_names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, vision.depth)
    for seed, (full, parameter) in enumerate(model.named_parameters()):
        if full == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = parameter.detach().numpy()
        if full.startswith("model.visual."):
            for part, chosen, back in _vision(full.removeprefix("model."), values, vision, vision_names):
                whole = chosen.ndim == 1 or "position_embd" in part  # as llama.cpp's converter leaves them
                raw, meant = stored(chosen, Type.F32 if whole else Type.F16, seed)
                projector.add_tensor(part, raw)
                back[...] = meant
            continue
        short = full.replace("model.language_model.", "model.")
        pieces = [(short, values)]
        if short.endswith("experts.gate_up_proj"):
            half = values.shape[1] // 2
            stem = short.removesuffix("gate_up_proj")
            pieces = [(f"{stem}gate_proj.weight", values[:, :half]), (f"{stem}up_proj.weight", values[:, half:])]
        elif short.endswith("experts.down_proj"):
            pieces = [(f"{short}.weight", values)]
        for i, (piece, part) in enumerate(pieces):
            found = names.get_name(piece, try_suffixes=(".weight", ".bias"))
            assert found is not None, piece
            router = piece.endswith("mlp.gate.weight")
            raw, meant = stored(part, Type.F32 if part.ndim == 1 or router else kind, 1000 * i + seed)
            main.add_tensor(found, raw, raw_dtype=None if raw.dtype != np.uint8 else kind)
            part[...] = meant
    for writer in (main, projector):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return folder / name


def _vision(name: str, values: np.ndarray, vision: Any, names: Any) -> Any:
    """llama.cpp's name of a vision tensor, its values, and the view to write what they became into."""
    leaf = name.rpartition(".")[2]
    if name == "visual.patch_embed.proj.weight":
        for at, end in ((0, ""), (1, ".1")):
            yield f"v.patch_embd.weight{end}", np.ascontiguousarray(values[:, :, at]), values[:, :, at]
    elif name.startswith("visual.merger."):
        part = {"norm": "v.post_ln", "linear_fc1": "mm.0", "linear_fc2": "mm.2"}[name.split(".")[2]]
        yield f"{part}.{leaf}", values, values
    elif name.startswith("visual.deepstack_merger_list."):
        _, _, place, part, _ = name.split(".")
        short = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}[part]
        yield f"v.deepstack.{vision.deepstack_visual_indexes[int(place)]}.{short}.{leaf}", values, values
    else:
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        yield found, values, values


def _write_tokenizer(writer: Any, tokenizer: Any, rows: int, template: str) -> None:
    """As llama.cpp's converter: every row of the embedding has a token, those that are not used are padding."""
    said = json.loads(tokenizer.to_str())
    added = {token["id"]: token for token in said["added_tokens"]}
    by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(rows)]
    kinds = [
        gguf.TokenType.CONTROL if i in added else gguf.TokenType.NORMAL if i in by_id else gguf.TokenType.UNUSED
        for i in range(rows)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in said["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_chat_template(template)
