"""A served model behind the model interface: windows become requests, what comes back is believed only as far as it
can be checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from model.interface import with_answers
from model.prompts import Prompt
from model.qwen3_vl.answer import answer_schema
from model.qwen3_vl.asking import answered, relative_us
from model.qwen3_vl.verify import SecondLooks, answers_among
from model.served.client import Barred, ChatClient, EventLoop, Failed, Unavailable
from model.served.dialect import Served
from model.served.pictures import Encoding, as_images, as_mp4, as_vllm_video, on_grid
from model.served.stream import Reply
from pipeline.errors import ModelAway, ModelError
from pipeline.event import WindowEvents
from pipeline.frames import Frames
from pipeline.plan import Window

#: As frames of a video with a time each (vLLM), as a video file on the server's own grid (SGLang), as images.
Form = Literal["frames", "file", "images"]
FORMS: tuple[Form, ...] = ("frames", "file", "images")


@dataclass(frozen=True, slots=True)
class Asking:
    """How windows are shown and asked about. `video`: as native video where the times survive it. `extra`: further
    fields of each request."""

    prompt: Prompt
    system: str
    video: bool
    encoding: Encoding
    decimals: int
    max_tokens: int
    extra: Mapping[str, Any]


class ServedWatcher:
    """A `Model`: up to the client's `in_flight` windows are asked about at once. Raises ModelError for a window that
    the server refuses, RuntimeError where the server fails or refuses everything, ModelAway where it is gone: for up to
    `outage_s` one should come again. Each carries the answers to the batch's other windows.
    """

    def __init__(
        self,
        loop: EventLoop,
        client: ChatClient,
        served: Served,
        asking: Asking,
        twice: SecondLooks | None = None,
        outage_s: float = 0.0,
    ) -> None:
        self._loop, self._client, self._served, self._asking = loop, client, served, asking
        self._twice, self._outage_s = twice, outage_s
        self._tokens_in = self._tokens_out = 0
        self._shown: dict[str, int] = dict.fromkeys(FORMS, 0)

    def watch(self, batch: Sequence[tuple[Window, Frames]]) -> list[WindowEvents]:
        came = self._look(batch) if self._twice is None else self._twice.watch(batch, self._look)
        if wrong := [said for said in came if isinstance(said, BaseException)]:
            raise with_answers(self._told(wrong), answers_among(came)) from None
        return answers_among(came)

    def report(self) -> dict[str, Any]:
        """Requests, retries, seconds of waiting between tries, tokens as the server counts them, windows by form."""
        counted: dict[str, Any] = {
            **asdict(self._client.counts),
            "prefill_tokens": self._tokens_in,
            "decode_tokens": self._tokens_out,
            "shown_as": dict(self._shown),
        }
        return counted if self._twice is None else {**counted, "second_looks": dict(self._twice.verdicts)}

    def close(self) -> None:
        self._loop.run(self._client.close())
        self._loop.close()

    def _look(self, batch: Sequence[tuple[Window, Frames]]) -> Sequence[WindowEvents | BaseException]:
        async def all_of_them() -> list[WindowEvents | BaseException]:
            asked = (self._ask(window, frames) for window, frames in batch)
            return await asyncio.gather(*asked, return_exceptions=True)

        return self._loop.run(all_of_them())

    def _told(self, wrong: Sequence[BaseException]) -> BaseException:
        """The error that says what becomes of windows without an answer. Of several kinds the one that blames least:
        what is watched again tells its own."""
        if ours := [error for error in wrong if not isinstance(error, ModelError)]:
            return ours[0]
        if gone := [error for error in wrong if isinstance(error, Unavailable)]:
            last = max(gone, key=lambda error: error.after_s)
            return ModelAway(last.problem, self._outage_s, last.after_s)
        if refused := [error for error in wrong if not isinstance(error, (Failed, Barred))]:
            return refused[0]
        # Not the windows' fault: a replica that ends is started again, and its start tells whether it can work.
        return RuntimeError(str(wrong[0]))

    async def _ask(self, window: Window, frames: Frames) -> WindowEvents:
        if len(frames) == 0:
            return WindowEvents(window, ())
        began = time.perf_counter()
        reply = await self._client.complete(lambda: self._request(window, frames))
        self._tokens_in += reply.input_tokens
        self._tokens_out += reply.output_tokens
        return self._events(window, frames, reply, time.perf_counter() - began)

    def _request(self, window: Window, frames: Frames) -> dict[str, Any]:
        """The body of the request. Called in a thread."""
        asking, times_us = self._asking, relative_us(window, frames)
        further: dict[str, Any] = {}
        form = self._form(times_us)
        if form == "frames":
            shown, further = as_vllm_video(frames.pixels, times_us, asking.encoding)
        elif form == "file":
            shown = as_mp4(frames.pixels)
        else:
            shown = as_images(frames.pixels, times_us, asking.encoding, asking.decimals)
        user = [*shown, {"type": "text", "text": asking.prompt.user}]
        schema = answer_schema(asking.prompt.answer, window.end_us - window.start_us)
        system = [{"role": "system", "content": asking.system}] if asking.system else []
        usage = {} if self._served.dialect == "transformers" else {"stream_options": {"include_usage": True}}
        return {
            "model": self._client.address.name,
            "messages": [*system, {"role": "user", "content": user}],
            "temperature": 0,
            "max_tokens": asking.max_tokens,
            **usage,
            **self._served.constraint(_for_servers(schema)),
            **further,
            **asking.extra,
        }

    def _form(self, times_us: Sequence[int]) -> Form:
        if not self._asking.video:
            return "images"
        if self._served.native_video:
            return "frames"
        return "file" if on_grid(times_us) else "images"

    def _events(self, window: Window, frames: Frames, reply: Reply, seconds: float) -> WindowEvents:
        times_us = relative_us(window, frames)
        form = self._form(times_us)
        self._shown[form] += 1
        together = 1 if form == "images" else 2  # frames of a video are seen, and their times told, in pairs
        return answered(
            window,
            times_us,
            self._asking.prompt,
            reply.text,
            together,
            reply.finish == "stop",
            model_s=seconds,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
        )


def _for_servers(schema: Any) -> Any:
    """A schema without `multipleOf`, which some servers refuse and the others ignore; it was rounding only."""
    if isinstance(schema, dict):
        return {k: _for_servers(v) for k, v in schema.items() if k != "multipleOf" or isinstance(v, dict)}
    return [_for_servers(v) for v in schema] if isinstance(schema, list) else schema
