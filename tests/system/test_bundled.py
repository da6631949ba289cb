"""The bundled checkpoint: it sees what was drawn, whoever holds its experts, in whatever layout tools expect."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jobs.bench.truth import MOMENTS  # noqa: E402
from jobs.demo.archive import Film, write_archive  # noqa: E402
from jobs.evaluate import score  # noqa: E402
from jobs.run import run  # noqa: E402
from model.bundled import FOLDER  # noqa: E402
from model.registry import find_model  # noqa: E402
from pipeline.groundtruth import read_truth  # noqa: E402

FILM = Film("unseen.mp4", "MARKET", 30, 320, 180, Fraction(25), gop=50)
SEEN = ("start_us", "end_us", "kind", "text", "confidence")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film from a seed that training never saw, and what is true in it."""
    return write_archive(tmp_path_factory.mktemp("archive"), seed=900_777, films=[FILM])


def events(log: Path, read_log: Any) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[name] for name in SEEN) for row in read_log(log, "events"))


def test_it_sees_what_was_drawn_with_any_number_of_ranks(
    truth: Path, ray_session: None, tmp_path: Path, read_log: Any
) -> None:
    logs = {ranks: tmp_path / f"{ranks}" for ranks in (1, 4)}
    for ranks, log in logs.items():
        run(str(truth.with_name(FILM.file)), str(log), "bundled", ranks=ranks, replicas=1)
    alone = events(logs[1], read_log)
    assert alone == events(logs[4], read_log)
    found = score(str(logs[1]), read_truth(truth), moments=MOMENTS)
    assert (found.f1(0.5) or 0) > 0.25  # one short film; python -m jobs.bench.truth has the figures, chance has 0


def test_it_says_that_it_knows_only_its_world() -> None:
    assert "only the generated world" in find_model("bundled").profile({}).notice


def test_transformers_reads_it() -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model, loading = AutoModelForImageTextToText.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(loading[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.text_config.num_experts == 8 and model.config.text_config.num_experts_per_tok == 2
    assert AutoTokenizer.from_pretrained(FOLDER).decode([model.generation_config.eos_token_id[0]]) == "<|im_end|>"


def test_it_is_small_enough_to_come_along() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 30_000_000
