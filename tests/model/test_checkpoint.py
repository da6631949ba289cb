"""The checkpoint reader: every layout gives transformers' own numbers; whatever is wrong is named and refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from model.checkpoint.header import read_header
from model.checkpoint.index import open_checkpoint
from model.checkpoint.source import LocalSource
from pipeline.errors import ModelError, UsageError

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tiny() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("expert_checkpoints", Path(__file__).parent / "expert_checkpoints.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def moe(tiny: ModuleType) -> Any:
    return tiny.build("moe")


@pytest.fixture(scope="module")
def folder(tiny: ModuleType, moe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good checkpoint of a few kilobytes, never written to."""
    return tiny.save(moe, tmp_path_factory.mktemp("checkpoint") / "good", "per_expert", shards=2)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


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


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["transformers5", "hub", "per_expert"])
@pytest.mark.parametrize("fp8", [0, 8, 16])  # blocks of 16 are cut off at the edges of these experts
def test_every_layout_gives_the_reference_logits(
    tiny: ModuleType, moe: Any, tmp_path: Path, layout: str, fp8: int
) -> None:
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
def test_a_checkpoint_stored_in_fp8_is_the_one_that_the_definition_gives(
    tiny: ModuleType, moe: Any, tmp_path: Path, layout: str
) -> None:
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


def test_dense_and_tied(tiny: ModuleType, tmp_path: Path) -> None:
    from model.checkpoint.load import load_qwen3_vl

    dense = tiny.build("dense")
    loaded = load_qwen3_vl(str(tiny.save(dense, tmp_path / "dense")))
    inputs = tiny.sample(3, 6, frames=2)
    assert torch.equal(logits(loaded.model, inputs), logits(dense, inputs))
    assert loaded.parallel is None
    assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight


