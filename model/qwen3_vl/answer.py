"""The model's answer: the JSON that it may write, and what is believed of what it wrote.

While the model writes, a grammar made of `answer_schema` keeps it to the form. What comes out is still only words of
a model: `parse_answer` checks every value again and never trusts a time, a length or a number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from model.prompts import AnswerForm
from pipeline.event import WindowEvent
from pipeline.plan import SECOND_US

#: Times are announced to the model, and written by it, in tenths of a second.
TENTH_US = SECOND_US // 10
MAX_KIND = 40
_MOST_ATTRIBUTE_TEXT = 4000


def answer_schema(form: AnswerForm, length_us: int) -> dict[str, Any]:
    """JSON Schema of an answer about a window of `length_us`."""
    seconds = {"type": "number", "minimum": 0, "maximum": -(-length_us // TENTH_US) / 10, "multipleOf": 0.1}
    kind = {"enum": list(form.kinds)} if form.kinds else {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,39}$"}
    properties = {
        "start": seconds,
        "end": seconds,
        "kind": kind,
        "text": {"type": "string", "minLength": 1, "maxLength": form.max_text},
        **{name: dict(schema) for name, schema in form.attributes.items()},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.01},
    }
    event = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    events = {"type": "array", "items": event, "maxItems": form.max_events}
    return {"type": "object", "properties": {"events": events}, "required": ["events"], "additionalProperties": False}


def answer_instructions(form: AnswerForm) -> str:
    """The form of the answer in words, for the end of the system text: a model told what it may write writes better
    than one that is only held back."""
    example = {"start": 0.0, "end": 2.5, "kind": form.kinds[0] if form.kinds else "kind", "text": "..."}
    for name, schema in form.attributes.items():
        example[name] = _example(schema)
    example["confidence"] = 0.9
    lines = [
        "Answer with JSON alone, on one line, in this form:",
        json.dumps({"events": [example]}, separators=(",", ":"), ensure_ascii=False),
        '"start" and "end" are seconds with one decimal, as in the times shown before the pictures; '
        '"confidence" lies between 0 and 1.',
        f'"kind" is one of: {", ".join(form.kinds)}.'
        if form.kinds
        else '"kind" is a word of yours for the sort of event, in small letters; the same word for the same sort.',
    ]
    for name, schema in form.attributes.items():
        if "enum" in schema:
            lines.append(f'"{name}" is one of: {", ".join(schema["enum"])}.')
        if "description" in schema:
            lines.append(f'"{name}": {schema["description"]}')
    lines.append(f"At most {form.max_events} events; each text at most {form.max_text} characters.")
    return "\n".join(lines)


def _example(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    return {"string": "...", "number": 1.5, "integer": 1, "boolean": True}[schema["type"]]


def parse_answer(
    answer: str, form: AnswerForm, length_us: int, frame_us: Sequence[int], together: int = 2
) -> tuple[tuple[WindowEvent, ...], bool]:
    """Events of one window, and whether the answer was whole JSON.

    `frame_us`: the times of the window's frames relative to its start, announced `together` at a time. Of an answer
    that breaks off, the events that are whole are kept. Times are clamped to `[0, length_us)`; an event without a
    usable time, kind or text is left out. Never raises.
    """
    items, whole = _items(answer, form.max_events)
    told = announced_us(frame_us, together)
    events = (_event(item, form, length_us, frame_us, told) for item in items)
    return tuple(event for event in events if event is not None), whole


def _items(answer: str, most: int) -> tuple[list[Any], bool]:
    """The whole values of the array `events`, and whether the text is whole JSON of that form."""
    try:
        parsed = json.loads(answer, parse_constant=_refuse)
        found = parsed.get("events") if isinstance(parsed, dict) else None
        if isinstance(found, list):
            return found[:most], True
        return [], False
    except (ValueError, RecursionError):
        pass
    decoder = json.JSONDecoder(parse_constant=_refuse)
    at = answer.find("[", answer.find('"events"'))
    items: list[Any] = []
    while at >= 0 and len(items) < most:
        at += 1
        while at < len(answer) and answer[at] in " \t\r\n":
            at += 1
        try:
            item, at = decoder.raw_decode(answer, at)
        except (ValueError, RecursionError):
            break
        items.append(item)
        while at < len(answer) and answer[at] in " \t\r\n":
            at += 1
        if answer[at : at + 1] != ",":
            break
    # A bare number or word at the end may itself be cut short; an object that closed is whole.
    return [item for item in items if isinstance(item, dict)], False


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _event(
    item: Any, form: AnswerForm, length_us: int, frame_us: Sequence[int], told: Sequence[float]
) -> WindowEvent | None:
    if not isinstance(item, dict):
        return None
    start, end = _time(item.get("start")), _time(item.get("end"))
    kind = _text(item.get("kind"), MAX_KIND).lower()
    text = _text(item.get("text"), form.max_text)
    if start is None or not kind or not text or (form.kinds is not None and kind not in form.kinds):
        return None
    start, end = sorted((start, start if end is None else end))
    shortest = min(TENTH_US, length_us)
    start = max(0, min(start, length_us - shortest))
    end = max(start + shortest, min(end, length_us))
    return WindowEvent(
        start,
        end,
        kind,
        text,
        confidence=_share(item.get("confidence")),
        evidence_us=_evidence(start, end, frame_us),
        attributes={
            name: value
            for name, schema in form.attributes.items()
            if (value := _attribute(item.get(name), schema)) is not None
        },
        continues_before=bool(told) and start <= told[0] + TENTH_US // 2,
        continues_after=bool(told) and end >= told[-1] - TENTH_US // 2,
    )


def announced_us(frame_us: Sequence[int], together: int = 2) -> list[float]:
    """The times that the model was told: the mean of each temporal patch, the last frame repeated where one lacks."""
    times = list(frame_us) + list(frame_us[-1:]) * (-len(frame_us) % together)
    return [(times[i] + times[i + together - 1]) / 2 for i in range(0, len(times), together)]


def _evidence(start_us: int, end_us: int, frame_us: Sequence[int]) -> tuple[int, ...]:
    """The frames within the event; the one on screen at its start where none is."""
    within = tuple(t for t in frame_us if start_us <= t < end_us)
    if within or not frame_us:
        return within
    return (max((t for t in frame_us if t <= start_us), default=frame_us[0]),)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _time(value: Any) -> int | None:
    """Seconds to microseconds; far values are cut so that no arithmetic can overflow."""
    number = _number(value)
    return None if number is None else round(max(-1e6, min(number, 1e6)) * SECOND_US)


def _share(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else max(0.0, min(number, 1.0))


def _text(value: Any, longest: int) -> str:
    """Printable, valid Unicode without lone surrogates, blanks collapsed, at most `longest` characters."""
    if not isinstance(value, str):
        return ""
    clean = value.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in clean).split())[:longest].rstrip()


def _attribute(value: Any, schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return value if isinstance(value, str) and value in schema["enum"] else None
    kind = schema["type"]
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "string":
        return _text(value, schema.get("maxLength", _MOST_ATTRIBUTE_TEXT)) or None
    number = _number(value)
    if number is None or abs(number) > 1e15:
        return None
    number = max(schema.get("minimum", number), min(number, schema.get("maximum", number)))
    return round(number) if kind == "integer" else number
