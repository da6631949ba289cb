"""llama.cpp's own server: the whole job asks it, with a mixture of experts of random weights written as GGUF.

What such weights say means nothing; requests, pictures, the grammar made of the schema, many requests at once, refusals
and a server that is killed and comes back are real. Skipped where there is no `llama-server` on PATH or named by
SECONDSIGHT_LLAMA_SERVER. (The bundled checkpoint cannot be served: it merges patches 4 by 4, llama.cpp's graph of
Qwen3-VL 2 by 2; tools/mtmd/models/qwen3vl.cpp.)
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

from jobs.bench.server_process import ServerProcess  # noqa: E402
from jobs.run import run  # noqa: E402
from model.registry import find_model  # noqa: E402
from pipeline.errors import ModelError  # noqa: E402
from pipeline.frames import Frames  # noqa: E402
from pipeline.plan import Window  # noqa: E402
from tests.model import gguf_files, tiny_qwen  # noqa: E402

VARIABLE = "SECONDSIGHT_LLAMA_SERVER"
BINARY = os.environ.get(VARIABLE) or shutil.which("llama-server")
pytestmark = pytest.mark.skipif(BINARY is None, reason=f"no llama-server on PATH, none named by {VARIABLE}")
SLOTS, CONTEXT = 2, 4096  # requests at once, tokens of each
S = 1_000_000


class Server(ServerProcess):
    """llama.cpp's."""

    def __init__(self, binary: str, model: Path) -> None:
        self._binary, self._model = binary, model
        super().__init__(model.with_suffix(".log"), "tiny")
        self.wait()

    def command(self) -> list[str]:
        projector = self._model.with_name(f"mmproj-{self._model.name}")
        return [
            self._binary, "-m", str(self._model), "--mmproj", str(projector), "--host", "127.0.0.1",
            "--port", str(self.port), "-c", str(SLOTS * CONTEXT), "-np", str(SLOTS), "-t", "1", "-ngl", "0",
            "--no-warmup", "--offline", "--cache-ram", "0", "-a", "tiny",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    assert BINARY is not None
    bpe = tiny_qwen.tokenizer()
    model = tiny_qwen.random_model("moe", bpe, experts={"moe_intermediate_size": 32})
    with torch.no_grad():
        kind = gguf.GGMLQuantizationType.Q5_0
        path = gguf_files.write(tmp_path_factory.mktemp("llama"), model, bpe, tiny_qwen.TEMPLATE, kind)
    running = Server(BINARY, path)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("prompt") / "short.toml"
    path.write_text(tiny_qwen.PROMPT_2S)
    return str(path)


def noise(number: int, count: int = 4) -> tuple[Window, Frames]:
    """A window of 2 s, `count` pictures of noise that differ from those of other numbers."""
    pixels = np.random.default_rng(number).integers(0, 256, (count, 64, 96, 3), np.uint8)
    times = np.linspace(0, 2 * S, count, endpoint=False).astype(np.int64) + number * 2 * S
    return Window("v", number, number * 2 * S, (number + 1) * 2 * S), Frames(pixels, times, times + 2 * S // count)


def test_answers_are_held_to_the_schema(server: Server, prompt: str) -> None:
    factory: Any = find_model(server.spec)
    settings = {"prompt": prompt, "in_flight": 4, "max_tokens": 400}
    identity = factory.profile(settings).identity
    told = identity.settings["server"]
    assert told["dialect"] == "llamacpp" and told["facts"]["file"] == "model.gguf" and told["facts"]["meta"]["n_params"]
    model = factory.load(settings)
    windows = [noise(number) for number in range(5)]
    answers = model.watch(windows)
    for answer, (window, _) in zip(answers, windows, strict=True):
        assert answer.window == window and answer.output_tokens > 5
        if not answer.truncated:
            (events,) = json.loads(answer.answer or "").values()
            assert len(events) <= 2, "the most that the schema allows"
            for event in events:
                assert set(event) == {"start", "end", "kind", "text", "confidence"}
                assert event["kind"] in ("person", "vehicle") and len(event["text"]) <= 12
    assert sum(not answer.truncated for answer in answers) >= 3
    assert len({answer.answer for answer in answers}) > 1, "the answers must depend on the pictures"
    (fewer,) = model.watch([noise(0, 1)])
    assert answers[0].input_tokens - fewer.input_tokens > 3 * 6  # 6 tokens of each picture, and its time
    assert model.report()["retries"] == 0 and model.report()["shown_as"]["images"] == 6
    with pytest.raises(ModelError, match="exceeds"):
        model.watch([noise(0, 600)])
    model.close()


def test_a_server_that_is_killed_and_comes_back_costs_nothing(
    server: Server, prompt: str, make_clip: Any, ray_session: None, read_log: Any, tmp_path: Path
) -> None:
    """The whole job. The identity is the same after a restart: nothing is watched again."""
    for number in range(3):
        make_clip(tmp_path / "clips" / f"{number}.mp4", seconds=8, seed=number)
    log = tmp_path / "log"
    killed: list[int] = []
    settings = {"in_flight": 2, "max_tokens": 200, "outage_s": 120.0}

    def disturb(progress: Any) -> None:
        if progress.windows and not killed:
            killed.append(progress.windows)
            server.kill()
            threading.Timer(3, server.start).start()

    asked: dict[str, Any] = {"model": server.spec, "prompt": prompt, "settings": settings, "replicas": 1}
    summary = run(str(tmp_path / "clips"), str(log), **asked, on_progress=disturb)
    assert killed and killed[0] < 12, "the server was killed in the middle"
    assert (summary.videos, summary.windows, summary.failed, summary.quarantined) == (3, 12, 0, 0)
    assert summary.totals["model"]["retries"] > 0
    windows = read_log(log, "windows")
    assert len({(row["video_id"], row["window"]) for row in windows}) == len(windows) == 12
    assert all(json.loads(row["answer"]) for row in windows if not row["truncated"])
    (run_row,) = read_log(log, "runs")
    config = json.loads(run_row["config"])
    assert config["model"]["settings"]["server"]["dialect"] == "llamacpp"
    known = {(row["video_id"], row["window"]) for row in windows}
    for event in read_log(log, "events"):
        assert event["model"] == "tiny" and event["kind"] in ("person", "vehicle")
        assert (event["video_id"], event["window_first"]) in known
    again = run(str(tmp_path / "clips"), str(log), **asked)
    assert (again.already, again.run_id) == (3, "")
