"""`transformers serve` with the bundled checkpoint: a whole job has the answers that the same weights give in this
process to the same pictures and times, and a server that is killed and comes back costs nothing.

The checkpoint learned from videos, whose frames are seen in pairs; as images it makes mistakes, the same on both sides.
Skipped where what the server needs is not installed (the `dev` extra has it).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("torch", "transformers", "openai", "fastapi", "uvicorn")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {', '.join(MISSING)}")

from jobs.bench.serve_transformers import WANTS_PATCH, WITHOUT_VIDEOS  # noqa: E402
from jobs.bench.server_process import TransformersServer  # noqa: E402
from jobs.demo.archive import Film, write_archive  # noqa: E402
from jobs.run import run  # noqa: E402
from model.bundled import FOLDER  # noqa: E402
from model.qwen3_vl.asking import prompt_of  # noqa: E402
from model.registry import find_model  # noqa: E402
from pipeline.decode.windows import decode_windows  # noqa: E402
from pipeline.probe import probe  # noqa: E402

#: From a seed that training never saw; 16 s make three windows.
FILM = Film("unseen.mp4", "MARKET", 16, 320, 180, Fraction(25), gop=50)
PROMPT = str(FOLDER / "world.toml")
SETTINGS: dict[str, Any] = {"pictures": "png", "max_tokens": 512}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersServer]:
    running = TransformersServer(FOLDER, tmp_path_factory.mktemp("serve"))
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder, seed=900_777, films=[FILM])
    return folder / FILM.file


@pytest.fixture(scope="module")
def windows(film: Path) -> list[Any]:
    """With their frames, as a run has them."""
    video = probe(str(film), film.stat().st_size, FILM.file, (str(film),))
    profile = find_model("bundled").profile({})
    count = profile.windowing.count(video.duration_us)
    those = [profile.windowing.window(FILM.file, i, video.duration_us) for i in range(count)]
    return list(decode_windows(video, those, profile.sampling))


@pytest.fixture(scope="module")
def in_process(server: TransformersServer, windows: list[Any]) -> list[str]:
    """What transformers' own model and processor answer here, while the server comes up."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.models.qwen3_vl import Qwen3VLProcessor

    prompt, system_text = prompt_of(PROMPT)
    with pytest.MonkeyPatch.context() as patch:
        if WANTS_PATCH:
            patch.setattr(Qwen3VLProcessor, "get_attributes", WITHOUT_VIDEOS)
        processor = AutoProcessor.from_pretrained(FOLDER)
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float32).eval()
    answers = []
    for window, frames in windows:
        content: list[dict[str, Any]] = []
        for time_us, pixels in zip(frames.time_us, frames.pixels, strict=True):
            content.append({"type": "text", "text": f"<{max(0, time_us - window.start_us) / 1e6:.1f} seconds>"})
            content.append({"type": "image", "image": Image.fromarray(pixels)})
        content.append({"type": "text", "text": prompt.user})
        system = {"role": "system", "content": [{"type": "text", "text": system_text}]}
        given = processor.apply_chat_template(
            [system, {"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            said = model.generate(**given, do_sample=False, max_new_tokens=SETTINGS["max_tokens"])
        answers.append(processor.decode(said[0, given["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


def test_a_whole_job_says_what_the_model_says_in_process_and_survives_kill_9(
    server: TransformersServer, film: Path, in_process: list[str], ray_session: None, read_log: Any, tmp_path: Path
) -> None:
    """The server is killed after the first window and started again; no window is lost or watched twice."""
    server.wait()
    log, killed = tmp_path / "log", list[int]()
    asked: dict[str, Any] = {"model": server.spec, "prompt": PROMPT, "settings": SETTINGS, "replicas": 1}

    def disturb(progress: Any) -> None:
        if progress.windows and not killed:
            killed.append(progress.windows)
            server.kill()
            server.start()

    summary = run(str(film), str(log), **asked, on_progress=disturb)
    assert killed and killed[0] < len(in_process), "the server was killed in the middle"
    assert (summary.videos, summary.windows, summary.failed, summary.quarantined) == (1, len(in_process), 0, 0)
    assert summary.totals["model"]["retries"] > 0 and summary.totals["replica_deaths"] == 0
    windows = sorted(read_log(log, "windows"), key=lambda row: row["window"])
    assert [row["answer"] for row in windows] == in_process and len(set(in_process)) == len(in_process)
    (run_row,) = read_log(log, "runs")
    told = json.loads(run_row["config"])["model"]["settings"]
    assert told["server"]["dialect"] == "transformers" and told["frames"] == "images"
    assert len(read_log(log, "events")) > 2
    again = run(str(film), str(log), **asked)  # the same identity: nothing is watched again
    assert (again.already, again.run_id) == (1, "")
