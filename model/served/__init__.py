"""`--model openai:URL#NAME`: a model that a server has, such as vLLM, SGLang, llama.cpp or `transformers serve`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from model.interface import Model, ModelIdentity, ModelProfile
from model.qwen3_vl.asking import (
    DEFAULT_PROMPT,
    asked,
    at_least,
    carried,
    doubt_of,
    known_only,
    own_fps,
    prompt_of,
    sampling_of,
)
from model.qwen3_vl.verify import DENSER, Doubt, SecondLooks
from model.served.address import TOKEN, Address, Secret, token
from model.served.client import ChatClient, EventLoop, Failed, TimeLimits, Unavailable, run_once
from model.served.dialect import DIALECTS, Served, find_out, greet
from model.served.pictures import Encoding
from model.served.watcher import Asking, ServedWatcher
from pipeline.errors import ModelAway, UsageError
from pipeline.plan import Windowing

logger = logging.getLogger(__name__)

#: Raised when the same server would be asked or understood in another way.
BEHAVIOUR_VERSION = 1
FACTOR = 32  # px: sides of Qwen3-VL's frames are multiples of it, so that the server does not resize them again
LIMITS = TimeLimits()
FRAMES = ("auto", "images", "video")
#: Seconds at most: of an outage, for which the run waits, and of anything for which a call waits: it is ended after an
#: hour (workers/settings.py), before it could say what is wrong.
MOST_OUTAGE_S, MOST_S = 86400.0, 3600.0
PATIENCE_S = 15.0  # without contact, after which a replica says that the server is away (or a quarter of the outage)
FEW = 8  # requests at once: a slow server is given no more windows than that, a fast one twice as many


@dataclass(frozen=True, slots=True)
class ServedSettings:
    """What a user may choose. `dialect` auto: by asking the server (dialect.py). `frames` images: each with its time
    as text; video: native video wherever the times of its frames survive it, else images; auto: video for vLLM, images
    for the others. `pictures`: png keeps every pixel, jpeg (quality 95) is smaller. `time_decimals`: of the times in
    text; 1 is Qwen3-VL's own form.

    `in_flight`: requests at once, of one replica (None: what suits the server, see dialect.py). `max_tokens`: of an
    answer. `token_variable`: the environment variable with the server's token. `fingerprint`: stands for what the
    server says of its model and version in the configuration hash, so that a new version of the server need not watch
    everything again. `body`: further fields of each request. `connect_s` to `attempts`: see `client.TimeLimits`.
    `prompt` to `fps`: as of a Qwen3-VL checkpoint.

    `server` and `token` go from the driver to the replicas and are no choice: what the server said of itself, and the
    token that the driver's environment holds.
    """

    prompt: str = DEFAULT_PROMPT
    prompt_text: str = ""
    dialect: str = "auto"
    frames: str = "auto"
    pictures: str = "jpeg"
    time_decimals: int = 1
    in_flight: int | None = None
    max_tokens: int = 1024
    token_variable: str = TOKEN
    fingerprint: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    connect_s: float = LIMITS.connect_s
    first_s: float = LIMITS.first_s
    idle_s: float = LIMITS.idle_s
    total_s: float = LIMITS.total_s
    outage_s: float = LIMITS.outage_s
    attempts: int = LIMITS.attempts
    verify: float = 0.0
    verify_kinds: Sequence[str] = ()
    fps: str = ""
    server: Mapping[str, Any] | None = None
    token: Secret | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ServedSettings:
        """Raises UsageError for a setting that is not known or has an impossible value."""
        known_only("A served model", settings, cls.__dataclass_fields__, ("prompt_text", "fps", "server", "token"))
        chosen = cls(**settings)
        if chosen.token is not None and not isinstance(chosen.token, Secret):
            raise UsageError(f"the token comes from the environment: set ${chosen.token_variable}, or token_variable")
        for name, choices in (("dialect", ("auto", *DIALECTS)), ("frames", FRAMES), ("pictures", get_args(Encoding))):
            if getattr(chosen, name) not in choices:
                raise UsageError(f"{name} = {getattr(chosen, name)!r}: choose one of {', '.join(choices)}")
        at_least(chosen, max_tokens=16, attempts=1, time_decimals=1)
        if chosen.in_flight is not None:
            at_least(chosen, in_flight=1)
        for name in ("connect_s", "first_s", "idle_s", "total_s", "outage_s"):
            value, most = getattr(chosen, name), MOST_OUTAGE_S if name == "outage_s" else MOST_S
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
                raise UsageError(f"{name} = {value!r}: must be a number of seconds, {most:g} at most")
        if not isinstance(chosen.body, Mapping) or {"model", "messages", "stream"} & set(chosen.body):
            raise UsageError('body: a JSON object such as {"top_k": 1}, without model, messages and stream')
        doubt_of(chosen.verify, chosen.verify_kinds)
        return chosen

    @property
    def doubt(self) -> Doubt | None:
        return doubt_of(self.verify, self.verify_kinds)

    @property
    def limits(self) -> TimeLimits:
        return TimeLimits(self.connect_s, self.first_s, self.idle_s, self.total_s, self.outage_s, self.attempts)


class ServedFactory:
    """The models of one server. `spec`: openai:URL#NAME."""

    def __init__(self, spec: str) -> None:
        self.address = Address.of(spec)
        self._found: dict[tuple[str, str], Served] = {}

    def profile(self, settings: Mapping[str, Any]) -> ModelProfile:
        """Asks the server what it is, once. Raises ModelError where it does not answer, UsageError."""
        chosen = ServedSettings.of(settings)
        prompt, system = prompt_of(chosen.prompt, chosen.prompt_text)
        question = asked(prompt, system, chosen.doubt)
        served = self._served(chosen)
        at_once = chosen.in_flight or served.in_flight
        path = self.address.name.rstrip("/")
        identity = ModelIdentity(
            name=path.rpartition("/")[2] if path.startswith("/") else path,
            weights_hash=served.hash,
            settings={
                "served": BEHAVIOUR_VERSION,
                "server": served.identity,
                "decoding": "greedy",
                "max_tokens": chosen.max_tokens,
                "frames": self._shown_as(chosen, served),
                "pictures": chosen.pictures,
                "time_decimals": chosen.time_decimals,
                "body": dict(chosen.body),
                **question,
            },
        )
        return ModelProfile(
            identity,
            sampling_of(prompt, chosen.doubt, FACTOR),
            prompt.windowing or Windowing(),
            prompt.rules,
            batch_windows=at_once if at_once < FEW else 2 * at_once,  # the next are there when the first are answered
            notice=prompt.notice,
            fps_multiple=1 if chosen.doubt is None else DENSER,
            most_replicas=2,  # one asks while the other has just finished a batch; the server does the work
        )

    def for_cluster(
        self,
        settings: Mapping[str, Any],
        resources: Mapping[str, float],
        counted: Callable[[], Mapping[str, Any] | None],
    ) -> dict[str, Any]:
        """A prompt file's content, what the server said of itself and the token go along to the replicas."""
        chosen = ServedSettings.of(settings)
        there = {"server": asdict(self._served(chosen)), "token": token(chosen.token_variable)}
        return carried({**settings, **there})

    def summarise(self, settings: Mapping[str, Any], counted: Mapping[str, Any]) -> dict[str, Any]:
        return dict(counted)

    def load(self, settings: Mapping[str, Any]) -> Model:
        """Connects. Raises ModelAway where the server is not to be reached, ModelError where it refuses us,
        RuntimeError where it fails (which may heal)."""
        chosen = ServedSettings.of(settings)
        served = self._served(chosen)
        prompt, system = prompt_of(chosen.prompt, chosen.prompt_text)
        encoding: Encoding = "png" if chosen.pictures == "png" else "jpeg"
        video = self._shown_as(chosen, served) == "video"
        asking = Asking(prompt, system, video, encoding, chosen.time_decimals, chosen.max_tokens, chosen.body)
        twice = None if chosen.doubt is None else SecondLooks(chosen.doubt, own_fps(chosen.fps, prompt))
        loop = EventLoop()

        async def connect() -> ChatClient:
            # Longer outages are waited for by who calls, and seen there; a call that waits looks like one that hangs.
            limits = replace(chosen.limits, outage_s=min(PATIENCE_S, chosen.outage_s / 4))
            client = self._client(chosen, chosen.in_flight or served.in_flight, limits)
            try:
                await client.facts(f"{self.address.base}/models")
                await greet(client)
            except Unavailable as away:
                await client.close()
                raise ModelAway(away.problem, chosen.outage_s, away.after_s) from None
            except Failed as failed:
                await client.close()
                raise RuntimeError(str(failed)) from None
            except BaseException:
                await client.close()
                raise
            return client

        try:
            return ServedWatcher(loop, loop.run(connect()), served, asking, twice, chosen.outage_s)
        except BaseException:
            loop.close()
            raise

    def _client(
        self,
        chosen: ServedSettings,
        in_flight: int = 1,
        limits: TimeLimits | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> ChatClient:
        secret = chosen.token or token(chosen.token_variable)
        return ChatClient(self.address, secret, limits or chosen.limits, in_flight, tell=tell)

    def _served(self, chosen: ServedSettings) -> Served:
        if chosen.server is not None:
            return Served(**chosen.server)
        key = (chosen.dialect, chosen.fingerprint)

        async def ask() -> Served:  # before anything else of a run can be seen
            client = self._client(chosen, tell=logger.warning)
            try:
                return await find_out(client, *key)
            finally:
                await client.close()

        if key not in self._found:
            self._found[key] = run_once(ask)
        return self._found[key]

    @staticmethod
    def _shown_as(chosen: ServedSettings, served: Served) -> str:
        """images, or video wherever times survive it. Raises UsageError where they never do."""
        if chosen.frames == "video" and not (served.native_video or served.dialect == "sglang"):
            raise UsageError(
                f"frames = video: {served.dialect} {served.version} would sample the video anew and lose the frames' "
                "own times; images keep them"
            )
        if chosen.frames == "auto":
            return "video" if served.native_video else "images"
        return chosen.frames
