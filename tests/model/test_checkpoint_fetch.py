"""A checkpoint copied from a hub to an object store. The hub is played; the store is fsspec's own in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import huggingface_hub
import pytest

from model.checkpoint import fetch
from pipeline.errors import ModelError

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "model-00001-of-00002.safetensors": b"1" * 1000,
    "model-00002-of-00002.safetensors": b"2" * 500,
    "modeling_evil.py": b"raise SystemExit",
    "onnx/model.safetensors": b"not at the top",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """`given`: names in the order they were asked for; `broken`: names that fail so many times more."""
    played = SimpleNamespace(given=[], broken={}, folders=set(), lock=threading.Lock())

    def model_info(_: Any, repo: str, revision: str | None = None, files_metadata: bool = False) -> Any:
        if repo != "org/name":
            raise OSError("404: not found")
        assert files_metadata
        siblings = [SimpleNamespace(rfilename=name, size=len(data)) for name, data in FILES.items()]
        return SimpleNamespace(sha="c0ffee", siblings=siblings)

    def download(repo: str, name: str, revision: str, local_dir: str) -> str:
        assert (repo, revision) == ("org/name", "c0ffee")
        with played.lock:
            played.given.append(name)
            played.folders.add(local_dir)
            if played.broken.get(name, 0):
                played.broken[name] -= 1
                raise ConnectionError("reset by peer")
        (Path(local_dir) / name).write_bytes(FILES[name])
        return str(Path(local_dir) / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(fetch, "PAUSE_S", 0.0)
    yield played
    if (fs := fsspec.filesystem("memory")).exists("/fetched"):
        fs.rm("/fetched", recursive=True)


def _stored() -> dict[str, bytes]:
    fs = fsspec.filesystem("memory")
    return {path.rpartition("/")[2]: fs.cat_file(path) for path in fs.find("/fetched/name")}


def test_what_a_checkpoint_needs_is_copied_and_its_config_last(hub: SimpleNamespace, tmp_path: Path) -> None:
    wanted = {n: d for n, d in FILES.items() if n != "modeling_evil.py" and "/" not in n}
    assert fetch.fetch("org/name", "memory://fetched/name/", scratch=str(tmp_path)) == sorted(wanted)
    assert _stored() == wanted and hub.given[-1] == "config.json"
    assert not list(tmp_path.iterdir()) and all(folder.startswith(str(tmp_path)) for folder in hub.folders)


def test_a_copy_that_was_broken_off_goes_on(hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    second = "model-00002-of-00002.safetensors"
    hub.broken[second] = 99
    assert fetch.main(["org/name", "memory://fetched/name"]) == 1
    assert f"org/name/{second}: not copied" in capsys.readouterr().err and "config.json" not in _stored()
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/fetched/name/tokenizer.json", b"{")  # cut off
    hub.broken[second], hub.given = 1, []
    assert fetch.main(["org/name", "memory://fetched/name"]) == 0
    assert sorted(hub.given) == sorted([second, second, "tokenizer.json", "config.json"])
    assert _stored()[second] == FILES[second] and _stored()["tokenizer.json"] == FILES["tokenizer.json"]
    assert fetch.fetch("org/name", "memory://fetched/name") == []


def test_what_the_hub_does_not_have_is_said(hub: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="org/other: the hub does not give it: OSError: 404"):
        fetch.fetch("org/other", "memory://fetched/name")
    fetch.fetch("org/name", str(tmp_path / "shared" / "name"))  # a folder that all nodes see
    assert (tmp_path / "shared" / "name" / "config.json").read_bytes() == b"{}"
