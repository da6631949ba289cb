"""Where a served model is: `openai:URL#NAME`, and the token that its server wants."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.errors import UsageError

PREFIX = "openai:"
#: The environment variable that holds the bearer token, where no other is named.
TOKEN = "OPENAI_API_KEY"


class Secret(str):
    """A text that does not show when something that holds it is printed."""

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True)
class Address:
    """`base`: the API's root, as OpenAI's clients take it (it usually ends in /v1), without a slash at its end."""

    base: str
    name: str

    @classmethod
    def of(cls, spec: str) -> Address:
        """`spec`: "openai:URL#NAME", such as openai:http://localhost:8000/v1#qwen. Raises UsageError for any other."""
        url, _, name = spec.removeprefix(PREFIX).partition("#")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:  # a port that is none
            usable = False
        if not spec.startswith(PREFIX) or not usable or not name:
            raise UsageError(
                f"{spec!r} is not a model to ask: write openai:URL#NAME (openai:http://localhost:8000/v1#qwen)"
            )
        if parts.username or parts.password:
            raise UsageError("an address is written down in logs: keep the token out of it, in an environment variable")
        return cls(url.rstrip("/"), name)

    @property
    def root(self) -> str:
        """Where servers keep what is not part of OpenAI's API."""
        return self.base.removesuffix("/v1")


def token(variable: str = TOKEN) -> Secret | None:
    """What the environment holds, None for nothing. Raises UsageError for what cannot be sent in a header."""
    value = os.environ.get(variable, "").strip()
    if not value.isprintable() or not value.isascii():
        raise UsageError(f"${variable} holds a character that no token has")
    return Secret(value) if value else None
