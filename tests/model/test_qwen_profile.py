"""What the driver knows of a Qwen3-VL before it is loaded, and what makes its answers its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.qwen3_vl import PRECISIONS, QwenFactory
from model.registry import Placeable, find_model
from pipeline.errors import ModelError, UsageError
from pipeline.plan import Windowing

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.model import tiny_qwen


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("profiles")
    return {kind: tiny_qwen.save(root / kind, kind) for kind in ("moe", "dense")}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["moe"], tmp_path / "moe"))


def identity(path: Path, **settings: Any) -> Any:
    return QwenFactory(str(path)).profile(settings).identity


def test_the_profile_is_known_without_torch(folders: dict[str, Path]) -> None:
    code = (
        "import sys; from model.registry import find_model\n"
        f"profile = find_model({str(folders['moe'])!r}).profile({{'ranks': 2, 'prompt': 'lecture'}})\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "print(profile.ranks, profile.batch_windows, profile.windowing.length_us, profile.sampling.multiple)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "8", "32000000", "32"], done.stderr


def test_who_asks_for_fp8_is_told_where_it_is_multiplied(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "shapes.toml").write_text('user = "List."\nnotice = "knows shapes only"\n')
    asked = {"prompt": str(tmp_path / "shapes.toml")}
    plain, fp8 = (
        QwenFactory(str(folders["moe"])).profile({**asked, **more}).notice for more in ({}, {"precision": "fp8"})
    )
    assert plain == "knows shapes only" and fp8.startswith(f"{plain}\n") and "Hopper" in fp8


def test_answers_belong_to_weights_prompt_and_precision_and_not_to_how_they_are_computed(
    folders: dict[str, Path],
) -> None:
    plain = identity(folders["moe"])
    same = {"ranks": 2, "batch_windows": 9, "vision_cache_mib": 1, "expert_placement": "measured", "device": "cuda"}
    for name, value in same.items():
        assert identity(folders["moe"], **{name: value}) == plain, name
    for name, value in {"prompt": "ocr", "precision": "bf16", "max_new_tokens": 99}.items():
        assert identity(folders["moe"], **{name: value}) != plain, name
    each = [json.dumps(identity(folders["moe"], precision=name).settings) for name in PRECISIONS]
    assert len(set(each)) == len(PRECISIONS) > 4
    assert identity(folders["dense"]).weights_hash != plain.weights_hash
    assert json.loads(json.dumps(plain.settings)) is not None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("chat_template.jinja", lambda text: text + " "),
        ("tokenizer.json", lambda text: text.replace('"<|endoftext|>"', '"<|end_of_text|>"')),
        ("video_preprocessor_config.json", lambda text: text.replace("4096", "8192")),
    ],
)
def test_the_text_files_count_too(
    folders: dict[str, Path], copy: Path, name: str, change: Callable[[str], str]
) -> None:
    (copy / name).write_text(change((copy / name).read_text()))
    assert identity(copy) != identity(folders["moe"])


def test_a_prompt_file_goes_to_the_cluster_with_its_content(folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('user = "Count."\n[window]\nlength_s = 3\n')
    factory = find_model(str(folders["moe"]))
    assert isinstance(factory, Placeable)
    before = factory.profile({"prompt": str(file)})
    placed = factory.for_cluster({"prompt": str(file)}, {"CPU": 4}, dict)
    file.unlink()
    after = factory.profile(placed)
    assert after.identity == before.identity and after.windowing == Windowing(3_000_000, 0)
    assert (after.gpus, placed["device"]) == (0, "cpu")
    assert factory.profile(factory.for_cluster({}, {"GPU": 8.0}, dict)).gpus == 1
    assert factory.for_cluster({"device": "cpu"}, {"GPU": 8.0}, dict)["device"] == "cpu"


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"rank": 2}, "no setting rank"),
        ({"precision": "int3"}, "--precision int3"),
        ({"ranks": 0}, "ranks = 0"),
        ({"ranks": "2"}, "ranks = '2'"),
        ({"expert_placement": "random"}, "--expert-placement random"),
        ({"max_new_tokens": True}, "max_new_tokens = True"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    folders: dict[str, Path], settings: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(UsageError, match=wrong):
        identity(folders["moe"], **settings)


def test_a_dense_model_has_no_experts_to_split(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="use --replicas"):
        identity(folders["dense"], ranks=2)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_dense_model_has_no_experts_to_quantise(folders: dict[str, Path], precision: str) -> None:
    with pytest.raises(UsageError, match="dense model"):
        identity(folders["dense"], precision=precision)


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "config.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=name.split(".")[0]):
        identity(copy)


def test_a_config_of_another_model_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(ModelError, match="model_type 'llama'"):
        identity(copy)
