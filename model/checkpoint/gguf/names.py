"""llama.cpp's names of tensors (gguf.constants: QWEN3VL, QWEN3VLMOE, MMPROJ) and the checkpoint's own."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TEXT = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: Stacks [experts, rows, columns], which no module owns: without ".weight".
_STACKS = {
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_VISION = {
    "v.patch_embd": "patch_embed.proj",
    "v.position_embd": "pos_embed",
    "v.post_ln": "merger.norm",
    "mm.0": "merger.linear_fc1",
    "mm.2": "merger.linear_fc2",
}
_BLOCK = {
    "ln1": "norm1",
    "ln2": "norm2",
    "attn_qkv": "attn.qkv",
    "attn_out": "attn.proj",
    "ffn_up": "mlp.linear_fc1",
    "ffn_down": "mlp.linear_fc2",
}
_DEEPSTACK = {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"}

#: The two halves of the patch embedding, which llama.cpp keeps apart by time.
PATCH_HALVES = ("v.patch_embd.weight", "v.patch_embd.weight.1")
PATCH = "model.visual.patch_embed.proj.weight"


def checkpoint_name(name: str, deepstack: Sequence[int]) -> str | None:
    """The checkpoint's name of a tensor; None for one that Qwen3-VL does not have.

    `deepstack`: the vision layers after which features are taken, in order.
    """
    stem, _, leaf = name.rpartition(".")
    if leaf not in ("weight", "bias"):
        return None
    if name == "output.weight":
        return "lm_head.weight"
    if stem in _TEXT:
        return f"model.language_model.{_TEXT[stem]}.{leaf}"
    if match := re.fullmatch(r"blk\.(\d{1,4})\.(\w+)", stem):
        layer, part = f"model.language_model.layers.{int(match[1])}", match[2]
        if part in _STACKS and leaf == "weight":
            return f"{layer}.{_STACKS[part]}"
        return f"{layer}.{_LAYER[part]}.{leaf}" if part in _LAYER else None
    if stem in _VISION:
        return f"model.visual.{_VISION[stem]}.{leaf}"
    if match := re.fullmatch(r"v\.blk\.(\d{1,4})\.(\w+)", stem):
        return f"model.visual.blocks.{int(match[1])}.{_BLOCK[match[2]]}.{leaf}" if match[2] in _BLOCK else None
    match = re.fullmatch(r"v\.deepstack\.(\d{1,4})\.(\w+)", stem)
    if match is None or int(match[1]) not in deepstack or match[2] not in _DEEPSTACK:
        return None
    return f"model.visual.deepstack_merger_list.{deepstack.index(int(match[1]))}.{_DEEPSTACK[match[2]]}.{leaf}"
