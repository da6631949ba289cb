"""A language model behind an OpenAI-speaking endpoint (vLLM, SGLang, llama.cpp, `transformers serve`, OpenAI).

Source: POST {base}/chat/completions of the OpenAI API reference, the common part that all of these serve.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from pipeline.errors import ModelError, UsageError

#: The environment variable that holds the bearer token, where the endpoint wants one.
TOKEN = "OPENAI_API_KEY"

MAX_ANSWER_BYTES = 1 << 20


class ChatEndpoint:
    """A `pipeline.search.answer.Chat`."""

    def __init__(self, spec: str, timeout_s: float = 120.0) -> None:
        """`spec`: "openai:URL#NAME", such as openai:http://localhost:8000/v1#qwen. Raises UsageError for any other."""
        url, _, name = spec.removeprefix("openai:").partition("#")
        parts = urlsplit(url)
        if not spec.startswith("openai:") or parts.scheme not in ("http", "https") or not parts.hostname or not name:
            raise UsageError(
                f"{spec!r} is not a model to ask: write openai:URL#NAME (openai:http://localhost:8000/v1#qwen)"
            )
        self.name = name
        self._url, self._timeout_s = f"{url.rstrip('/')}/chat/completions", timeout_s

    def complete(self, system: str, user: str) -> str:
        """The model's answer. Raises ModelError naming the endpoint and what it said."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = json.dumps({"model": self.name, "messages": messages, "temperature": 0, "max_tokens": 500}).encode()
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {token}"
        try:
            request = urllib.request.Request(self._url, body, headers)
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                content = json.loads(response.read(MAX_ANSWER_BYTES))["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace")
            raise ModelError(f"{self._url}: status {error.code}: {' '.join(said.split())[:300]}") from error
        except OSError as error:
            raise ModelError(f"{self._url}: cannot be reached: {getattr(error, 'reason', error)}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise ModelError(f"{self._url}: its answer is not that of an OpenAI chat endpoint: {error!r}") from error
        if not isinstance(content, str):
            raise ModelError(f"{self._url}: its answer holds no text")
        return content
