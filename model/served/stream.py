"""What a server writes while a model answers: server-sent events, put together into one reply and checked.

Format: `data: {chat.completion.chunk}` lines of OpenAI's API (streaming), `data: [DONE]` at its end, comments (`:`) in
between to keep connections open; the event stream itself is that of the WHATWG HTML standard, section 9.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_LINE = 1 << 20
MAX_TOKENS = 1 << 31


class Broken(Exception):
    """A reply that is not one: cut, too long, or in another form."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `finish`: stop, length, ...; token counts are the server's (0 where it does not say)."""

    text: str
    finish: str
    input_tokens: int = 0
    output_tokens: int = 0


class ReplyReader:
    """Takes the bytes of one reply as they come, at most `most` characters of answer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = b""
        self._texts: list[str] = []
        self._length = 0
        self._finish = ""
        self._usage: tuple[int, int] = (0, 0)

    @property
    def begun(self) -> bool:
        """Whether a part of the answer has come."""
        return bool(self._texts or self._finish)

    def feed(self, data: bytes) -> bool:
        """True when the reply is known to be over. Raises Broken."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise Broken(f"a line of more than {MAX_LINE} bytes")
        over = False
        for line in lines:
            over = self._line(line.strip(b"\r")) or over
        return over

    def end(self, otherwise: str = "") -> Reply:
        """The reply, when the server has said all. Raises Broken for one that was cut short: nothing said why it ended,
        and there is no `otherwise`."""
        finish = self._finish or otherwise
        if not finish:
            raise Broken("the answer was cut short: no finish_reason came")
        return Reply("".join(self._texts), finish, *self._usage)

    def _line(self, line: bytes) -> bool:
        if not line.startswith(b"data:"):
            return False  # a comment, an event's name, an empty line
        data = line[5:].strip()
        if data == b"[DONE]":
            return True
        self.take(parsed(data), "delta")
        return False

    def take(self, chunk: Mapping[str, Any], part: str) -> None:
        """`part`: "delta" of a stream's chunk, "message" of a whole completion."""
        if isinstance(error := chunk.get("error"), (dict, str)) and error:
            raise Broken(f"the server says: {said(error)}")
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise Broken("a reply without choices")
        for choice in choices[:1]:
            if not isinstance(choice, dict) or not isinstance(choice.get(part) or {}, dict):
                raise Broken(f"a choice without a {part}")
            content = (choice.get(part) or {}).get("content")
            if content is not None and not isinstance(content, str):
                raise Broken("a content that is no text")
            if content:
                self._length += len(content)
                if self._length > self._most:
                    raise Broken(f"an answer of more than {self._most} characters")
                self._texts.append(content)
            if isinstance(finish := choice.get("finish_reason"), str) and finish:
                self._finish = finish[:40]


def whole(data: bytes, most: int) -> Reply:
    """A reply of a server that does not stream: one `chat.completion` object."""
    found, reader = parsed(data), ReplyReader(most)
    reader.take(found, "message")
    if not found["choices"]:
        raise Broken("a reply without choices")
    return reader.end("stop")  # it is whole, whether it says why it ended or not


def parsed(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises Broken for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Broken(f"not JSON: {said(data[:200].decode('utf-8', 'replace'))}") from None
    if not isinstance(found, dict):
        raise Broken(f"no JSON object: {said(found)}")
    return found


def said(value: Any) -> str:
    """Words of a server for an error message: one printable line, not long."""
    for _ in range(2):  # {"error": {"message": ...}}
        if isinstance(value, dict):
            value = value.get("message") or value.get("detail") or value.get("error") or value
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < MAX_TOKENS else 0
