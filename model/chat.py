"""A language model behind an OpenAI-speaking endpoint (vLLM, SGLang, llama.cpp, `transformers serve`, OpenAI)."""

from __future__ import annotations

import asyncio

from model.served.address import Address, token
from model.served.client import ChatClient, TimeLimits, run_once
from pipeline.errors import ModelError

MAX_CHARACTERS = 1 << 20
ATTEMPTS = 2
OUTAGE_S = 5.0  # how long one that cannot be reached, or is busy, is asked again


class ChatEndpoint:
    """A `pipeline.search.answer.Chat`: somebody waits for the answer, so it is not asked for long."""

    def __init__(self, spec: str, timeout_s: float = 120.0) -> None:
        """`spec`: "openai:URL#NAME", such as openai:http://localhost:8000/v1#qwen; `timeout_s`: how long an answer is
        waited for, all attempts together. Raises UsageError for any other spec, and for a token that cannot be sent."""
        self._address, self._token = Address.of(spec), token()
        self.name, self._timeout_s = self._address.name, timeout_s
        self._limits = TimeLimits(
            connect_s=min(10.0, timeout_s),
            first_s=timeout_s,
            idle_s=timeout_s,
            total_s=timeout_s,
            outage_s=OUTAGE_S,
            attempts=ATTEMPTS,
        )

    def complete(self, system: str, user: str) -> str:
        """The model's answer. Raises ModelError naming the endpoint and what it said."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"model": self.name, "messages": messages, "temperature": 0, "max_tokens": 500}

        async def ask() -> str:
            client = ChatClient(self._address, self._token, self._limits, 1, MAX_CHARACTERS)
            try:
                async with asyncio.timeout(self._timeout_s):
                    return (await client.complete(body)).text
            except TimeoutError:
                raise ModelError(f"{self._address.base}: no answer within {self._timeout_s:.3g} s") from None
            finally:
                await client.close()

        text = run_once(ask)
        if not text:
            raise ModelError(f"{self._address.base}: its answer holds no text")
        return text
