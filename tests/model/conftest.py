"""What the tests of models share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread, as its small matrices want it."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def moe(one_thread: None) -> Any:
    """transformers' own mixture of experts of random weights."""
    from tests.model import expert_checkpoints

    return expert_checkpoints.build("moe")


@pytest.fixture(scope="module")
def good(moe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint of a few kilobytes, never written to."""
    from tests.model import expert_checkpoints

    return expert_checkpoints.save(moe, tmp_path_factory.mktemp("checkpoint") / "good", "per_expert", shards=2)


@pytest.fixture
def damaged(good: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(good, tmp_path / "damaged"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that speaks the chat API and does what a test plans."""
    from model.served import retry
    from tests.model import served_fake

    monkeypatch.setattr(retry, "FIRST_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with served_fake.running() as server:
        yield server


@pytest.fixture
def prompt(tmp_path: Path) -> str:
    """A short prompt file."""
    path = tmp_path / "short.toml"
    path.write_text('system = "Look."\nuser = "List."\n[answer]\nkinds = ["a", "b"]\nmax_events = 3\nmax_text = 6\n')
    return str(path)
