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
    assert cost.tokens == 16 * (256 + 8)
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


def test_an_archive_is_probed_and_a_run_holds_forecast_beside_fact(
    tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str], ray_session: None
) -> None:
    for number, seconds in enumerate((6, 3, 9)):
        make_clip(tmp_path / "clips" / f"{number}.mp4", seconds, number)
    (tmp_path / "clips" / "bad.mp4").write_bytes(b"no video" * 100)
    clips, log, file = str(tmp_path / "clips"), str(tmp_path / "log"), str(tmp_path / "forecast.json")
    model = "python:jobs.bench.models:colours"
    words = ["forecast", clips, "--model", model, "--window", "2", "--fps", "2", "--short-side", "32", "--cpus", "2"]
    assert main([*words, "--calibrate", "2", "--price", "3", "--out", file, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(Path(file).read_text())
    archive, measured = facts["archive"], facts["calibration"]
    assert archive["hours"] == pytest.approx(18 / 3600) and archive["hours_low"] == archive["hours_high"]
    assert (archive["videos"], archive["probed"], archive["unreadable_share"]) == (4, 4, 0.25)
    windows = archive["windows"]
    assert facts["core_hours"] == pytest.approx(windows * (measured["decode_s"] + measured["model_s"]) / 3600)
    assert facts["hours"] == pytest.approx(facts["core_hours"] / 2 / 0.9) and facts["cost"] == 6 * facts["hours"]
    assert facts["log_bytes"] > 0 and measured["events"] > 0

    run = ["run", clips, "--log", log, "--model", model, "--window", "2", "--fps", "2", "--short-side", "32"]
    assert main([*run, "--set", "cpus=0.5", "--replicas", "1", "--forecast", file]) == 3  # one is no video
    capsys.readouterr()
    assert main(["forecast", "--compare", log, "--json"]) == 0
    (compared,) = json.loads(capsys.readouterr().out)
    told, fact = compared["numbers"]["windows"]
    assert (round(told), fact) == (round(windows), fact) and told == pytest.approx(fact, rel=0.05)
    assert compared["numbers"]["hours of video"][1] == pytest.approx(18 / 3600)
    assert main(["forecast", "--compare", log]) == 0
    assert "fact / forecast" in capsys.readouterr().out


def test_a_served_model_is_measured_by_the_clock_with_many_windows_at_once(
    tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.model import served_fake

    for number, seconds in enumerate((6, 3, 9)):
        make_clip(tmp_path / "clips" / f"{number}.mp4", seconds, number)
    with served_fake.running() as fake:
        fake.work_s = 1.0
        model = f"openai:{fake.url}#tiny"
        words = ["forecast", str(tmp_path / "clips"), "--model", model, "--window", "1", "--cpus", "2", "--price", "3"]
        assert main([*words, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert main([*words, "--gpu", "H100"]) == 1
        assert "what a server makes of its GPUs is measured" in capsys.readouterr().err
        asked, fake.plan = len(fake.came), [(400, {}, "no")]
        assert main(words) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1 and len(fake.came) > asked
        fake.plan, fake.work_s = [served_fake.chunks()], 0.1
        assert main(words) == 0
    told = capsys.readouterr().out
    measured, windows = facts["calibration"], facts["archive"]["windows"]
    assert fake.most_at_once >= 12 and asked >= measured["watched"] == round(windows) > 16
    assert 1.0 / windows <= measured["server_s"] < 0.5  # 1 s: one window at a time
    server_h = windows * measured["server_s"] / 3600
    cores_h = windows * (measured["decode_s"] + measured["model_s"]) / 3600
    assert facts["hours"] == pytest.approx(max(server_h, cores_h / 2) / 0.9)
    assert facts["bottleneck"] == ("server" if server_h > cores_h / 2 else "decode")
    assert facts["basis"]["model"] == "measured at the server" and facts["cost"] == 6 * facts["hours"]
    assert "s a window by the clock" in told and "the server's is not counted" in told


def test_a_calibration_sends_no_picture_that_the_run_would_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import base64

    import av
    import cv2
    import numpy as np

    from tests.model import served_fake

    clip = tmp_path / "coded.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"preset": "ultrafast", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 320, 180, "yuv420p", 1
        picture = np.full((180, 320, 3), 230, np.uint8)
        code = cv2.resize(cv2.QRCodeEncoder.create().encode("A7"), (100, 100), interpolation=cv2.INTER_NEAREST)
        picture[40:140, 110:210] = code[..., None]
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())

    def seen(*words: str) -> list[str]:
        """What a reader of codes gets out of each picture that came."""
        fake.came.clear()
        assert main(["forecast", str(clip), "--model", model, "--window", "1", "--cpus", "1", *words]) == 0
        told = [message["content"] for body in fake.came for message in body["messages"]]
        parts = [part for content in told if isinstance(content, list) for part in content]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        data = [base64.b64decode(url.partition(",")[2]) for url in urls]
        pictures = [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in data]
        return [cv2.QRCodeDetector().detectAndDecode(picture)[0] for picture in pictures if picture is not None]

    with served_fake.running() as fake:
        fake.facts = {"/v1/models": {"data": [{"id": "tiny", "owned_by": "somebody"}]}}
        model = f"openai:{fake.url}#tiny"
        assert set(seen()) == {"A7"}
        assert set(seen("--redact", "codes")) == {""}
    assert "to decode a window and hide in it what is to be hidden" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "forecast what?"),
        (["ARCHIVE", "--gpu", "H100"], "the signal analysers use none"),
        (["ARCHIVE", "--model", "30B-A3B"], "say on which GPUs"),
        (["ARCHIVE", "--model", "30B-A3B", "--gpu", "H9000"], "--gpu H9000: not known; there are H100"),
        (["ARCHIVE", "--model", "235B-A22B", "--gpu", "L4", "--count", "8"], "does not fit L4"),
        (["ARCHIVE", "--model", "235B-A22B", "--gpu", "H100", "--count", "2"], "one replica takes 16 H100"),
        (["ARCHIVE", "--count", "0"], "at least 1"),
        (["ARCHIVE", "--compute", "7"], "--compute 7: a share"),
        (["/nowhere"], "no such file"),
    ],
)
def test_what_cannot_be_forecast_is_one_line(
    words: list[str], said: str, tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "a.mp4", 2)
    words = [str(clip) if word == "ARCHIVE" else word for word in words]
    assert main(["forecast", *words, *(["--calibrate", "0"] if words else [])]) == 1
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_durations_are_estimated_from_a_sample_with_an_honest_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """On archives whose truth is known, the 90% interval holds it about nine times in ten."""
    import random
    from dataclasses import replace

    from jobs.forecasting import archive
    from pipeline.plan import Windowing
    from pipeline.video import Source, Video

    video = Video("0" * 32, ("u",), 1, 1, 0, 640, 360, 0, "h264", 25.0, 0)
    held = 0
    for trial in range(60):
        draw = random.Random(trial)
        lengths = {f"v{n}": round(draw.lognormvariate(4, 1) * 1e6) for n in range(800)}
        rate = {name: draw.uniform(0.5, 1.5) for name in lengths}
        size = {name: int(lengths[name] * rate[name]) for name in lengths}
        monkeypatch.setattr(archive, "list_sources", lambda *_, size=size: (Source(n, s) for n, s in size.items()))
        monkeypatch.setattr(
            archive, "probe", lambda u, s, *_, lengths=lengths: replace(video, size_bytes=s, duration_us=lengths[u])
        )
        found = archive.look_at(["x"], Windowing(), 40, seed=trial)
        truth = sum(lengths.values()) / 3.6e9
        assert found.names == 800 and found.probed == 40 and found.low < found.hours < found.high
        held += found.low <= truth <= found.high
    assert 46 <= held <= 60


def test_a_folder_that_cannot_be_listed_is_said_to_be_left_out(
    tmp_path: Path, make_clip: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from jobs.forecasting import archive
    from pipeline.archive import list_sources
    from pipeline.listing import Unlisted
    from pipeline.plan import Windowing

    make_clip(tmp_path / "a.mp4", 2)
    found = [*list_sources([str(tmp_path)]), Unlisted("s3://a/d1/", "storage", "HTTP 503")]
    monkeypatch.setattr(archive, "list_sources", lambda *_: iter(found))
    facts = archive.look_at([str(tmp_path)], Windowing(), 4)
    assert facts.names == facts.probed == 1 and "s3://a/d1/: cannot be listed" in caplog.text
