"""Prompts: text and tokens as transformers' processor makes them, true times, positions; profiles that are refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.prompts import load_prompt, names
from pipeline.errors import ModelError
from pipeline.event import OTHER_KINDS
from pipeline.plan import Windowing

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.model import tiny_qwen  # noqa: E402


@pytest.fixture(scope="module")
def bpe() -> Any:
    return tiny_qwen.tokenizer()


@pytest.fixture(scope="module")
def builder(bpe: Any) -> Any:
    from model.qwen3_vl.prompt import PromptBuilder

    return PromptBuilder(bpe, tiny_qwen.TEMPLATE, "Watch.\nSay what happens.", "List the events.", merge=2, temporal=2)


def stock_video_text(seconds: list[float], grid: tuple[int, int, int]) -> str:
    """transformers' own placeholder text. With fps=1.0 and seconds as indices its times are exact."""
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    def timestamps(*args: Any) -> list[float]:
        times: list[float] = Qwen3VLProcessor._calculate_timestamps(processor, *args)
        return times

    processor = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_token="<|video_pad|>",
        _calculate_timestamps=timestamps,
    )
    metadata = SimpleNamespace(fps=1.0, frames_indices=list(seconds))
    inputs = {"video_grid_thw": np.array([grid]), "video_metadata": [metadata]}
    return str(Qwen3VLProcessor.replace_video_token(processor, inputs, 0))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 31])
def test_text_and_tokens_equal_transformers(builder: Any, bpe: Any, count: int) -> None:
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(count)
    frame_us = sorted(rng.choice(30_000_000, count, replace=False).tolist())
    grid = (-(-count // 2), 4, 6)
    prompt = builder.build(frame_us, grid)

    stock_tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    messages = [
        {"role": "system", "content": "Watch.\nSay what happens."},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("<|video_pad|>", "List the events.")]},
    ]
    text = stock_tokenizer.apply_chat_template(
        messages, chat_template=tiny_qwen.TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    text = text.replace("<|video_pad|>", stock_video_text([us / 1e6 for us in frame_us], grid))
    assert builder.text(frame_us, grid) == text
    assert prompt.ids.tolist() == stock_tokenizer(text)["input_ids"]
    assert int((prompt.types == 2).sum()) == grid[0] * 6
    assert prompt.ids[: len(builder.prefix)].tolist() == builder.prefix
    assert bpe.decode(builder.prefix, skip_special_tokens=False).endswith("<|im_start|>user\n<")


def test_times_are_true_and_the_mean_of_each_pair(builder: Any) -> None:
    text = builder.text([0, 40_000, 1_960_000, 7_100_000, 9_000_000], (3, 2, 2))
    shown = [part.split(" seconds>")[0] for part in text.split("<")[1:] if " seconds>" in part]
    assert shown == ["0.0", "4.5", "9.0"]
    assert text.count("<|vision_start|><|video_pad|><|vision_end|>") == 3


def test_positions_follow_the_published_layout(builder: Any, bpe: Any) -> None:
    """Text counts on in all axes; a pair starts at the text's next position, rows and columns count from there, and
    what follows goes on after its longer side. Time does not advance within a pair."""
    from transformers import Qwen3VLConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

    from model.qwen3_vl.prompt import positions

    config = Qwen3VLConfig(vision_config={"spatial_merge_size": 2})
    prompt = builder.build([0, 500_000, 1_000_000], (2, 4, 6))
    at, following = positions(_Bare(config, Qwen3VLModel), prompt)
    expected: list[tuple[int, int, int]] = []
    position, i, kinds = 0, 0, prompt.types.tolist()
    while i < len(kinds):
        if kinds[i] == 0:
            expected.append((position,) * 3)
            position, i = position + 1, i + 1
        else:
            expected += [(position, position + row, position + column) for row in range(2) for column in range(3)]
            position, i = position + 3, i + 6
    assert at[1:].T.tolist() == [list(p) for p in expected]
    assert at[0].tolist() == list(range(len(kinds))) and following == position


class _Bare:
    """transformers' position code without its weights."""

    def __init__(self, config: Any, model: Any) -> None:
        self.config = config
        self._model = model

    def get_rope_index(self, *args: Any, **kwargs: Any) -> Any:
        return self._model.get_rope_index(self, *args, **kwargs)

    def get_vision_position_ids(self, *args: Any, **kwargs: Any) -> Any:
        return self._model.get_vision_position_ids(self, *args, **kwargs)


def test_thinking_templates_are_answered_at_once(bpe: Any) -> None:
    from model.qwen3_vl.prompt import PromptBuilder

    thinking = tiny_qwen.TEMPLATE.replace(r"assistant\n", r"assistant\n<think>\n")
    text = PromptBuilder(bpe, thinking, "", "List.", 2, 2).text([0], (1, 2, 2))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("{{ messages[5].content }}", "cannot be rendered"),
        ("{{ 1 / 0 }}", "cannot be rendered"),
        ("{% if %}", "cannot be rendered"),
        ("no video", "0 times"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be rendered"),
    ],
)
def test_hostile_templates_are_refused(bpe: Any, template: str, wrong: str) -> None:
    from model.qwen3_vl.prompt import PromptBuilder

    with pytest.raises(ModelError, match=wrong):
        PromptBuilder(bpe, template, "s", "u", 2, 2)


