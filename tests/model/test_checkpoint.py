"""The checkpoint reader: every layout gives transformers' own numbers, and a rank reads no more than its share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint.header import read_header
from model.checkpoint.index import open_checkpoint
from model.checkpoint.source import LocalSource
from pipeline.errors import ModelError, UsageError

torch = pytest.importorskip("torch")

from tests.model import expert_checkpoints as tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Group:
    """As much of a process group as loading needs."""

    def __init__(self, rank: int, ranks: int) -> None:
        self._rank, self._ranks = rank, ranks

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._ranks


def logits(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.mark.parametrize("layout", ["transformers5", "hub", "per_expert"])
@pytest.mark.parametrize("fp8", [0, 8, 16])  # blocks of 16 are cut off at the edges of these experts
def test_every_layout_gives_the_reference_logits(moe: Any, tmp_path: Path, layout: str, fp8: int) -> None:
    from model.checkpoint.load import load_qwen3_vl

    path = tiny.save(moe, tmp_path / "checkpoint", layout, shards=3, fp8=fp8)
    reference = moe
    if fp8:  # the reference gets the values that the quantised file stands for, worked out by a loop of its own
        reference = tiny.build("moe")
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                if "experts" in name or "self_attn.q_proj" in name:
                    parts = tiny._stored(name, parameter, layout)
                    whole = [restored(*tiny.quantise(part, fp8), fp8) for part in parts.values()]
                    if layout == "hub" and "experts" in name:
                        whole = [whole[0].transpose(1, 2)]
                    if layout == "per_expert" and "experts" in name:
                        pairs = zip(whole[::2], whole[1::2], strict=True)
                        both = [torch.cat(pair) for pair in pairs] if "gate_up" in name else whole
                        whole = [torch.stack(both)]
                    parameter.copy_(whole[0])
    for keep_fp8 in [False, True] if fp8 == 8 else [False]:
        loaded = load_qwen3_vl(str(path), keep_fp8=keep_fp8)
        for inputs in (tiny.sample(1, 5), tiny.sample(2, 7, frames=3, images=1)):
            torch.testing.assert_close(logits(loaded.model, inputs), logits(reference, inputs), rtol=0, atol=1e-5)
        kept = [module.weights for module in loaded.model.modules() if type(module).__name__ == "ShardedExperts"]
        assert {type(weights).__name__ for weights in kept} == {"Fp8Experts" if keep_fp8 else "PlainExperts"}


def restored(weight: Any, scale: Any, block: int) -> Any:
    out = weight.float()
    for i in range(weight.shape[-2]):
        for j in range(weight.shape[-1]):
            out[..., i, j] *= scale[..., i // block, j // block]
    return out


@pytest.mark.parametrize("layout", ["hub", "per_expert"])
def test_a_checkpoint_stored_in_fp8_is_the_one_that_the_definition_gives(moe: Any, tmp_path: Path, layout: str) -> None:
    """Values and scales by a plain loop over blocks; all that is no linear layer of the language model as it was."""
    from safetensors.torch import load_file

    from model.checkpoint.load import load_qwen3_vl
    from model.checkpoint.store_fp8 import store_fp8

    source = tiny.save(moe, tmp_path / "plain", layout, shards=2)
    stored = store_fp8(str(source), tmp_path / "fp8", block=16)
    before, after = (
        {k: v for f in sorted(p.glob("*.safetensors")) for k, v in load_file(f).items()} for p in (source, stored)
    )
    for name, weight in before.items():
        if any(part in name for part in (".experts.", "_proj.")) and "visual" not in name:
            values, scale = tiny.quantise(weight, 16)
            assert torch.equal(after[name].float(), values.float()) and torch.equal(after[f"{name}_scale_inv"], scale)
        else:
            assert torch.equal(after[name], weight) and f"{name}_scale_inv" not in after
    config = json.loads((stored / "config.json").read_text())["quantization_config"]
    assert config["weight_block_size"] == [16, 16] and "lm_head" in config["modules_to_not_convert"]
    loaded = load_qwen3_vl(str(stored))
    assert loaded.checkpoint.weights_hash != open_checkpoint(str(source)).weights_hash
    inputs = tiny.sample(2, 7, frames=3)
    off = (logits(loaded.model, inputs) - logits(moe, inputs)).norm() / logits(moe, inputs).norm()
    assert 1e-3 < off < 0.2
    for target, said in ((tmp_path / "again", "FP8 already"), (stored, "not empty")):
        with pytest.raises((ModelError, UsageError), match=said):
            store_fp8(str(stored), target)


def test_fp8_that_is_not_multiplied_as_such_is_told_once(
    moe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.checkpoint import plan
    from model.checkpoint.load import load_qwen3_vl

    path = str(tiny.save(moe, tmp_path / "fp8", "hub", fp8=8))
    for asked, able, said in ((False, False, 0), (True, False, 1), (True, True, 0)):
        monkeypatch.setattr(plan, "can_multiply", lambda *_, able=able: able)
        caplog.clear()
        loaded = load_qwen3_vl(path, keep_fp8=True, fp8_arithmetic=asked)
        assert sum("not multiplied in FP8 on cpu" in line for line in caplog.messages) == said
        kept = [module.weights for module in loaded.model.modules() if type(module).__name__ == "ShardedExperts"]
        assert {weights.arithmetic for weights in kept} == {asked and able}


@pytest.mark.parametrize(("capability", "able"), [((8, 9), False), ((9, 0), True), ((10, 0), False), ((12, 0), False)])
def test_hopper_alone_multiplies_in_fp8(
    capability: tuple[int, int], able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.experts.fp8 import can_multiply

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert can_multiply(torch.device("cuda"), (128, 128), torch.bfloat16) == able
    assert not can_multiply(torch.device("cuda"), (64, 64), torch.bfloat16)
    assert not can_multiply(torch.device("cuda"), (128, 128), torch.float32)


def test_dense_and_tied(tmp_path: Path) -> None:
    from model.checkpoint.load import load_qwen3_vl

    dense = tiny.build("dense")
    loaded = load_qwen3_vl(str(tiny.save(dense, tmp_path / "dense")))
    inputs = tiny.sample(3, 6, frames=2)
    assert torch.equal(logits(loaded.model, inputs), logits(dense, inputs))
    assert loaded.parallel is None
    assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight


def test_buffers_are_real_and_parameters_need_no_gradient(good: Path, moe: Any) -> None:
    from model.checkpoint.load import load_qwen3_vl

    model = load_qwen3_vl(str(good), dtype=torch.bfloat16).model
    expected = dict(moe.named_buffers())
    assert {name for name, _ in model.named_buffers()} == set(expected)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[name])  # float32 whatever the weights are
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["moe", "dense"])
def test_bf16_checkpoints_where_bf16_cannot_be_multiplied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Packed weights give the logits of the same weights in float32, and take the memory of bf16."""
    from model.checkpoint import packed
    from model.checkpoint.load import load_qwen3_vl

    if not packed.can_pack():
        pytest.skip("this build of torch has no FBGEMM")
    monkeypatch.setattr(packed, "multiplies", lambda dtype: dtype == torch.float32)
    reference = tiny.build(kind, torch.bfloat16)
    path = tiny.save(reference, tmp_path / kind, "hub")
    reference = tiny.cast(reference, torch.float32)
    loaded = load_qwen3_vl(str(path))
    assert loaded.dtype == torch.float32
    for inputs in (tiny.sample(1, 5), tiny.sample(2, 7, frames=3, images=1)):
        torch.testing.assert_close(logits(loaded.model, inputs), logits(reference, inputs), rtol=0, atol=1e-4)
    linears = [module for module in loaded.model.modules() if isinstance(module, torch.nn.Linear)]
    assert linears == ([loaded.model.lm_head] if kind == "dense" else [])  # tied to the embedding: no second damaged
    assert load_qwen3_vl(str(path), dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_a_rank_reads_its_share_only(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.checkpoint.load import load_qwen3_vl

    read: list[int] = []
    plain = LocalSource.read_into

    def counted(self: LocalSource, name: str, start: int, buffer: memoryview) -> None:
        read.append(len(buffer.cast("B")))
        plain(self, name, start, buffer)

    monkeypatch.setattr(LocalSource, "read_into", counted)
    checkpoint = open_checkpoint(str(good))
    headers = sum(read)
    experts = sum(t.nbytes for name, t in checkpoint.tensors.items() if ".experts." in name)
    for rank in range(4):
        read.clear()
        load_qwen3_vl(str(good), rank, 4, Group(rank, 4), torch.float32)  # type: ignore[arg-type]
        assert sum(read) == headers + checkpoint.nbytes - experts + experts // 4
        assert max(read) <= max(tensor.nbytes for tensor in checkpoint.tensors.values())


def test_over_fsspec_as_from_disk(good: Path, moe: Any) -> None:
    import fsspec

    from model.checkpoint.load import load_qwen3_vl

    memory = fsspec.filesystem("memory")
    memory.put(str(good), "/checkpoints/tiny", recursive=True)
    loaded = load_qwen3_vl("memory://checkpoints/tiny")
    inputs = tiny.sample(5, 9, frames=1)
    torch.testing.assert_close(logits(loaded.model, inputs), logits(moe, inputs), rtol=0, atol=1e-5)
    assert loaded.checkpoint.weights_hash == open_checkpoint(str(good)).weights_hash


def test_a_hub_id_comes_from_the_cache_when_offline(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(good, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("someone/tiny").weights_hash == open_checkpoint(str(good)).weights_hash
    with pytest.raises(ModelError, match="someone/other: no such directory here, and the hub does not give it"):
        open_checkpoint("someone/other")


def test_the_weights_hash_knows_weights_not_files(moe: Any, good: Path, damaged: Path) -> None:
    one_file = tiny.save(moe, damaged / "one", "per_expert")
    checkpoint = open_checkpoint(str(one_file))
    before = checkpoint.weights_hash
    assert before == open_checkpoint(str(good)).weights_hash
    tensor = checkpoint.tensors["model.language_model.layers.0.mlp.experts.5.up_proj.weight"]
    with open(one_file / "model.safetensors", "r+b") as file:
        file.seek(tensor.start + tensor.nbytes // 2)
        file.write(b"\x12\x34")
    assert open_checkpoint(str(one_file)).weights_hash != before


def test_config_cannot_choose_code(damaged: Path) -> None:
    from model.checkpoint.load import load_qwen3_vl

    config = json.loads((damaged / "config.json").read_text())
    evil = {
        "auto_map": {"AutoModel": "evil.Evil"},
        "attn_implementation": "evil/kernels",
        "_attn_implementation": "x/y",
    }
    config.update(evil, experts_implementation="evil/kernels")
    config["text_config"].update(evil)
    (damaged / "config.json").write_text(json.dumps(config))
    loaded = load_qwen3_vl(str(damaged))
    assert loaded.config._attn_implementation == "sdpa"
    assert loaded.config.text_config._attn_implementation == "sdpa"
    assert not hasattr(loaded.config, "auto_map")


def test_headers_agree_with_the_reference_reader(good: Path) -> None:
    from safetensors import safe_open

    for file in good.glob("*.safetensors"):
        ours = read_header(LocalSource(str(good)), file.name)
        with safe_open(file, "pt") as theirs:
            assert set(theirs.keys()) == set(ours)
            for name in theirs.keys():  # noqa: SIM118
                raw = file.read_bytes()[ours[name].start : ours[name].start + ours[name].nbytes]
                assert raw == theirs.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes()
                assert list(ours[name].shape) == theirs.get_slice(name).get_shape()