def test_buffers_are_real_and_parameters_need_no_gradient(folder: Path, moe: Any) -> None:
    from model.checkpoint.load import load_qwen3_vl

    model = load_qwen3_vl(str(folder), dtype=torch.bfloat16).model
    expected = dict(moe.named_buffers())
    assert {name for name, _ in model.named_buffers()} == set(expected)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[name])  # float32 whatever the weights are
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["moe", "dense"])
def test_bf16_checkpoints_where_bf16_cannot_be_multiplied(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
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
    assert linears == ([loaded.model.lm_head] if kind == "dense" else [])  # tied to the embedding: no second copy
    assert load_qwen3_vl(str(path), dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_a_rank_reads_its_share_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.checkpoint.load import load_qwen3_vl

    read: list[int] = []
    plain = LocalSource.read_into

    def counted(self: LocalSource, name: str, start: int, buffer: memoryview) -> None:
        read.append(len(buffer.cast("B")))
        plain(self, name, start, buffer)

    monkeypatch.setattr(LocalSource, "read_into", counted)
    checkpoint = open_checkpoint(str(folder))
    headers = sum(read)
    experts = sum(t.nbytes for name, t in checkpoint.tensors.items() if ".experts." in name)
    for rank in range(4):
        read.clear()
        load_qwen3_vl(str(folder), rank, 4, Group(rank, 4), torch.float32)  # type: ignore[arg-type]
        assert sum(read) == headers + checkpoint.nbytes - experts + experts // 4
        assert max(read) <= max(tensor.nbytes for tensor in checkpoint.tensors.values())


def test_over_fsspec_as_from_disk(tiny: ModuleType, folder: Path, moe: Any) -> None:
    import fsspec

    from model.checkpoint.load import load_qwen3_vl

    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/checkpoints/tiny", recursive=True)
    loaded = load_qwen3_vl("memory://checkpoints/tiny")
    inputs = tiny.sample(5, 9, frames=1)
    torch.testing.assert_close(logits(loaded.model, inputs), logits(moe, inputs), rtol=0, atol=1e-5)
    assert loaded.checkpoint.weights_hash == open_checkpoint(str(folder)).weights_hash


def test_a_hub_id_comes_from_the_cache_when_offline(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(folder, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("someone/tiny").weights_hash == open_checkpoint(str(folder)).weights_hash
    with pytest.raises(ModelError, match="someone/other: no such directory here, and the hub does not give it"):
        open_checkpoint("someone/other")


def test_the_weights_hash_knows_weights_not_files(tiny: ModuleType, moe: Any, folder: Path, copy: Path) -> None:
    one_file = tiny.save(moe, copy / "one", "per_expert")
    checkpoint = open_checkpoint(str(one_file))
    before = checkpoint.weights_hash
    assert before == open_checkpoint(str(folder)).weights_hash
    tensor = checkpoint.tensors["model.language_model.layers.0.mlp.experts.5.up_proj.weight"]
    with open(one_file / "model.safetensors", "r+b") as file:
        file.seek(tensor.start + tensor.nbytes // 2)
        file.write(b"\x12\x34")
    assert open_checkpoint(str(one_file)).weights_hash != before


def test_config_cannot_choose_code(copy: Path) -> None:
    from model.checkpoint.load import load_qwen3_vl

    config = json.loads((copy / "config.json").read_text())
    evil = {
        "auto_map": {"AutoModel": "evil.Evil"},
        "attn_implementation": "evil/kernels",
        "_attn_implementation": "x/y",
    }
    config.update(evil, experts_implementation="evil/kernels")
    config["text_config"].update(evil)
    (copy / "config.json").write_text(json.dumps(config))
    loaded = load_qwen3_vl(str(copy))
    assert loaded.config._attn_implementation == "sdpa"
    assert loaded.config.text_config._attn_implementation == "sdpa"
    assert not hasattr(loaded.config, "auto_map")


# --- what is refused --------------------------------------------------------------------------------------------------


def load_error(path: Path) -> str:
    from model.checkpoint.load import load_qwen3_vl

    with pytest.raises(ModelError) as caught:
        load_qwen3_vl(str(path))
    return str(caught.value)


def resave(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of a checkpoint and store it in one file."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors.update(load_file(file))
        file.unlink()
    (path / "model.safetensors.index.json").unlink(missing_ok=True)
    change(tensors)
    save_file(tensors, path / "model.safetensors")


GATE = "model.language_model.layers.2.mlp.gate.weight"
EXPERT = "model.language_model.layers.3.mlp.experts.7.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(GATE), [GATE, "missing"]),
        (lambda t: t.pop(EXPERT), [EXPERT, "missing"]),
        (lambda t: t.pop("model.visual.merger.norm.bias"), ["model.visual.merger.norm.bias", "missing"]),
        (lambda t: t.update(stowaway=torch.zeros(2)), ["stowaway", "belongs to no part"]),
        (lambda t: t.update({EXPERT + "_scale_inv": torch.ones(1, 1)}), [EXPERT + "_scale_inv", "belongs to no part"]),
        (lambda t: t.update({GATE: t[GATE][:7].clone()}), [GATE, "[7, 64]", "[8, 64]"]),
        (lambda t: t.update({EXPERT: t[EXPERT].t().contiguous()}), [EXPERT, "[64, 24]", "[24, 64]"]),
        (lambda t: t.update({GATE: t[GATE].long()}), [GATE, "I64"]),
        (lambda t: t.update({GATE: t[GATE].to(torch.float8_e4m3fn)}), [GATE, "F8_E4M3", "quantization_config"]),
    ],
)
def test_missing_extra_and_misshapen_are_named(copy: Path, change: Any, said: list[str]) -> None:
    resave(copy, change)
    message = load_error(copy)
    assert all(part in message for part in [str(copy), *said]), message


@pytest.mark.parametrize("layout", ["transformers5", "hub"])
def test_square_stacks_are_refused(tiny: ModuleType, tmp_path: Path, layout: str) -> None:
    square = tiny.build("moe", moe_intermediate_size=32)  # 2 x 32 rows of 64: which way round?
    message = load_error(tiny.save(square, tmp_path / "square", layout))
    assert "gate_up_proj" in message and "square" in message and "one tensor per expert" in message
    fine = tiny.save(square, tmp_path / "fine", "per_expert")
    open_checkpoint(str(fine))


def test_quantisation_faults(tiny: ModuleType, moe: Any, tmp_path: Path) -> None:
    path = tiny.save(moe, tmp_path / "fp8", "hub", fp8=16)
    name = "model.language_model.layers.0.mlp.experts.down_proj"
    resave(path, lambda t: t.update({f"{name}_scale_inv": t[f"{name}_scale_inv"][:, :1].clone()}))
    assert f"{name}_scale_inv" in load_error(path)
    resave(path, lambda t: t.pop(f"{name}_scale_inv"))
    assert f"{name}_scale_inv is missing" in load_error(path)
    config = json.loads((path / "config.json").read_text())
    for quantization in ({"quant_method": "awq"}, {"quant_method": "fp8"}, "fp8"):
        (path / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
        assert "config.json" in load_error(path)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"model_type": ["qwen3_vl"]}, "model_type"),
        ({"text_config": "none"}, "config.json"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers"),
        ({"text_config": {"num_hidden_layers": -1}}, "num_hidden_layers"),
        ({"text_config": {"hidden_size": 0}}, "config.json"),
        ({"text_config": {"num_hidden_layers": 5}}, "missing"),
        ({"text_config": {"num_experts": 9, "num_local_experts": 9}}, "experts.8.gate_proj.weight is missing"),
    ],
)
def test_configurations_that_do_not_fit(copy: Path, edit: dict[str, Any], said: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    text = {**config["text_config"], **edit["text_config"]} if isinstance(edit.get("text_config"), dict) else None
    config.update(edit, **({"text_config": text} if text else {}))
    (copy / "config.json").write_text(json.dumps(config))
    assert said in load_error(copy)


def test_what_is_no_checkpoint(tmp_path: Path, copy: Path) -> None:
    assert "no such directory" in load_error(tmp_path / "absent" / "deeper" / "still")
    assert "config.json" in load_error(tmp_path)
    for file in copy.glob("*.safetensors*"):
        file.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "only safetensors" in load_error(copy)
    (copy / "config.json").write_text("[" * 100_000)
    assert "not JSON" in load_error(copy)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd.safetensors", "a/b.safetensors", "..\\x.safetensors", "x.bin", 7]
)
def test_an_index_cannot_lead_outside(copy: Path, name: Any) -> None:
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    index["weight_map"][GATE] = name
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "plain name" in load_error(copy)


def test_an_index_that_lies(copy: Path) -> None:
    path = copy / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    moved = next(name for name, file in index["weight_map"].items() if file == files[0])
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], moved: files[1]}}))
    assert moved in load_error(copy)
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "ghost": files[1]}}))
    assert "ghost" in load_error(copy)
    (copy / files[1]).unlink()
    path.write_text(json.dumps(index))
    assert files[1] in load_error(copy) and "does not exist" in load_error(copy)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"\x00\x01", "2 bytes"),
        (safetensors({}, length=1 << 63), "claims"),
        (safetensors({}, length=10**9), "claims"),
        (safetensors({}, length=100), "claims"),
        (safetensors(b"not json"), "not JSON"),
        (safetensors(b"\xff\xfe{}"), "not JSON"),
        (safetensors(b"[" * 90_000), "not JSON"),
        (safetensors(b"[]"), "not a JSON object"),
        (safetensors(b'{"a":' + json.dumps(entry(0, 4)).encode() + b',"a":{}}', b"1234"), "twice"),
        (safetensors({"a": entry(0, 8), "b": entry(4, 12)}, b"0" * 12), "overlaps"),
        (safetensors({"a": entry(0, 8), "b": entry(0, 8)}, b"0" * 8), "overlaps"),
        (safetensors({"a": entry(0, 4), "b": entry(8, 12)}, b"0" * 12), "hole"),
        (safetensors({"a": entry(4, 8)}, b"0" * 8), "hole"),
        (safetensors({"a": entry(0, 8)}, b"0" * 4), "not downloaded whole"),
        (safetensors({"a": entry(0, 4)}, b"0" * 8), "tampered"),
        (safetensors({"a": entry(0, 4, [2])}, b"0" * 4), "needs 8"),
        (safetensors({"a": entry(0, 4, [1], "F16")}, b"0" * 4), "needs 2"),
        (safetensors({"a": entry(0, 4, [1], "Q4")}, b"0" * 4), "unknown dtype"),
        (safetensors({"a": entry(0, 4, [1], ["F32"])}, b"0" * 4), "unknown dtype"),
        (safetensors({"a": entry(0, 4, [-1, -1])}, b"0" * 4), "shape"),
        (safetensors({"a": entry(0, 4, [True])}, b"0" * 4), "shape"),
        (safetensors({"a": entry(0, 4, [1.0])}, b"0" * 4), "shape"),
        (safetensors({"a": entry(0, 4, [1] * 1000)}, b"0" * 4), "shape"),
        (safetensors({"a": entry(-4, 0, [1])}, b"0" * 4), "offsets"),
        (safetensors({"a": {**entry(0, 4), "data_offsets": [0]}}, b"0" * 4), "offsets"),
        (safetensors({"a": {"dtype": "F32", "shape": [1]}}, b"0" * 4), "data_offsets"),
        (safetensors({"a": 7}), "data_offsets"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        read_header(LocalSource(str(tmp_path)), "model.safetensors")
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_headers_agree_with_the_reference_reader(folder: Path) -> None:
    from safetensors import safe_open

    for file in folder.glob("*.safetensors"):
        ours = read_header(LocalSource(str(folder)), file.name)
        with safe_open(file, "pt") as theirs:
            assert set(theirs.keys()) == set(ours)
            for name in theirs.keys():  # noqa: SIM118
                raw = file.read_bytes()[ours[name].start : ours[name].start + ours[name].nbytes]
                assert raw == theirs.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes()
                assert list(ours[name].shape) == theirs.get_slice(name).get_shape()
