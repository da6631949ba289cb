"""vLLM in process: its arguments against the installed package's own types, and the whole way with a stand-in engine.

Where vLLM is not installed the first part is skipped; no engine runs in any test (that needs a GPU).
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.in_vllm import VllmSettings, engine_arguments, shown
from model.interface import answers_of
from model.qwen3_vl.answer import announced_us
from model.registry import find_model
from model.served.pictures import as_vllm_video
from pipeline.errors import ModelError, UsageError
from pipeline.frames import Frames
from pipeline.plan import Window

S = 1_000_000
MOST_FRAMES = 4
ANSWER = '{"events":[{"start":0.5,"end":1.5,"kind":"a","text":"x","confidence":0.9}]}'


def fields(file: str, name: str) -> set[str]:
    """The annotated fields of a class in vLLM's source, which is read, not imported."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    tree = ast.parse((Path(found.origin).parent / file).read_text())
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}


def test_the_arguments_are_those_of_the_installed_package() -> None:
    assert set(engine_arguments("x", VllmSettings(ranks=4))) <= fields("engine/arg_utils.py", "EngineArgs")
    assert {"temperature", "max_tokens", "structured_outputs"} <= fields("sampling_params.py", "SamplingParams")
    assert "json" in fields("sampling_params.py", "StructuredOutputsParams")


def frames(times_us: list[int]) -> Frames:
    times = np.array(times_us, np.int64)
    return Frames(np.zeros((len(times), 32, 64, 3), np.uint8), times, times + S)


def test_frames_keep_their_own_times() -> None:
    """vLLM says a frame's time as index / fps (Qwen3VLProcessingInfo._calculate_timestamps)."""
    times = [0, 41_708, 500_000, 7_999_600]
    pixels, told = shown(frames(times), times)
    assert pixels.shape == (4, 32, 64, 3) and told["do_sample_frames"] is False
    assert np.abs(np.array(told["frames_indices"]) / told["fps"] - np.array(times) / S).max() <= 0.0005
    assert told["total_num_frames"] > told["frames_indices"][-1]


def test_a_window_of_one_frame_is_a_video_that_the_models_processor_takes() -> None:
    """It refuses less than a temporal patch of frames: transformers' own rule, which vLLM calls, over what is shown."""
    smart_resize = pytest.importorskip("transformers.models.qwen3_vl.video_processing_qwen3_vl").smart_resize
    with pytest.raises(ValueError, match="temporal_factor"):
        smart_resize(1, 32, 64, 2, 32)
    (part,), more = as_vllm_video(frames([2 * S]).pixels, [2 * S], "jpeg")
    sent = part["video_url"]["url"].partition(",")[2].split(",")
    pixels, told = shown(frames([2 * S]), [2 * S])
    for count, facts in ((len(sent), more["media_io_kwargs"]["video"]), (len(pixels), told)):
        assert smart_resize(count, 32, 64, 2, 32)[0] >= 32
        assert facts["frames_indices"] == [2000, 2000] and facts["fps"] == 1000, (
            "told as at 2.0 s, as announced_us says"
        )
        assert count == 2 <= facts["total_num_frames"]
    assert sent[0] == sent[1] and (pixels[0] == pixels[1]).all()
    assert announced_us([2 * S]) == [2 * S]


def test_several_ranks_are_the_engines_own() -> None:
    several, one = (engine_arguments("x", VllmSettings(ranks=n)) for n in (4, 1))
    assert several["tensor_parallel_size"] == 4 and several["enable_expert_parallel"]
    assert (several["distributed_executor_backend"], one["distributed_executor_backend"]) == ("ray", None)
    assert engine_arguments("x", VllmSettings(engine={"max_model_len": 9}))["max_model_len"] == 9
    for wrong in ({"engine": {"model": "y"}}, {"engine": 3}, {"precision": "int4"}, {"ranks": 0}, {"placement": 1}):
        with pytest.raises(UsageError):
            VllmSettings.of(wrong)


