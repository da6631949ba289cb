"""Searching by picture where several checkpoints watched, as a person asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from jobs.picturing import embedded
from pipeline.errors import UsageError
from pipeline.log import EventLog
from tests.pipeline.featured import MADE, OTHER, log_of, result, run, two_of, unit, updated


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


def test_the_service_looks_beyond_the_run_that_a_moment_is_of(tmp_path: Path) -> None:
    from jobs.serve.app import create_app
    from jobs.serve.settings import LOOPBACK, Settings

    TestClient = pytest.importorskip("fastapi.testclient").TestClient
    log = two_of(log_of(tmp_path))
    writer = EventLog.open(log)
    run(writer, "run-n", 3)
    writer.commit([result("three.mp4", [unit(6), unit(1, 0.4)], "run-n", "c3")])  # of the old weights
    with TestClient(create_app(Settings(log, hosts=LOOPBACK)), base_url="http://127.0.0.1") as client:

        def ask(query: str) -> tuple[list[str], str]:
            answer = client.get(f"/api/search/like?{query}")
            assert answer.status_code == 200, answer.text
            return [m["video"] for m in answer.json()["moments"][:2]], answer.json()["note"]

        for of_run in ("", "&of_run=run-n", "&of_run=run-s"):
            found, note = ask(f"of=three.mp4&t=1{of_run}")
            assert found == ["/a/three.mp4", "/a/one.mp4"] and "not compared: 2 of 14 moments" in note
        assert ask("of=three.mp4&t=1&run=run-n") == (["/a/three.mp4"], "")
        assert ask("of=three.mp4&t=1&of_run=run-n&run=run-a")[0] == ["/a/three.mp4", "/a/one.mp4"]
        assert set(ask("of=three.mp4&t=1&video=one.mp4&video=two.mp4")[0]) == {"/a/one.mp4", "/a/two.mp4"}
        for query, status in (("t=2", 422), ("t=1&of_run=nope", 404), ("t=1&video=nope", 404), ("t=1&run=run-b", 404)):
            assert client.get(f"/api/search/like?of=three.mp4&{query}").status_code == status, query