# --- profiles ---------------------------------------------------------------------------------------------------------


def test_the_named_profiles_load() -> None:
    assert names() == ["driving", "events", "lecture", "ocr", "safety", "screen", "sports"]
    for name in names():
        prompt = load_prompt(name)
        assert prompt.name == name and prompt.summary and prompt.system and prompt.user and prompt.answer.kinds
        assert set(prompt.rules) <= {OTHER_KINDS, *prompt.answer.kinds}
    assert load_prompt("lecture").fps == Fraction(1, 2)
    assert load_prompt("events").windowing == Windowing(16_000_000, 1_000_000)


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('user = "Count the birds."\n[answer]\nkinds = "free"\nattributes.count = {type = "integer"}\n')
    prompt = load_prompt(str(file))
    assert prompt.name == "mine" and prompt.answer.kinds is None and prompt.fps is None
    assert prompt.answer.attributes == {"count": {"type": "integer"}}


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("user = ", "not a TOML file"),
        ('usr = "x"', "the file holds usr"),
        ('system = "x"', "user is missing"),
        ('user = "a <|im_end|> b"', r"holds <\|im_end\|>"),
        ('user = "x"\n[answer]\nkinds = []', "kinds must be"),
        ('user = "x"\n[answer]\nkinds = ["a b"]', "kind 'a b'"),
        ('user = "x"\n[answer]\nmax_events = 0', "max_events"),
        ('user = "x"\n[answer.attributes.start]\ntype = "string"', "attribute 'start'"),
        ('user = "x"\n[answer.attributes.deep]\ntype = "object"', "type must be one of"),
        ('user = "x"\n[answer.attributes.n]\ntype = "number"\npattern = "x"', "holds pattern"),
        ('user = "x"\n[sampling]\nfps = "1/0"', "fps"),
        ('user = "x"\n[sampling]\nfps = -1', "fps"),
        ('user = "x"\n[window]\nlength_s = 2\noverlap_s = 2', "overlap_s"),
        ('user = "x"\n[rules.a]\nevery = 1', "holds every"),
        ('user = "x"\n[rules."*"]\nmin_confidence = 2', "min_confidence must lie"),
    ],
)
def test_wrong_profiles_name_the_file_and_the_entry(tmp_path: Path, content: str, wrong: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(content)
    with pytest.raises(ModelError, match=wrong) as caught:
        load_prompt(str(file))
    assert str(file) in str(caught.value)


def test_unknown_profiles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="choose one of driving, events"):
        load_prompt("evnts")
    with pytest.raises(ModelError, match="cannot read"):
        load_prompt(str(tmp_path / "absent.toml"))
    with pytest.raises(ModelError, match="cannot read"):
        load_prompt(f"{tmp_path}/")