@pytest.fixture
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A module in vLLM's place that takes calls as vLLM does and answers each prompt with the same events; of a prompt
    of more than `MOST_FRAMES` frames it says that it is too long. With False for a parameter it is an older one."""
    calls: list[Any] = []

    class LLM:
        def __init__(self, **arguments: Any) -> None:
            calls.append(arguments)

        def get_tokenizer(self) -> Any:
            return SimpleNamespace(apply_chat_template=lambda messages, **how: f"{messages}")

        def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
            calls.append((prompts, params))
            assert prompts, "the engine is asked nothing"
            if any(len(p["multi_modal_data"]["video"][0][0]) > MOST_FRAMES for p in prompts):
                raise refusal("The decoder prompt (length 9) is longer than the maximum model length of 8.")
            said = SimpleNamespace(text=ANSWER, token_ids=[1, 2], finish_reason="stop")
            return [SimpleNamespace(outputs=[said], prompt_token_ids=[1] * 9) for _ in prompts]

    class VLLMClientError(Exception):
        """As vLLM's: no ValueError."""

    refusal: type[Exception] = VLLMClientError if getattr(request, "param", True) else ValueError
    module, sampling, own = (ModuleType(f"vllm{name}") for name in ("", ".sampling_params", ".exceptions"))
    own.VLLMClientError = VLLMClientError  # type: ignore[attr-defined]
    if refusal is ValueError:  # an earlier version, without them
        monkeypatch.setitem(sys.modules, "vllm.exceptions", None)
    else:
        monkeypatch.setitem(sys.modules, "vllm.exceptions", own)
    module.LLM, module.SamplingParams = LLM, SimpleNamespace  # type: ignore[attr-defined]
    sampling.StructuredOutputsParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    return calls


def test_windows_become_events(installed: list[Any], tmp_path: Path) -> None:
    prompt = tmp_path / "short.toml"
    prompt.write_text('user = "List."\n[answer]\nkinds = ["a"]\nmax_events = 3\nmax_text = 6\n')
    model = find_model("vllm:org/name").load({"prompt": str(prompt), "ranks": 2})
    windows = [(Window("v", i, i * S, i * S + 8 * S), frames([i * S, i * S + S // 2])) for i in range(3)]
    windows.insert(1, (Window("v", 9, 0, S), frames([])))
    found = model.watch(windows)
    assert [len(answer.events) for answer in found] == [1, 0, 1, 1]
    assert [answer.window.index for answer in found] == [0, 9, 1, 2]
    (arguments, (prompts, params)) = installed
    assert arguments["enable_expert_parallel"] and arguments["model"] == "org/name"
    assert [p["multi_modal_data"]["video"][0][1]["frames_indices"] for p in prompts] == [[0, 500]] * 3
    assert params[0].temperature == 0.0 and params[0].structured_outputs.json["type"] == "object"
    assert model.report()["prefill_tokens"] == 27  # type: ignore[attr-defined]


@pytest.mark.parametrize("installed", [True, False], indirect=True)
def test_a_window_that_is_too_long_is_refused_and_the_engine_stays(installed: list[Any]) -> None:
    """ModelError, which leaves the replica alive; the batch's other windows are answered."""
    model = find_model("vllm:org/name").load({})
    batch = [(Window("v", i, 0, 8 * S), frames([0] * (MOST_FRAMES + (i == 3)))) for i in range(6)]
    batch.insert(2, (Window("v", 9, 0, S), frames([])))
    with pytest.raises(ModelError, match=r"5 frames: .* longer than the maximum .* shorter --window") as caught:
        model.watch(batch)
    there = answers_of(caught.value)
    assert [(said.window.index, said.answer) for said in there] == [
        (i, None if i == 9 else ANSWER) for i in (0, 1, 9, 2, 4, 5)
    ]
    asked = len(installed)
    (nothing,) = model.watch([(Window("v", 2, 0, S), frames([]))])
    assert nothing.events == () and model.watch([]) == [] and len(installed) == asked


def test_without_vllm_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"secondsight\[vllm\]"):
        find_model("vllm:org/name").load({})
    with pytest.raises(UsageError, match="which one"):
        find_model("vllm:")
