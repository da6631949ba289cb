"""`--model vllm:ID`: vLLM's own engine in the replica's actor, with as many GPUs as there are ranks.

The engine's Ray executor takes one GPU for each rank from the cluster that the run is on; experts are split between
them (expert parallelism). Frames enter as they were sampled here, each with its own time (qwen3_vl/vllm_video.py).

Written against vLLM 0.33 (engine/arg_utils.py, model_executor/models/qwen3_vl.py, sampling_params.py); its extra pins
another torch than ours, so it goes into an environment of its own: `pip install 'secondsight[vllm]'`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from model.checkpoint.index import Checkpoint, open_checkpoint
from model.interface import Model, ModelIdentity, ModelProfile, with_answers
from model.prompts import Prompt
from model.qwen3_vl.answer import answer_schema
from model.qwen3_vl.asking import (
    DEFAULT_PROMPT,
    answered,
    asked,
    at_least,
    carried,
    doubt_of,
    known_only,
    own_fps,
    prompt_of,
    relative_us,
    sampling_of,
)
from model.qwen3_vl.files import read_text_files
from model.qwen3_vl.verify import DENSER, SecondLooks, Seen, answers_among
from model.qwen3_vl.vllm_video import as_video
from pipeline.errors import ModelError, UsageError
from pipeline.event import WindowEvents
from pipeline.frames import Frames
from pipeline.plan import Window, Windowing

BEHAVIOUR_VERSION = 1
PRECISIONS = {"auto": "auto", "bf16": "bfloat16", "float32": "float32"}


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """What a user may choose. `ranks`: GPUs of one replica. `engine`: further arguments of vLLM's EngineArgs, such as
    {"max_model_len": 65536, "quantization": "fp8"}. The others are as of a Qwen3-VL checkpoint."""

    prompt: str = DEFAULT_PROMPT
    prompt_text: str = ""
    ranks: int = 1
    precision: str = "auto"
    max_new_tokens: int = 1024
    batch_windows: int = 64
    engine: Mapping[str, Any] = field(default_factory=dict)
    verify: float = 0.0
    verify_kinds: Sequence[str] = ()
    fps: str = ""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> VllmSettings:
        """Raises UsageError for a setting that is not known or has an impossible value."""
        known_only("vLLM", settings, cls.__dataclass_fields__, ("prompt_text", "fps"))
        chosen = cls(**settings)
        at_least(chosen, ranks=1, max_new_tokens=16, batch_windows=1)
        if chosen.precision not in PRECISIONS:
            raise UsageError(
                f"--precision {chosen.precision}: vLLM takes {', '.join(PRECISIONS)}, or an FP8 checkpoint"
            )
        if not isinstance(chosen.engine, Mapping) or set(chosen.engine) & set(engine_arguments("", cls())):
            raise UsageError('engine: a JSON object of vLLM\'s EngineArgs, such as {"max_model_len": 65536}')
        doubt_of(chosen.verify, chosen.verify_kinds)
        return chosen


def engine_arguments(path: str, chosen: VllmSettings) -> dict[str, Any]:
    """Arguments of vLLM's `LLM`, which are those of its EngineArgs."""
    several = chosen.ranks > 1
    return {
        "model": path,
        "tensor_parallel_size": chosen.ranks,
        "enable_expert_parallel": several,
        "distributed_executor_backend": "ray" if several else None,
        "dtype": PRECISIONS[chosen.precision],
        "limit_mm_per_prompt": {"video": 1, "image": 0},
        "mm_processor_kwargs": {"do_sample_frames": False},
        "seed": 0,
        **chosen.engine,
    }


