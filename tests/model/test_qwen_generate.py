"""The whole path from frames to tokens, against transformers' own `generate`; ranks, batches, caches change nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llguidance")

from tests.model import qwen_ranks as ranks  # noqa: E402
from tests.model import tiny_qwen  # noqa: E402
from tests.model.forked_ranks import ROOT  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
MAX_NEW_TOKENS = 40
NUMBERS = list(range(6))

MEASURED = {
    "expert_placement": "measured",
    "expert_load": [[90, 5, 5, 60, 1, 1, 40, 3], [1] * 8, [0] * 8, list(range(8))],
    "expert_replicas": 2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("qwen")
    (root / "short.toml").write_text(tiny_qwen.PROMPT)
    return {"prompt": root / "short.toml"} | {
        kind: tiny_qwen.save(root / kind, kind, seed=3) for kind in ("moe", "dense")
    }


@pytest.fixture(scope="module", params=["moe", "dense"])
def case(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[str, Any, Any]:
    """Kind, our watcher, transformers' own model of the same checkpoint."""
    from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

    from model.qwen3_vl import QwenFactory

    kind = request.param
    own = {"moe": Qwen3VLMoeForConditionalGeneration, "dense": Qwen3VLForConditionalGeneration}[kind]
    reference = own.from_pretrained(folders[kind], dtype=torch.float32).eval()
    settings = {"max_new_tokens": MAX_NEW_TOKENS, "prompt": str(folders["prompt"])}
    return kind, QwenFactory(str(folders[kind])).load(settings), reference


class GrammarProcessor:
    """The grammar for transformers' generate: allowed tokens by the same library, driven from the ids so far."""

    def __init__(self, constraint: Any, start: int) -> None:
        self.constraint, self.seen = constraint, start

    def __call__(self, ids: Any, scores: Any) -> Any:
        for token in ids[0, self.seen :].tolist():
            self.constraint.take(token)
        self.seen = ids.shape[1]
        return scores.masked_fill(~torch.from_numpy(self.constraint.allowed())[None], float("-inf"))


def generate(reference: Any, watcher: Any, window: Any, constrained: bool) -> list[int]:
    """One window through transformers' own `generate`, alone in its batch."""
    from transformers import LogitsProcessorList

    from model.qwen3_vl.answer import answer_schema
    from model.qwen3_vl.patches import patchify

    request = watcher._request(*window)
    ids = request.prompt.ids[None]
    patches = patchify(request.video, watcher.patches)
    processors = LogitsProcessorList()
    if constrained:
        schema = answer_schema(watcher.form, window[0].end_us - window[0].start_us)
        processors.append(GrammarProcessor(watcher.grammar.constraint(schema), ids.shape[1]))
    with torch.inference_mode():
        out = reference.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=request.prompt.types[None],
            pixel_values_videos=patches.reshape(-1, patches.shape[-1]),
            video_grid_thw=torch.tensor([request.prompt.grid]),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            logits_processor=processors,
        )
    said = out[0, ids.shape[1] :].tolist()
    return said[: next((i for i, token in enumerate(said) if token in watcher.generator._end_ids), len(said))]


@pytest.fixture(scope="module")
def expected(case: tuple[str, Any, Any]) -> dict[bool, list[list[int]]]:
    _, watcher, reference = case
    return {
        constrained: [generate(reference, watcher, ranks.window(n), constrained) for n in NUMBERS]
        for constrained in (False, True)
    }


@pytest.mark.parametrize("constrained", [False, True])
def test_tokens_equal_transformers_generate(
    case: tuple[str, Any, Any], expected: dict[bool, list[list[int]]], constrained: bool
) -> None:
    """Windows of different sizes, odd counts and a single frame, all in one batch behind a shared prefix."""
    _, watcher, _ = case
    assert ranks.tokens_of(watcher, NUMBERS, constrained) == expected[constrained]
    said = expected[constrained]
    assert len({tuple(tokens) for tokens in said}) >= 3, "the answers must depend on the windows"


def test_the_pixels_reach_the_answer(case: tuple[str, Any, Any]) -> None:
    _, watcher, _ = case
    request, other = (watcher._request(*ranks.window(0)) for _ in range(2))
    other.video = 255 - other.video
    request.constraint = other.constraint = None
    first, second = watcher.generator.generate([request, other])
    assert first.tokens != second.tokens


