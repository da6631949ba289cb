"""Qwen3-VL behind the model interface: frames of windows in, events of those windows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tokenizers import Tokenizer

from model.prompts import AnswerForm
from model.qwen3_vl.answer import answer_schema, parse_answer
from model.qwen3_vl.generate import Answer, Generator, Request
from model.qwen3_vl.grammar import Grammar
from model.qwen3_vl.patches import grid, resize
from model.qwen3_vl.pictures import window_features
from model.qwen3_vl.prompt import PromptBuilder
from model.qwen3_vl.sizes import PatchConfig
from model.qwen3_vl.verify import SecondLooks
from pipeline.errors import ModelError
from pipeline.event import WindowEvents
from pipeline.frames import Frames
from pipeline.plan import Window


class QwenWatcher:
    """One rank of a loaded Qwen3-VL, a `Model`. `form` is what an answer may hold; `doubt`, what is looked at twice
    (the windows' frames are then `DENSER` times as dense); `features`: whether answers carry what was seen."""

    def __init__(
        self,
        generator: Generator,
        prompts: PromptBuilder,
        grammar: Grammar,
        tokenizer: Tokenizer,
        patches: PatchConfig,
        form: AnswerForm,
        twice: SecondLooks | None = None,
        features: bool = True,
    ) -> None:
        self.generator, self.prompts, self.grammar = generator, prompts, grammar
        self.tokenizer, self.patches, self.form = tokenizer, patches, form
        self.twice, self.features = twice, features

    def watch(self, batch: Sequence[tuple[Window, Frames]], together: bool = False) -> list[WindowEvents]:
        """Events of each window, in order. A window without a frame has none.

        In a gang all ranks call it at the same time, each with its own windows (none is fine), or, `together`, all
        with the same ones, which they then work on jointly.
        """
        if self.twice is None:
            seen, failure = self._look(batch, together)
        else:
            seen, failure = self._look(self.twice.first(batch), together)
            seen = self._look_again(self.twice, batch, seen, together)
        if failure is not None:
            raise failure
        return seen

    def _look(
        self, batch: Sequence[tuple[Window, Frames]], together: bool
    ) -> tuple[list[WindowEvents], ModelError | None]:
        """One answer per window, or none and what is wrong. Collective in a gang."""
        requests: list[Request | None] = []
        failure: ModelError | None = None
        try:
            requests = [self._request(window, frames) for window, frames in batch]
        except ModelError as error:  # the other ranks are waiting for our steps all the same
            requests, failure = [], error
        asked = [request for request in requests if request is not None]
        answers = iter(self.generator.generate_together(asked) if together else self.generator.generate(asked))
        if failure is not None:
            return [], failure
        return [
            WindowEvents(window, ()) if request is None else self._events(window, frames, request, next(answers))
            for (window, frames), request in zip(batch, requests, strict=True)
        ], None

    def _look_again(
        self, twice: SecondLooks, batch: Sequence[tuple[Window, Frames]], seen: Sequence[WindowEvents], together: bool
    ) -> list[WindowEvents]:
        """The answers after second looks at what is doubtful in them. Collective in a gang."""
        looks = twice.needed(batch, seen)
        again, failure = self._look([(look.window, look.frames) for those in looks for look in those], together)
        if failure is not None:  # a part of a window is never longer than the window, which was taken
            raise failure
        return twice.judged(seen, looks, again)

    def report(self) -> dict[str, Any]:
        """Tokens and seconds of prefill and decode, use of the feature cache, and, of a mixture of experts, routing:
        tokens per layer and expert, bytes sent, and seconds in dispatch, compute and combine."""
        generator, parallel = self.generator, self.generator.loaded.parallel
        cache = generator.vision.cache
        counted: dict[str, Any] = {
            "prefill_tokens": generator.prefill_tokens,
            "prefill_s": generator.prefill_s,
            "decode_tokens": generator.decode_tokens,
            "decode_s": generator.decode_s,
            "vision_computed": cache.misses,
            "vision_reused": cache.hits,
        }
        if self.twice is not None:
            counted["second_looks"] = dict(self.twice.verdicts)
        if parallel is not None:
            counted["routing"] = asdict(parallel.metrics.snapshot())
        return counted

    def close(self) -> None:
        """Nothing outlives the process."""

    def _request(self, window: Window, frames: Frames) -> Request | None:
        if len(frames) == 0:
            return None
        video = resize(frames.pixels, self.patches)
        prompt = self.prompts.build(_relative_us(window, frames), grid(video, self.patches))
        most = self.generator.loaded.config.text_config.max_position_embeddings
        if len(prompt) + self.generator.max_new_tokens > most:
            raise ModelError(
                f"a window of {len(frames)} frames makes {len(prompt)} tokens; with the answer that is more than the "
                f"{most} that the model can take: choose a shorter --window, a lower --fps or a smaller --short-side"
            )
        constraint = self.grammar.constraint(answer_schema(self.form, window.end_us - window.start_us))
        return Request(prompt, video, constraint)

    def _events(self, window: Window, frames: Frames, request: Request, answer: Answer) -> WindowEvents:
        text = self.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        times = _relative_us(window, frames)
        events, whole = parse_answer(text, self.form, window.end_us - window.start_us, times)
        features = None
        if self.features and request.seen is not None:
            weights_hash = self.generator.loaded.checkpoint.weights_hash
            features = window_features(weights_hash, request.seen, times, self.patches)
        return WindowEvents(
            window,
            events,
            model_s=answer.seconds,
            input_tokens=len(request.prompt),
            output_tokens=len(answer.tokens),
            truncated=not (whole and answer.complete),
            answer=text,
            features=features,
        )


def _relative_us(window: Window, frames: Frames) -> list[int]:
    """Times of the frames from the window's start on. A frame shown since before it counts from the start."""
    return [max(0, int(t) - window.start_us) for t in frames.time_us]
