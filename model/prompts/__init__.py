"""Prompt profiles: what a watching model is asked, as data. One TOML file per profile lies beside this file.

A profile file holds:

    summary = "..."             one line for --help
    system = "..."              the task; the same for every window, so that it is computed once
    user = "..."                what is asked after the pictures
    notice = "..."              optional: what a person should know when a run with it starts
    [answer]                    the form of the answer, enforced while the model writes
    kinds = ["a", "b"]          or "free": the model names kinds itself
    max_events = 16
    max_text = 240              characters
    [answer.attributes.NAME]    further fields of every event, in JSON Schema: enum, string, number, integer, boolean
    [sampling]                  optional: fps (a number or "1/2"), max_pixels per frame
    [window]                    optional: length_s, overlap_s
    [rules.KIND]                optional: how events of a kind are reduced: point, exclusive, gap_s, min_s,
                                min_confidence, similarity; KIND "*": of all that have no rules of their own
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.event import OTHER_KINDS, KindRule
from pipeline.plan import SECOND_US, Windowing

HERE = Path(__file__).parent
MAX_FILE_BYTES = 1 << 20
#: How alike two windows' words for the same thing are taken to be, where a profile says nothing else.
SIMILARITY = 0.8

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RESERVED = frozenset({"start", "end", "kind", "text", "confidence"})
_CONTROL_TOKEN = re.compile(r"<\|[^|<>\s]{1,64}\|>")


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer may hold. `kinds` None: the model names kinds itself. `attributes`: name -> JSON Schema."""

    kinds: tuple[str, ...] | None
    max_events: int = 16
    max_text: int = 240
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One profile. `fps`, `max_pixels` and `windowing` are its defaults (None: the model's own)."""

    name: str
    summary: str
    system: str
    user: str
    answer: AnswerForm
    fps: Fraction | None = None
    max_pixels: int | None = None
    windowing: Windowing | None = None
    rules: Mapping[str, KindRule] = field(default_factory=dict)
    notice: str = ""


def names() -> list[str]:
    """The profiles that come with Secondsight."""
    return sorted(p.stem for p in HERE.glob("*.toml"))


def read_prompt(name_or_path: str) -> str:
    """The TOML text of a profile: by name, or of the user's own file by path (with a slash, or ending in .toml).

    Raises ModelError naming the file.
    """
    own_file = "/" in name_or_path or name_or_path.endswith(".toml")
    if not own_file and name_or_path not in names():
        raise ModelError(f"no prompt profile {name_or_path!r}: choose one of {', '.join(names())}, or a .toml file")
    path = Path(name_or_path) if own_file else HERE / f"{name_or_path}.toml"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a prompt file")
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise ModelError(f"{path}: cannot read the prompt file: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise ModelError(f"{path}: not a text file: {e}") from None


def load_prompt(name_or_path: str) -> Prompt:
    """A profile by name or path, see `read_prompt` and `parse_prompt`."""
    return parse_prompt(name_or_path, read_prompt(name_or_path))


def parse_prompt(name_or_path: str, text: str) -> Prompt:
    """A profile from its TOML text. Raises ModelError naming the file and the entry that is wrong."""
    try:
        return _prompt(Path(name_or_path).stem, tomllib.loads(text))
    except tomllib.TOMLDecodeError as e:
        raise ModelError(f"prompt {name_or_path}: not a TOML file: {e}") from None
    except _Wrong as e:
        raise ModelError(f"prompt {name_or_path}: {e}") from None


class _Wrong(Exception):
    """What is wrong with a profile's content."""


def _prompt(name: str, content: Mapping[str, Any]) -> Prompt:
    _only(content, "the file", {"summary", "system", "user", "notice", "answer", "sampling", "window", "rules"})
    texts = {}
    for key in ("summary", "system", "user", "notice"):
        texts[key] = str(_typed(content.get(key, ""), str, key)).strip()
        if token := _CONTROL_TOKEN.search(texts[key]):
            raise _Wrong(
                f"{key} holds {token.group()}, which the model would take for a control token; write it otherwise"
            )
    if not texts["user"]:
        raise _Wrong('user is missing: the question that is asked after the pictures, e.g. user = "List the events."')
    sampling = _typed(content.get("sampling", {}), dict, "[sampling]")
    _only(sampling, "[sampling]", {"fps", "max_pixels"})
    pixels = sampling.get("max_pixels")
    answer = _answer(_typed(content.get("answer", {}), dict, "[answer]"))
    return Prompt(
        name,
        texts["summary"],
        texts["system"],
        texts["user"],
        answer,
        fps=_fps(sampling["fps"]) if "fps" in sampling else None,
        max_pixels=None if pixels is None else _between(pixels, 1024, 1 << 26, "max_pixels"),
        windowing=_windowing(_typed(content["window"], dict, "[window]")) if "window" in content else None,
        rules={OTHER_KINDS: KindRule(similarity=SIMILARITY)}
        | _rules(_typed(content.get("rules", {}), dict, "[rules]")),
        notice=texts["notice"],
    )


def _answer(table: Mapping[str, Any]) -> AnswerForm:
    _only(table, "[answer]", {"kinds", "max_events", "max_text", "attributes"})
    kinds = table.get("kinds", "free")
    if kinds != "free" and not (isinstance(kinds, list) and kinds and len(set(map(str, kinds))) == len(kinds)):
        raise _Wrong('kinds must be "free" or a list of different names')
    for kind in kinds if kinds != "free" else ():
        if not isinstance(kind, str) or not _NAME.fullmatch(kind):
            raise _Wrong(f"kind {kind!r}: small letters, digits and _ only, a letter first, at most 40")
    attributes = _typed(table.get("attributes", {}), dict, "[answer.attributes]")
    for name, schema in attributes.items():
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise _Wrong(
                f"attribute {name!r}: small letters, digits and _ only, and none of {', '.join(sorted(_RESERVED))}"
            )
        _check_schema(name, _typed(schema, dict, f"[answer.attributes.{name}]"))
    return AnswerForm(
        kinds=None if kinds == "free" else tuple(kinds),
        max_events=_between(table.get("max_events", 16), 1, 200, "max_events"),
        max_text=_between(table.get("max_text", 240), 1, 4000, "max_text"),
        attributes=attributes,
    )


def _check_schema(name: str, schema: Mapping[str, Any]) -> None:
    """One flat value: the part of JSON Schema that a row of the event log can hold."""
    where = f"[answer.attributes.{name}]"
    if "enum" in schema:
        _only(schema, where, {"enum", "type", "description"})
        if not (
            isinstance(schema["enum"], list) and schema["enum"] and all(isinstance(v, str) for v in schema["enum"])
        ):
            raise _Wrong(f"{where}: enum must be a list of strings")
        return
    allowed = {
        "string": {"type", "maxLength", "description"},
        "number": {"type", "minimum", "maximum", "description"},
        "integer": {"type", "minimum", "maximum", "description"},
        "boolean": {"type", "description"},
    }
    if schema.get("type") not in allowed:
        raise _Wrong(f"{where}: type must be one of {', '.join(allowed)}, or give an enum")
    _only(schema, where, allowed[schema["type"]])
    if "maxLength" in schema:
        _between(schema["maxLength"], 1, 4000, f"{where} maxLength")
    for bound in ("minimum", "maximum"):
        if bound in schema and (isinstance(schema[bound], bool) or not isinstance(schema[bound], (int, float))):
            raise _Wrong(f"{where}: {bound} must be a number")


def _windowing(table: Mapping[str, Any]) -> Windowing:
    _only(table, "[window]", {"length_s", "overlap_s"})
    length = _micros(table.get("length_s", 16), "length_s")
    overlap = _micros(table.get("overlap_s", 0), "overlap_s")
    if not 0 <= overlap < length:
        raise _Wrong("[window]: overlap_s must be 0 or more and smaller than length_s")
    return Windowing(length, overlap)


def _rules(table: Mapping[str, Any]) -> dict[str, KindRule]:
    rules = {}
    for kind, given in table.items():
        rule = _typed(given, dict, f"[rules.{kind}]")
        _only(rule, f"[rules.{kind}]", {"point", "exclusive", "gap_s", "min_s", "min_confidence", "similarity"})
        alike = _share(rule.get("similarity", SIMILARITY), f"[rules.{kind}] similarity")
        if not alike:
            raise _Wrong(f"[rules.{kind}] similarity must be more than 0")
        rules[kind] = KindRule(
            point=_typed(rule.get("point", False), bool, f"[rules.{kind}] point"),
            gap_us=_micros(rule.get("gap_s", 0), f"[rules.{kind}] gap_s"),
            min_us=_micros(rule.get("min_s", 0), f"[rules.{kind}] min_s"),
            exclusive=_typed(rule.get("exclusive", False), bool, f"[rules.{kind}] exclusive"),
            min_confidence=_share(rule.get("min_confidence", 0), f"[rules.{kind}] min_confidence"),
            similarity=alike,
        )
    return rules


def _share(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise _Wrong(f"{name} must lie between 0 and 1")
    return float(value)


def _fps(value: Any) -> Fraction:
    try:
        fps = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise _Wrong(f'fps = {value!r}: a number such as 2, or a fraction such as "1/2"') from None
    if not 0 < fps <= 240:
        raise _Wrong(f"fps = {value!r} must lie in (0, 240]")
    return fps


def _micros(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 86_400:
        raise _Wrong(f"{name} must be a number of seconds, 0 to 86400")
    return round(value * SECOND_US)


def _between(value: Any, low: int, high: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _Wrong(f"{name} must be a whole number, {low} to {high}")
    return value


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise _Wrong(f"{name} must be a {'table' if kind is dict else 'text' if kind is str else kind.__name__}")
    return value


def _only(table: Mapping[str, Any], where: str, known: set[str]) -> None:
    if unknown := sorted(set(table) - known):
        raise _Wrong(f"{where} holds {', '.join(unknown)}; known are {', '.join(sorted(known))}")