def shown(frames: Frames, times_us: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    """A video as vLLM takes it: frames uint8 [T, H, W, 3], and what says when each was on screen."""
    pixels, told = as_video(frames.pixels, times_us)
    return pixels, {**told, "video_backend": "secondsight"}


class VllmFactory:
    """The models of one checkpoint, run by vLLM. `path`: directory, or hub id."""

    def __init__(self, path: str) -> None:
        if not path:
            raise UsageError("--model vllm: which one? Write vllm:PATH or vllm:ORG/NAME")
        self.path = path
        self._opened: Checkpoint | None = None

    def profile(self, settings: Mapping[str, Any]) -> ModelProfile:
        chosen = VllmSettings.of(settings)
        prompt, system = prompt_of(chosen.prompt, chosen.prompt_text)
        doubt = doubt_of(chosen.verify, chosen.verify_kinds)
        checkpoint = self._opened = self._opened or open_checkpoint(self.path)
        files = read_text_files(checkpoint.source)
        if chosen.ranks > 1 and not files.mixture:
            raise UsageError(f"--ranks {chosen.ranks}: {self.path} is a dense model and has no experts to split")
        identity = ModelIdentity(
            name=self.path.rstrip("/").rpartition("/")[2],
            weights_hash=checkpoint.weights_hash,
            settings={
                "vllm": [BEHAVIOUR_VERSION, _version()],
                "engine": {**engine_arguments("", chosen), "model": ""},
                "text_files": files.digest,
                "max_new_tokens": chosen.max_new_tokens,
                **asked(prompt, system, doubt),
            },
        )
        several = chosen.ranks > 1  # the Ray executor takes its GPUs itself, beside this actor
        return ModelProfile(
            identity,
            sampling_of(prompt, doubt, files.patches.factor),
            prompt.windowing or Windowing(),
            prompt.rules,
            batch_windows=chosen.batch_windows,
            gpus=0.0 if several else 1.0,
            notice=prompt.notice,
            fps_multiple=1 if doubt is None else DENSER,
            most_replicas=1 if several else 0,
        )

    def for_cluster(
        self,
        settings: Mapping[str, Any],
        resources: Mapping[str, float],
        counted: Callable[[], Mapping[str, Any] | None],
    ) -> dict[str, Any]:
        """A prompt file's content goes along."""
        return carried(settings)

    def summarise(self, settings: Mapping[str, Any], counted: Mapping[str, Any]) -> dict[str, Any]:
        return dict(counted)

    def load(self, settings: Mapping[str, Any]) -> Model:
        """Raises ModelError where vLLM is not installed, or refuses the model or an argument."""
        chosen = VllmSettings.of(settings)
        prompt, system = prompt_of(chosen.prompt, chosen.prompt_text)
        try:
            from vllm import LLM
        except ImportError as error:
            raise ModelError(
                f"--model vllm:{self.path}: vLLM cannot be imported ({error}): pip install 'secondsight[vllm]', in an "
                "environment without the qwen extra"
            ) from None
        wrong: tuple[type[Exception], ...] = (TypeError, RuntimeError, *_refusals())
        try:
            engine = LLM(**engine_arguments(self.path, chosen))
        except wrong as error:
            raise ModelError(f"--model vllm:{self.path}: {' '.join(str(error).split())[:500]}") from error
        doubt = doubt_of(chosen.verify, chosen.verify_kinds)
        twice = None if doubt is None else SecondLooks(doubt, own_fps(chosen.fps, prompt))
        return VllmWatcher(engine, prompt, system, chosen.max_new_tokens, twice)


class VllmWatcher:
    """A `Model` around vLLM's `LLM`, which batches what it is given by itself. Raises ModelError where the engine
    refuses a window, with the answers to the batch's others."""

    def __init__(self, engine: Any, prompt: Prompt, system: str, max_tokens: int, twice: SecondLooks | None) -> None:
        self._engine, self._prompt, self._max_tokens, self._twice = engine, prompt, max_tokens, twice
        user = [{"type": "video"}, {"type": "text", "text": prompt.user}]
        messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": user}]
        template = engine.get_tokenizer().apply_chat_template
        self._text = str(template(messages, tokenize=False, add_generation_prompt=True))
        self._counts = {"prefill_tokens": 0, "decode_tokens": 0, "engine_s": 0.0}

    def watch(self, batch: Sequence[tuple[Window, Frames]]) -> list[WindowEvents]:
        came = self._look(batch) if self._twice is None else self._twice.watch(batch, self._look)
        if wrong := [said for said in came if isinstance(said, BaseException)]:
            raise with_answers(wrong[0], answers_among(came))
        return answers_among(came)

    def report(self) -> dict[str, Any]:
        """Tokens, and seconds in the engine."""
        return self._counts if self._twice is None else {**self._counts, "second_looks": dict(self._twice.verdicts)}

    def close(self) -> None:
        """The engine ends with its process."""

    def _look(self, batch: Sequence[tuple[Window, Frames]]) -> list[Seen]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        asking = [(window, frames, relative_us(window, frames)) for window, frames in batch if len(frames)]
        if not asking:
            return [WindowEvents(window, ()) for window, _ in batch]
        prompts = [{"prompt": self._text, "multi_modal_data": {"video": [shown(f, times)]}} for _, f, times in asking]
        params = [
            SamplingParams(
                temperature=0.0,
                max_tokens=self._max_tokens,
                structured_outputs=StructuredOutputsParams(
                    json=answer_schema(self._prompt.answer, window.end_us - window.start_us)
                ),
            )
            for window, _, _ in asking
        ]
        began = time.perf_counter()
        try:
            outputs = self._engine.generate(prompts, params, use_tqdm=False)
        except _refusals() as error:
            if len(asking) > 1:  # it checks a whole batch before it begins: which one it means, halves tell
                half = len(batch) // 2
                return [*self._look(batch[:half]), *self._look(batch[half:])]
            refused = ModelError(
                f"vLLM refuses a window of {len(asking[0][1])} frames: {' '.join(str(error).split())[:400]}: where it "
                "is too long, choose a shorter --window, a lower --fps or a smaller --short-side, or a larger "
                "max_model_len (--set engine=...)"
            )
            return [refused if len(frames) else WindowEvents(window, ()) for window, frames in batch]
        seconds = time.perf_counter() - began
        self._counts["engine_s"] += seconds
        told = iter(zip(asking, outputs, strict=True))
        return [
            self._events(*next(told), seconds / len(asking)) if len(frames) else WindowEvents(window, ())
            for window, frames in batch
        ]

    def _events(self, asking: tuple[Window, Frames, list[int]], output: Any, seconds: float) -> WindowEvents:
        window, _, times_us = asking
        said = output.outputs[0]
        tokens_in, tokens_out = len(output.prompt_token_ids or ()), len(said.token_ids)
        self._counts["prefill_tokens"] += tokens_in
        self._counts["decode_tokens"] += tokens_out
        stopped = said.finish_reason == "stop"
        return answered(
            window, times_us, self._prompt, said.text, 2, stopped,
            model_s=seconds, input_tokens=tokens_in, output_tokens=tokens_out,
        )  # fmt: skip


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises where it is asked what it cannot do: errors of its own, ValueError in earlier versions."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:
        return (ValueError,)
    return ValueError, VLLMClientError


def _version() -> str:
    try:
        return version("vllm")
    except PackageNotFoundError:
        return ""
