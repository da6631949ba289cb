"""Searching by picture where several checkpoints watched, as a person asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from jobs.picturing import embedded
from pipeline.errors import UsageError
from tests.pipeline.featured import MADE, OTHER, log_of, two_of, unit, updated


class Eye:
    """Sees a picture as `vector`, whatever it shows."""

    def __init__(self, made_by: str, vector: np.ndarray) -> None:
        self.made_by, self.vector = made_by, vector

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.shape == (64, 96, 3)  # as the runs of these logs saw it
        return self.vector


def test_a_picture_is_compared_with_what_the_named_checkpoint_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eyes = {"bundled": Eye(MADE, unit(4)), "/models/b": Eye(OTHER, unit(1)), "/models/c": Eye("y:mean-1", unit(1))}
    monkeypatch.setattr("jobs.picturing._embedder", eyes.__getitem__)
    search, pixels = updated(two_of(log_of(tmp_path))), np.zeros((128, 192, 3), np.uint8)
    for model, name in ((None, "/a/two.mp4"), ("bundled", "/a/two.mp4"), ("/models/b", "/a/new.mp4")):
        assert search.find(*embedded(search, pixels, model), limit=1)[0].name == name
    with pytest.raises(UsageError, match=r"/models/c is not what watched this log.*bundled \(w.*/models/b \(x"):
        embedded(search, pixels, "/models/c")


def test_the_command_says_what_it_does_not_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = two_of(log_of(tmp_path))
    for more, left_out in (((), "not compared: 10 of 12 moments"), (("--run", "run-b"), "")):
        assert main(["search", log, "--like", "new.mp4", "--at", "1", "--format", "jsonl", *more]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out.splitlines()[0])["video"] == "/a/new.mp4"
        assert left_out in err and bool(err) == bool(left_out)
    assert main(["search", log, "--like", "new.mp4", "--at", "2"]) == 1
    assert "new.mp4 is 0:02 long: there is nothing at 0:02" in capsys.readouterr().err