def test_batches_prefix_and_feature_cache_change_nothing(
    case: tuple[str, Any, Any], expected: dict[bool, list[list[int]]]
) -> None:
    _, watcher, _ = case
    generator, cache = watcher.generator, watcher.generator.vision.cache
    hits = cache.hits
    small = generator.batch_tokens
    try:
        generator.batch_tokens = 1  # one window a batch
        assert ranks.tokens_of(watcher, NUMBERS, False) == expected[False]
        assert cache.hits > hits, "features of the same frames are computed once"
        generator.batch_tokens = 2 * (max(len(watcher._request(*ranks.window(n)).prompt) for n in NUMBERS) + 40)
        assert ranks.tokens_of(watcher, NUMBERS[::-1], False) == expected[False][::-1]
        prefix = generator._prefix
        generator._prefix_ids, generator._prefix = generator._prefix_ids[:0], None
        cache._entries.clear()
        assert ranks.tokens_of(watcher, NUMBERS, False) == expected[False]
    finally:
        generator.batch_tokens = small
        generator._prefix_ids, generator._prefix = torch.tensor(watcher.prompts.prefix), prefix


def test_watch_gives_events_that_parse(case: tuple[str, Any, Any]) -> None:
    _, watcher, _ = case
    answered = watcher.watch([ranks.window(n) for n in NUMBERS])
    assert [a.window.index for a in answered] == NUMBERS
    for answer in answered:
        assert answer.output_tokens <= MAX_NEW_TOKENS and answer.input_tokens > 30
        assert answer.truncated == (answer.output_tokens == MAX_NEW_TOKENS and not answer.answer.endswith("]}"))
        if not answer.truncated:
            assert len(json.loads(answer.answer)["events"]) == len(answer.events)
        for event in answer.events:
            assert 0 <= event.start_us < event.end_us <= ranks.WINDOW_US and event.kind in ("person", "vehicle")


def test_a_window_longer_than_the_model_can_take_is_refused(case: tuple[str, Any, Any]) -> None:
    from pipeline.errors import ModelError

    _, watcher, _ = case
    text = watcher.generator.loaded.config.text_config
    most = text.max_position_embeddings
    try:
        text.max_position_embeddings = 100
        with pytest.raises(ModelError, match="choose a shorter --window"):
            watcher.watch([ranks.window(0)])
    finally:
        text.max_position_embeddings = most


def test_batches_fill_the_budget_with_like_lengths() -> None:
    from model.qwen3_vl.generate import plan_batches

    assert plan_batches([10, 50, 12, 48], 10, 120) == [[1, 3], [2, 0]]
    assert plan_batches([500, 5], 10, 120) == [[0], [1]]
    assert plan_batches([], 10, 120) == []


def test_ranks_give_the_same_tokens(
    case: tuple[str, Any, Any], expected: dict[bool, list[list[int]]], folders: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    """2 and 4 ranks with 0, 1 and many windows, two rounds, in lockstep; all ranks together on few windows; experts
    placed by measured load, two of them twice."""
    kind, _, _ = case
    if kind == "dense":
        pytest.skip("a dense model has no experts to split")
    common = {"checkpoint": str(folders[kind]), "prompt": str(folders["prompt"]), "max_new_tokens": MAX_NEW_TOKENS}
    jobs = [
        {"ranks": 2, "work": [[[0, 1, 2], [3]], [[], [4, 5]]], "constrained": False},
        {"ranks": 4, "work": [[[0], []], [[], []], [[1, 2, 3, 4], []], [[], [5]]], "constrained": True},
        {"ranks": 2, "work": [[[2], [0, 3]]] * 2, "constrained": False, "together": True},
        {"ranks": 2, "work": [[[5, 1]], [[0]]], "constrained": False, "settings": MEASURED},
    ]
    for i, job in enumerate(jobs):
        job |= common | {"out": str(tmp_path / str(i))}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-W", "ignore", "-m", "tests.model.qwen_ranks", str(tmp_path / "jobs.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    for job in jobs:
        for rank in range(job["ranks"]):
            found = json.loads((Path(job["out"]) / f"{rank}.json").read_text())
            said = [[expected[job["constrained"]][n] for n in numbers] for numbers in job["work"][rank]]
            assert found["said"] == said
            routing = found["report"]["routing"]
            # Every token that this rank computed chose 2 experts in each of the 4 layers.
            assert len({sum(layer) for layer in routing["tokens"]}) == 1 and len(routing["tokens"]) == 4
            assert routing["bytes_sent"] > 0 and routing["seconds"]["compute"] > 0
