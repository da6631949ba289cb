"""The real sizes, dry: every tensor of their index is accounted for, and memory is what the parameters add up to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from model.checkpoint.header import Stored
from model.checkpoint.index import Checkpoint
from model.checkpoint.published import published_config
from model.checkpoint.source import LocalSource
from pipeline.errors import ModelError

pytest.importorskip("torch")


def hub_index(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a hub checkpoint of the 4.57 era with its shape, written out from the published naming."""
    t, v = config["text_config"], config["vision_config"]
    h, d, wide = t["hidden_size"], t["head_dim"], v["hidden_size"]
    q, kv = t["num_attention_heads"] * d, t["num_key_value_heads"] * d
    found: dict[str, tuple[int, ...]] = {
        "model.language_model.embed_tokens.weight": (t["vocab_size"], h),
        "model.language_model.norm.weight": (h,),
        "model.visual.patch_embed.proj.weight": (wide, 3, 2, 16, 16),
        "model.visual.patch_embed.proj.bias": (wide,),
        "model.visual.pos_embed.weight": (2304, wide),
    }
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (t["vocab_size"], h)
    for n in range(t["num_hidden_layers"]):
        layer = f"model.language_model.layers.{n}"
        found |= {
            f"{layer}.input_layernorm.weight": (h,),
            f"{layer}.post_attention_layernorm.weight": (h,),
            f"{layer}.self_attn.q_proj.weight": (q, h),
            f"{layer}.self_attn.k_proj.weight": (kv, h),
            f"{layer}.self_attn.v_proj.weight": (kv, h),
            f"{layer}.self_attn.o_proj.weight": (h, q),
            f"{layer}.self_attn.q_norm.weight": (d,),
            f"{layer}.self_attn.k_norm.weight": (d,),
        }
        if "num_experts" in t:
            e, i = t["num_experts"], t["moe_intermediate_size"]
            found |= {
                f"{layer}.mlp.gate.weight": (e, h),
                f"{layer}.mlp.experts.gate_up_proj": (e, h, 2 * i),
                f"{layer}.mlp.experts.down_proj": (e, i, h),
            }
        else:
            i = t["intermediate_size"]
            found |= {f"{layer}.mlp.{name}.weight": (i, h) for name in ("gate_proj", "up_proj")}
            found[f"{layer}.mlp.down_proj.weight"] = (h, i)
    for n in range(v["depth"]):
        block, i = f"model.visual.blocks.{n}", v["intermediate_size"]
        for name, shape in {
            "norm1": (wide,),
            "norm2": (wide,),
            "attn.qkv": (3 * wide, wide),
            "attn.proj": (wide, wide),
            "mlp.linear_fc1": (i, wide),
            "mlp.linear_fc2": (wide, i),
        }.items():
            found |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    mergers = {"model.visual.merger": wide} | {
        f"model.visual.deepstack_merger_list.{n}": 4 * wide for n in range(len(v["deepstack_visual_indexes"]))
    }
    for merger, normed in mergers.items():
        found |= {
            f"{merger}.norm.weight": (normed,),
            f"{merger}.norm.bias": (normed,),
            f"{merger}.linear_fc1.weight": (4 * wide, 4 * wide),
            f"{merger}.linear_fc1.bias": (4 * wide,),
            f"{merger}.linear_fc2.weight": (h, 4 * wide),
            f"{merger}.linear_fc2.bias": (h,),
        }
    return found


def checkpoint_of(shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> Checkpoint:
    tensors = {name: Stored(name, "model.safetensors", "BF16", shape, 0) for name, shape in shapes.items()}
    return Checkpoint(LocalSource("/published"), config, tensors)


@pytest.mark.parametrize(
    ("size", "billions"),  # as the hub counts parameters
    [("2B", 2.13), ("4B", 4.44), ("8B", 8.77), ("32B", 33.4), ("30B-A3B", 31.07), ("235B-A22B", 235.7)],
)
def test_every_tensor_of_the_published_sizes_is_accounted_for(size: str, billions: float) -> None:
    import torch

    from model.checkpoint.memory import weights_memory
    from model.checkpoint.plan import plan_model
    from model.checkpoint.skeleton import parse_config

    raw = published_config(size)
    shapes = hub_index(raw)
    config = parse_config(raw, size)
    model = plan_model(checkpoint_of(shapes, raw), config).model
    parameters = sum(map(math.prod, shapes.values()))
    assert parameters / 1e9 == pytest.approx(billions, rel=0.003)
    one = weights_memory(model, 1, torch.bfloat16)
    assert one.total == 2 * parameters
    experts = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    for ranks in (2, 4, 8, 16):
        assert weights_memory(model, ranks, torch.bfloat16).total == 2 * (parameters - experts + experts // ranks)
    rope = model.model.language_model.rotary_emb
    assert rope.mrope_section == [24, 20, 20] and rope.inv_freq.shape == (64,)
    assert rope.inv_freq[1].item() == pytest.approx(5e6 ** (-1 / 64))

    lost = dict(shapes)
    del lost["model.language_model.layers.27.self_attn.q_norm.weight"]
    with pytest.raises(ModelError, match=r"layers\.27\.self_attn\.q_norm\.weight is missing"):
        plan_model(checkpoint_of(lost, raw), config)


def test_forecast_prints_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "--model", "30B-A3B", "--ranks", "1,8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kv_bytes_per_token"] == 2 * 48 * 4 * 128 * 2
    assert facts["ranks"]["1"]["experts"] == 48 * 128 * 3 * 2048 * 768 * 2
    assert facts["ranks"]["8"]["experts"] == facts["ranks"]["1"]["experts"] // 8
    assert main(["forecast", "--model", "30B-A3B", "--ranks", "1,8"]) == 0
    assert "57.87" in capsys.readouterr().out


def test_forecast_faults_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["forecast", "--model", "30B-A3B", "--ranks", "129"]) == 1
    assert main(["forecast", "--model", "30B-A3B", "--ranks", "two"]) == 1
    assert main(["forecast", "--model", "8B", "--ranks", "0"]) == 1
    assert main(["forecast", "--model", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and all(line.startswith("secondsight: ") for line in said)
    assert "129 ranks" in said[0] and "--ranks two" in said[1] and "--ranks 0" in said[2] and "config.json" in said[3]
