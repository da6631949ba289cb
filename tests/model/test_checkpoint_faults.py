"""What is wrong with a checkpoint is named and refused: misshapen tensors, lying indices, hostile headers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint.header import read_header
from model.checkpoint.index import open_checkpoint
from model.checkpoint.source import LocalSource
from pipeline.errors import ModelError

torch = pytest.importorskip("torch")

from tests.model import expert_checkpoints as tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


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
def test_missing_extra_and_misshapen_are_named(damaged: Path, change: Any, said: list[str]) -> None:
    resave(damaged, change)
    message = load_error(damaged)
    assert all(part in message for part in [str(damaged), *said]), message


@pytest.mark.parametrize("layout", ["transformers5", "hub"])
def test_square_stacks_are_refused(tmp_path: Path, layout: str) -> None:
    square = tiny.build("moe", moe_intermediate_size=32)  # 2 x 32 rows of 64: which way round?
    message = load_error(tiny.save(square, tmp_path / "square", layout))
    assert "gate_up_proj" in message and "square" in message and "one tensor per expert" in message
    fine = tiny.save(square, tmp_path / "fine", "per_expert")
    open_checkpoint(str(fine))


def test_quantisation_faults(moe: Any, tmp_path: Path) -> None:
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
def test_configurations_that_do_not_fit(damaged: Path, edit: dict[str, Any], said: str) -> None:
    config = json.loads((damaged / "config.json").read_text())
    text = {**config["text_config"], **edit["text_config"]} if isinstance(edit.get("text_config"), dict) else None
    config.update(edit, **({"text_config": text} if text else {}))
    (damaged / "config.json").write_text(json.dumps(config))
    assert said in load_error(damaged)


def test_what_is_no_checkpoint(tmp_path: Path, damaged: Path) -> None:
    assert "no such directory" in load_error(tmp_path / "absent" / "deeper" / "still")
    assert "config.json" in load_error(tmp_path)
    for file in damaged.glob("*.safetensors*"):
        file.unlink()
    (damaged / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "only safetensors" in load_error(damaged)
    (damaged / "config.json").write_text("[" * 100_000)
    assert "not JSON" in load_error(damaged)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd.safetensors", "a/b.safetensors", "..\\x.safetensors", "x.bin", 7]
)
def test_an_index_cannot_lead_outside(damaged: Path, name: Any) -> None:
    index = json.loads((damaged / "model.safetensors.index.json").read_text())
    index["weight_map"][GATE] = name
    (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "plain name" in load_error(damaged)


def test_an_index_that_lies(damaged: Path) -> None:
    path = damaged / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    moved = next(name for name, file in index["weight_map"].items() if file == files[0])
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], moved: files[1]}}))
    assert moved in load_error(damaged)
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "ghost": files[1]}}))
    assert "ghost" in load_error(damaged)
    (damaged / files[1]).unlink()
    path.write_text(json.dumps(index))
    assert files[1] in load_error(damaged) and "does not exist" in load_error(damaged)


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


def test_a_store_that_is_busy_for_a_while_is_asked_again_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    from model.checkpoint import source

    memory, pauses = fsspec.filesystem("memory"), []
    memory.pipe("/busy/weights", b"0123456789")
    fails, give = [0], type(memory).cat_file

    def cat_file(self: Any, path: str, **span: Any) -> bytes:
        if fails[0]:
            fails[0] -= 1
            raise OSError("503 Slow Down")
        return bytes(give(self, path, **span))

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    monkeypatch.setattr(source.time, "sleep", pauses.append)
    remote = source.open_source("memory://busy")
    fails[0] = source.TRIES - 1
    assert source.read(remote, "weights", 2, 5) == b"234"
    assert all(source.BACK_OFF_S * 2**i / 2 <= s <= source.BACK_OFF_S * 2**i for i, s in enumerate(pauses))
    assert len(pauses) == source.TRIES - 1 and fails[0] == 0
    fails[0] = source.TRIES
    with pytest.raises(ModelError, match="memory://busy/weights: reading failed"):
        source.read(remote, "weights", 2, 5)
    assert remote.size("absent") is None and len(pauses) == 2 * (source.TRIES - 1)
