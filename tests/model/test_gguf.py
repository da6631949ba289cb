"""GGUF files of Qwen3-VL: the numbers, tokens and answers of the model that was written; hostile ones are refused."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoint.header import BLOCKS
from model.checkpoint.index import open_checkpoint
from pipeline.errors import ModelError

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

from tests.model import gguf_files, qwen_ranks, tiny_qwen  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


#: K-quants have blocks of 256: every matrix of the language model is a multiple of that wide.
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Any, Any]]:
    """(kind of model, ggml type) -> the file, transformers' own model with the weights that it stands for, its
    tokenizer."""
    made: dict[tuple[str, str], tuple[Path, Any, Any]] = {}

    def make(kind: str, quant: str) -> tuple[Path, Any, Any]:
        if (kind, quant) not in made:
            bpe = tiny_qwen.tokenizer()
            wide = {**WIDE, "rope_parameters": {"mrope_section": [12, 10, 10]}}
            model = tiny_qwen.random_model(
                kind, bpe, text=wide, experts={"moe_intermediate_size": 512, "num_experts": 4}
            )
            folder = tmp_path_factory.mktemp("gguf")
            with torch.no_grad():
                path = gguf_files.write(folder, model, bpe, tiny_qwen.TEMPLATE, gguf.GGMLQuantizationType[quant])
            made[kind, quant] = path, model, bpe
        return made[kind, quant]

    return make


def sample(bpe: Any) -> dict[str, Any]:
    """Some words and a video of two temporal patches."""
    generator = torch.Generator().manual_seed(1)
    video = bpe.token_to_id("<|video_pad|>")
    ids = [*bpe.encode("What is there?").ids, bpe.token_to_id("<|vision_start|>"), *[video] * 6]
    ids += [bpe.token_to_id("<|vision_end|>"), bpe.token_to_id("<|vision_start|>"), *[video] * 6, 5]
    return {
        "input_ids": torch.tensor([ids]),
        "mm_token_type_ids": torch.tensor([[2 if i == video else 0 for i in ids]]),
        "pixel_values_videos": torch.randn(48, 3 * 2 * 16 * 16, generator=generator),
        "video_grid_thw": torch.tensor([[2, 4, 6]]),
    }


@pytest.mark.parametrize(
    ("kind", "quant"),
    [("moe", "Q8_0"), ("moe", "Q4_K"), ("moe", "Q5_K"), ("moe", "Q6_K"), ("moe", "BF16"), ("dense", "Q8_0"),
     ("dense", "F16")],
)  # fmt: skip
def test_logits_are_those_of_the_weights_that_were_written(written: Any, kind: str, quant: str) -> None:
    from model.checkpoint.load import load_qwen3_vl

    path, reference, bpe = written(kind, quant)
    loaded = load_qwen3_vl(str(path), dtype=torch.float32)
    with torch.inference_mode():
        found, exact = (model(**sample(bpe)).logits for model in (loaded.model, reference))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4 * float(exact.abs().max()))
    assert loaded.checkpoint.nbytes == sum(t.nbytes for t in loaded.checkpoint.tensors.values())


def test_the_tokenizer_of_the_metadata_cuts_as_the_original(written: Any) -> None:
    from tokenizers import Tokenizer

    path, _, bpe = written("moe", "Q8_0")
    source = open_checkpoint(str(path)).source
    size = source.size("tokenizer.json")
    assert size is not None
    data = bytearray(size)
    source.read_into("tokenizer.json", 0, memoryview(data))
    ours = Tokenizer.from_str(data.decode())
    for text in ("List the events.", "it's 12.5 seconds\n\n  naïve 你好 <|im_end|>x<|video_pad|>", '{"events":[]}'):
        assert ours.encode(text).ids == bpe.encode(text).ids
        assert ours.decode(ours.encode(text).ids) == bpe.decode(bpe.encode(text).ids)
    assert ours.get_vocab() == bpe.get_vocab()  # the padding rows are no tokens


def test_a_gguf_file_is_a_model_that_watches(written: Any, tmp_path: Path) -> None:
    """Through the factory: profile, identity, and answers equal to those of the same weights as safetensors."""
    from model.registry import find_model

    path, reference, _ = written("moe", "Q8_0")
    (tmp_path / "short.toml").write_text('user = "List."\n[answer]\nkinds = ["a", "b"]\nmax_events = 2\nmax_text = 8\n')
    plain = tiny_qwen.save(tmp_path / "plain", "moe", model=reference)
    said = []
    for spec in (str(path), str(plain)):
        settings = {"prompt": str(tmp_path / "short.toml"), "max_new_tokens": 40, "precision": "float32"}
        factory: Any = find_model(spec)
        assert factory.profile(settings).identity.settings["precision"] == "float32"
        said.append(qwen_ranks.tokens_of(factory.load(settings), [0, 1, 3], True))
    assert said[0] == said[1] and len({tuple(tokens) for tokens in said[0]}) > 1


def test_two_ranks_and_few_bits_read_it_too(written: Any) -> None:
    from model.checkpoint.load import load_qwen3_vl

    path, reference, bpe = written("moe", "Q6_K")
    few = load_qwen3_vl(str(path), dtype=torch.float32, bits=8)
    with torch.inference_mode():
        found, exact = (model(**sample(bpe)).logits for model in (few.model, reference))
    assert (found - exact).norm() < 0.1 * exact.norm()


def test_split_files_are_one(written: Any, tmp_path: Path) -> None:
    path, _, _ = written("moe", "Q8_0")
    reader = gguf.GGUFReader(path)
    for number, tensors in ((1, reader.tensors[::2]), (2, reader.tensors[1::2])):
        writer = gguf.GGUFWriter(tmp_path / f"model-{number:05}-of-00002.gguf", "qwen3vlmoe")
        for name, field in reader.fields.items():
            if number == 1 and not name.startswith(("GGUF.", "general.architecture")):
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, field.contents(), kind, inner)
        for tensor in tensors:
            quantised = tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type if quantised else None)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    shutil.copy(path.parent / "mmproj-model.gguf", tmp_path)
    whole, parts = open_checkpoint(str(path)), open_checkpoint(str(tmp_path / "model-00001-of-00002.gguf"))
    assert parts.weights_hash == whole.weights_hash and parts.config == whole.config
    with pytest.raises(ModelError, match="give the first file"):
        open_checkpoint(str(tmp_path / "model-00002-of-00002.gguf"))


def test_the_block_sizes_are_the_packages() -> None:
    from model.checkpoint.gguf.header import TYPES

    for number, name in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert kind.name == name
        if name in BLOCKS:
            assert gguf.GGML_QUANT_SIZES[kind] == BLOCKS[name]


def test_headers_agree_with_the_packages_reader(written: Any) -> None:
    from model.checkpoint.gguf.header import read_gguf
    from model.checkpoint.source import LocalSource

    path, _, _ = written("moe", "Q4_K")
    ours, theirs = read_gguf(LocalSource(str(path.parent)), path.name), gguf.GGUFReader(path)
    assert {t.name: (tuple(map(int, t.shape[::-1])), t.data_offset, t.n_bytes) for t in theirs.tensors} == {
        t.name: (t.shape, t.start, t.nbytes) for t in ours.tensors.values()
    }
    for key, value in ours.metadata.items():
        assert theirs.fields[key].contents() == pytest.approx(value) if isinstance(value, float) else True
        assert isinstance(value, float) or theirs.fields[key].contents() == value


# --- files that are not to be believed --------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file(tensors: int = 0, keys: int = 0, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body + bytes(64)


HOSTILE = {
    "empty": (b"", "does not begin with GGUF"),
    "not one": (b"x" * 100, "does not begin with GGUF"),
    "version": (file(version=1), "version is 1"),
    "big-endian": (file(version=3 << 24), "version is"),
    "counts": (file(tensors=1 << 60), "claims"),
    "keys": (file(keys=1 << 60), "claims"),
    "long text": (file(keys=1, body=struct.pack("<Q", 1 << 62)), "runs past"),
    "bytes": (file(keys=1, body=struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 1)), "not UTF-8"),
    "long list": (file(keys=1, body=text("a") + struct.pack("<IIQ", 9, 0, 1 << 61)), "runs past"),
    "many texts": (file(keys=1, body=text("a") + struct.pack("<IIQ", 9, 8, 1 << 61)), "list claims"),
    "nested": (file(keys=1, body=text("a") + struct.pack("<IIQ", 9, 9, 1)), "values of type 9"),
    "type": (file(keys=1, body=text("a") + struct.pack("<I", 99)), "unknown type 99"),
    "twice": (file(keys=2, body=(text("a") + struct.pack("<II", 4, 1)) * 2), "occurs twice"),
    "alignment": (file(keys=1, body=text("general.alignment") + struct.pack("<II", 4, 3)), "power of two"),
    "dimensions": (file(tensors=1, body=text("t") + struct.pack("<I", 99)), "99 dimensions"),
    "shape": (file(1, 0, text("t") + struct.pack("<IQQIQ", 2, 1 << 39, 1 << 39, 0, 0)), "impossible shape"),
    "ggml type": (file(1, 0, text("t") + struct.pack("<IQIQ", 1, 32, 31, 0)), "ggml's type 31"),
    "blocks": (file(1, 0, text("t") + struct.pack("<IQIQ", 1, 33, 8, 0)), "no whole blocks"),
    "beyond": (file(1, 0, text("t") + struct.pack("<IQIQ", 1, 64, 0, 0)), "not downloaded whole"),
    "overlap": (
        file(2, 0, b"".join(text(n) + struct.pack("<IQIQ", 1, 8, 0, 0) for n in "tu")),
        "overlaps",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(tmp_path: Path, name: str) -> None:
    content, said = HOSTILE[name]
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        open_checkpoint(str(tmp_path / "x.gguf"))
    assert "x.gguf" in str(caught.value)


def rewritten(path: Path, folder: Path, change: dict[str, bytes]) -> Path:
    """A copy of model and mmproj with bytes replaced by others of the same length."""
    for one in path.parent.glob("*.gguf"):
        data = one.read_bytes()
        for old, new in change.items():
            assert len(old) == len(new)
            data = data.replace(old.encode(), new)
        (folder / one.name).write_bytes(data)
    return folder / path.name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"general.architecture": b"general.architectura"}, "known are qwen3vl, qwen3vlmoe"),
        ({"qwen3vl_merger": b"qwen9vl_merger"}, "its projector is"),
        ({"tokenizer.ggml.pre": b"tokenizer.ggml.prx"}, "known is gpt2, qwen2"),
        ({"blk.1.attn_q.weight": b"blk.1.attn_z.weight"}, "not one of Qwen3-VL's"),
        ({"v.patch_embd.weight.1": b"v.patch_embd.weight.2"}, "not one of Qwen3-VL's"),
        ({"qwen3vlmoe.block_count": b"qwen3vlmoe.block_c0unt"}, "block_count"),
        ({"clip.vision.patch_size": b"clip.vision.patch_sixe"}, "patch_size"),
    ],
)
def test_what_is_missing_is_named(written: Any, tmp_path: Path, change: dict[str, bytes], said: str) -> None:
    path, _, _ = written("moe", "Q8_0")
    with pytest.raises(ModelError, match=said):
        open_checkpoint(str(rewritten(path, tmp_path, change)))


def test_one_mmproj_lies_beside(written: Any, tmp_path: Path) -> None:
    path, _, _ = written("moe", "Q8_0")
    shutil.copy(path, tmp_path)
    with pytest.raises(ModelError, match="there is none"):
        open_checkpoint(str(tmp_path / path.name))
    for name in ("mmproj-one-F16.gguf", "mmproj-other-BF16.gguf"):
        shutil.copy(path.parent / "mmproj-model.gguf", tmp_path / name)
    with pytest.raises(ModelError, match=r"those of several lie there \(mmproj-one"):
        open_checkpoint(str(tmp_path / path.name))
    with pytest.raises(ModelError, match="does not exist"):
        open_checkpoint(str(tmp_path / "absent.gguf"))


def test_of_one_mmproj_in_several_precisions_the_most_precise_is_taken(written: Any, tmp_path: Path) -> None:
    path, _, _ = written("moe", "Q8_0")
    shutil.copy(path, tmp_path)
    for names in (["f16", "Q8_0"], ["BF16", "f16"], ["F32", "BF16"]):  # each beside those before it
        for name in names:
            shutil.copy(path.parent / "mmproj-model.gguf", tmp_path / f"mmproj-Qwen3VL-2B-{name}.gguf")
        opened = open_checkpoint(str(tmp_path / path.name))
        vision = {t.file for name, t in opened.tensors.items() if name.startswith("model.visual.blocks.")}
        assert vision == {f"mmproj-Qwen3VL-2B-{names[0]}.gguf"}


def test_any_cut_is_refused(written: Any, tmp_path: Path) -> None:
    """A file cut anywhere gives one clear error, never a crash or a half-read model."""
    path, _, _ = written("moe", "Q8_0")
    whole = path.read_bytes()
    shutil.copy(path.parent / "mmproj-model.gguf", tmp_path)
    for end in [*np.linspace(0, len(whole) - 33, 40).astype(int).tolist(), len(whole) // 2]:
        (tmp_path / "model.gguf").write_bytes(whole[:end])
        with pytest.raises(ModelError, match=r"model\.gguf"):
            open_checkpoint(str(tmp_path / "model.gguf"))


def test_random_damage_never_crashes(written: Any, tmp_path: Path) -> None:
    path, _, _ = written("moe", "Q8_0")
    shutil.copy(path.parent / "mmproj-model.gguf", tmp_path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = whole.copy()
        damaged[rng.integers(0, 3000, 3)] = rng.integers(0, 256, 3)
        (tmp_path / "model.gguf").write_bytes(damaged.tobytes())
        try:
            opened = open_checkpoint(str(tmp_path / "model.gguf"))
            json.dumps(opened.config)
        except ModelError:
            refused += 1
    assert refused > 10
