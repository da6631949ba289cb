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


def test_experts_that_stay_in_fp8_take_half(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "--model", "30B-A3B", "--ranks", "1,8", "--json", "--precision", "fp8"]) == 0
    facts = json.loads(capsys.readouterr().out)
    weights = 48 * 128 * 3 * 2048 * 768
    scales = weights // 128**2  # one for each block of 128 x 128
    assert facts["ranks"]["1"]["experts"] in (weights + 2 * scales, weights + 4 * scales)
    assert facts["ranks"]["8"]["experts"] == facts["ranks"]["1"]["experts"] // 8
    assert main(["forecast", "--model", "30B-A3B", "--ranks", "1", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["ranks"]["1"]
    assert {k: v for k, v in facts["ranks"]["1"].items() if k not in ("experts", "total")} == {
        k: v for k, v in whole.items() if k not in ("experts", "total")
    }
    assert main(["forecast", "--model", "8B", "--precision", "fp8"]) == 1
    assert "dense model" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [8, 4])
def test_experts_in_few_bits_take_their_bits_and_their_scales(bits: int) -> None:
    from jobs.forecasting.memory import forecast_memory
    from pipeline.errors import ModelError

    facts = forecast_memory("30B-A3B", [1, 8], f"int{bits}")
    assert facts["precision"] == f"int{bits} experts, bfloat16"
    per_layer = 128 * (2 * 768 + 2048)  # outputs, each with a scale in int8
    weights, scales = 48 * 128 * 3 * 2048 * 768, 48 * (per_layer if bits == 8 else 128 * 3 * 2048 * 768 // 64)
    held = facts["ranks"]["1"]["experts"]
    assert weights * bits // 8 + 2 * scales <= held <= weights * bits // 8 + 4 * scales
    assert facts["ranks"]["8"]["experts"] == held // 8
    with pytest.raises(ModelError, match="dense model"):
        forecast_memory("8B", [1], f"int{bits}")


def test_a_windows_cost_is_what_the_card_needs_for_its_weights() -> None:
    from fractions import Fraction

    from jobs.forecasting.gpus import GPUS, Assumptions, window_cost
    from jobs.forecasting.memory import model_shape
    from pipeline.plan import Sampling, Windowing

    shape, h100 = model_shape("30B-A3B"), GPUS["H100"]
    sampling = Sampling(fps=Fraction(2), short_side=None, max_pixels=512 * 512, multiple=32)
    full = Assumptions(compute=1.0, traffic=1.0, output_tokens=100, prompt_tokens=0, batch=1)
    cost = window_cost(shape, sampling, Windowing(16_000_000, 0), (512, 512), h100, 1, full)
    assert cost.tokens == 16 * (256 + 8) and cost.features_bytes == 16 * 256 * 2
    attention = 48 * (2048 * 128 * (32 + 4 + 4) + 32 * 128 * 2048)
    active = attention + 48 * (8 * 3 * 2048 * 768 + 2048 * 128)  # 2.9 of the 3.3 billion: without embeddings
    # Of the tower: 27 layers of width 1152 and 4304, on 1024 patches a pair; 4 mergers of 4 x 1152, on 256 tokens.
    tower = 2 * 27 * (4 * 1152**2 + 2 * 1152 * 4304) * 1024 + 2 * 4 * (4608**2 + 4608 * 2048) * 256
    looked = 2 * 48 * 32 * 128 * cost.tokens**2 + 16 * 4 * 27 * 1152 * 1024**2
    assert cost.prefill_s == pytest.approx((2 * active * cost.tokens + 16 * tower + looked) / 989e12, rel=0.01)
    # One token at a time reads each active weight once, the head, and the keys and values.
    read = 2 * (active + 151_936 * 2048) + 98_304 * (cost.tokens + 50)
    assert cost.generate_s == pytest.approx(100 * read / 3.35e12, rel=0.01)
    batched = Assumptions(compute=1.0, traffic=1.0, output_tokens=100, prompt_tokens=0, batch=16)
    assert (
        window_cost(shape, sampling, Windowing(16_000_000, 0), (512, 512), h100, 1, batched).generate_s
        < cost.generate_s
    )


def test_experts_are_reckoned_in_fp8_where_they_are_multiplied_in_it() -> None:
    """By half on Hopper, the rest as ever; nowhere else."""
    from jobs.forecasting.gpus import GPUS, Assumptions, window_cost
    from jobs.forecasting.memory import model_shape
    from pipeline.plan import Sampling, Windowing

    costs = {
        (name, precision): window_cost(
            model_shape("30B-A3B", precision), Sampling(), Windowing(16_000_000, 0), (512, 512), GPUS[name], 1,
            Assumptions(compute=1.0),
        )
        for name in ("H100", "L40S", "B200") for precision in ("bf16", "fp8")
    }  # fmt: skip
    plain, fast = costs["H100", "bf16"], costs["H100", "fp8"]
    experts = 2 * 48 * 8 * 3 * 2048 * 768 * plain.tokens
    assert plain.prefill_s - fast.prefill_s == pytest.approx(experts / 989e12 - experts / 1979e12, rel=0.001)
    for name in ("L40S", "B200"):
        assert costs[name, "fp8"].prefill_s == costs[name, "bf16"].prefill_s


def test_storage_is_what_rows_answers_and_features_take(tmp_path: Path) -> None:
    """Of a large checkpoint on GPUs: made-up answers in prose of 256 tokens, in a log, are near what is forecast."""
    import random
    import re

    import numpy as np

    from jobs.forecasting.storage import answered_bytes, written_bytes
    from pipeline.event import Event
    from pipeline.features.vectors import FrameFeatures
    from pipeline.log import EventLog, RunRecord, VideoResult, WindowRecord
    from pipeline.plan import SECOND_US, Window

    draw, vectors = random.Random(0), np.random.default_rng(0)
    prose = re.findall(r"[a-z]+", Path("README.md").read_text())
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(RunRecord("run", "c", {}, "m", "", "", {}, 0))
    written = 0
    for number in range(3):
        name, windows, events = f"{number:032x}", [], []
        for index in range(20):
            at = index * 15 * SECOND_US
            window, times = Window(name, index, at, at + 16 * SECOND_US), [at + i * SECOND_US // 2 for i in range(32)]
            said = [(draw.choice(times), " ".join(draw.choices(prose, k=12))) for _ in range(6)]
            told = [
                {"start": (t - at) / 1e6, "end": 16.0, "kind": "person", "text": x, "confidence": 0.9} for t, x in said
            ]
            answer = json.dumps({"events": told}, separators=(",", ":"))
            seen = FrameFeatures.of("m", range(0, 16 * SECOND_US, SECOND_US), vectors.standard_normal((16, 256)))
            windows.append(WindowRecord(window, times, model_s=draw.random(), answer=answer, features=seen))
            events += [Event(t, window.end_us, "person", x, 0.9, index, index, (t,), {}) for t, x in said]
        names, told_of = (f"{number}.mp4",), {"windows": tuple(windows), "events": tuple(events)}
        result = VideoResult(name, "run", "c", names, 1, "done", **told_of)
        written += log.commit([result]).file_bytes
    files = [f for f in (tmp_path / "log").rglob("*.parquet") if f.parent.name not in ("record=runs", "_index")]
    assert written == sum(f.stat().st_size for f in files)
    forecast = written_bytes(3, 60, answered_bytes(256) + 8192, seconds=60)
    assert written == pytest.approx(forecast, rel=0.1)
    rest = sum(f.stat().st_size for f in files if f.parent.name != "_features")
    assert rest == pytest.approx(written_bytes(3, 60, answered_bytes(256), seconds=60), rel=0.1)
