"""The time that a question asks about (English and Chinese): at, after or before a time, between two, the first or last
seconds or minutes, the beginning, middle or end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.clock import parse_time
from pipeline.plan import SECOND_US

MINUTE_US = 60 * SECOND_US

#: The end of a span without one.
OPEN_US = 2**62

_NUMBER = r"\d{1,9}(?:\.\d{1,6})?"
_CLOCK = r"\d{1,9}(?::\d{1,2}){1,2}(?:\.\d{1,6})?"
_SECOND = r"(?:s(?:ecs?|econds?)?(?![a-z])|秒钟?)"
_MINUTE = r"(?:min(?:ute)?s?(?![a-z])|分钟?)"
_AMOUNT = rf"(?:{_NUMBER}[ -]?{_MINUTE}(?:(?:,| and)? ?{_NUMBER}[ -]?{_SECOND})?|{_NUMBER}[ -]?{_SECOND})"
_UNIT_FIRST = rf"\b(?:second|minute)s? {_NUMBER}"
#: Not in the middle of a word or number; a Chinese character may stand before it.
_ALONE = r"(?<![a-z0-9_.:])"
_TIME = rf"(?:{_ALONE}(?:{_CLOCK}(?: ?{_SECOND})?|{_AMOUNT})|{_UNIT_FIRST})"
_TO = r" ?(?:-|–|—|~|\b(?:to|until|till)\b|到|至) ?第? ?"
#: Of a span in plain numbers, one of the two says the unit.
_BETWEEN = re.compile(
    rf"\bbetween (?P<a>{_TIME}|{_NUMBER}) and (?P<b>{_TIME})|\bbetween (?P<c>{_UNIT_FIRST}) and (?P<d>{_NUMBER})"
    rf"|(?:\bfrom |从 ?|在 ?)?(?:第 ?)?(?:(?P<e>{_TIME}|{_ALONE}{_NUMBER}){_TO}(?P<f>{_TIME})"
    rf"|(?P<g>{_UNIT_FIRST}){_TO}(?P<h>{_NUMBER}))(?:之间)?"
)
_LONG = rf"(?P<long>{_NUMBER}[ -]?(?:{_SECOND}|{_MINUTE})|minute\b|(?:(?<=the first )|(?<=the last ))second\b)"
_ENDS = re.compile(
    r"(?:\b(?:in|during|within|over|for|of) )?(?:\bthe )?(?:very )?"
    rf"(?:\b(?P<first>first|opening)|\b(?:last|final)) {_LONG}"
    r"|(?:(?P<begin>(?<![之以])前|开头的?|最初的?)|(?:最后|末尾|结尾)的?) ?"
    rf"(?P<lang>{_NUMBER} ?(?:秒钟?|分钟))(?:之?内|里|中)?"
)
#: Of a video as long as it may be.
Part = Literal["begin", "middle", "end", "first half", "second half"]
_PART = re.compile(
    r"(?:\b(?:at|in|near|towards?|by|from|around|during|for)(?: or near)? the (?:very )?"
    r"(?:(?P<begin>beginning|start|opening|outset)|(?P<middle>middle)|(?P<end>end|ending|close)"
    r"|(?P<half>first half)|(?P<rest>(?:second|last|other) half))\b(?! (?:line|zone)\b)"
    r"|(?P<middle_too>\b(?:half-?way|midway)(?: through| into)?\b)"
    r"|(?P<han_begin>(?:视频|影片|片子?)?的?(?:开头|片头|[一刚]开始|开始(?:时|的时候)))"
    r"|(?P<han_middle>中间)|(?P<han_end>(?:视频|影片|片子?)?的?(?:结尾|末尾|片尾|结束(?:时|的时候)))"
    r"|(?P<han_half>前半(?:段|部分)?)|(?P<han_rest>后半(?:段|部分)?))"
    r"(?: of\b)?(?:的时候|时候|处|部分)?"
)
_PARTS: dict[str, Part] = {
    "begin": "begin", "middle": "middle", "end": "end", "half": "first half", "rest": "second half"
}  # fmt: skip
#: Lengths of time, which are no times: "for 10 seconds", "10 seconds after the goal".
_LENGTH = re.compile(
    r"(?:\b(?:for|lasts?|lasted|lasting|within|every|at least|at most|(?:longer|more|less) than)(?: about)? |持续 ?)"
    rf"{_ALONE}{_AMOUNT}|(?<=[之以][前后]) ?{_AMOUNT}"
    rf"|(?<!at )(?<!second ){_ALONE}{_AMOUNT}(?= (?:after|before|later|earlier|long)\b)"
)
_AT = re.compile(
    rf"(?:\b(?P<how>at|after|since|before|until|around) )?(?:(?:about|the) )?(?:第 ?)?(?P<at>{_TIME})(?: mark\b)?"
    r" ?(?P<then>(?:之|以)?后|(?:之|以)?前)?"
)


@dataclass(frozen=True, slots=True)
class Span:
    """`[start_us, end_us)`, or the last `last_us` of a video, or a part of it."""

    start_us: int
    end_us: int
    last_us: int | None = None
    part: Part | None = None


def span_of_part(part: Part, duration_us: int) -> tuple[int, int]:
    """The beginning, middle and end of a video are a tenth of it, and five seconds at least."""
    tenth = min(duration_us, max(duration_us // 10, 5 * SECOND_US))
    half = duration_us // 2
    spans: dict[Part, tuple[int, int]] = {
        "begin": (0, tenth),
        "middle": (half - tenth // 2, half + tenth // 2),
        "end": (duration_us - tenth, OPEN_US),
        "first half": (0, half),
        "second half": (half, OPEN_US),
    }
    start_us, end_us = spans[part]
    return start_us, max(end_us, start_us + 1)


def span_of(text: str) -> tuple[Span | None, str]:
    """The time that a normal text in small letters asks about, and the text without it. Raises UsageError for what
    looks like a time and is none (1:75)."""
    if found := _BETWEEN.search(text):
        one, other = (part for part in found.groups() if part)
        unit = MINUTE_US if _is_minutes(other if re.search(r"[^\d.]", other) else one) else SECOND_US
        start, end = sorted((_us(one, unit), _us(other, unit)))
        return Span(start, max(end, start + 1)), _without(text, found)
    if found := _ENDS.search(text):
        said = found["long"] or found["lang"]
        long = _us(said if re.match(r"\d", said) else f"1 {said}", SECOND_US)
        span = Span(0, long) if found["first"] or found["begin"] else Span(0, OPEN_US, long)
        return span, _without(text, found)
    text = _LENGTH.sub(" ", text)
    if found := _AT.search(text):
        us, then = _us(found["at"], SECOND_US), found["then"] or ""
        rest = _without(text, found)
        if found["how"] in ("after", "since") or then.endswith("后"):
            return Span(us, OPEN_US), rest
        if found["how"] in ("before", "until") or then.endswith("前"):
            return Span(0, us), rest
        return Span(us, us + (MINUTE_US if _is_minutes(found["at"]) else SECOND_US)), rest
    if found := _PART.search(text):
        name = next(name for name, said in found.groupdict().items() if said)
        part = _PARTS[name.removeprefix("han_").removesuffix("_too")]
        return Span(0, OPEN_US, part=part), _without(text, found)
    return None, text


def _without(text: str, found: re.Match[str]) -> str:
    return f"{text[: found.start()]} {text[found.end() :]}"


def _is_minutes(time: str) -> bool:
    """Whether a time is said in whole minutes."""
    return bool(re.search(_MINUTE, time)) and not re.search(rf"\d ?{_SECOND}", time)


def _us(time: str, unit_us: int) -> int:
    """Microseconds; `unit_us`: of a number without a unit."""
    if clock := re.search(_CLOCK, time):
        return parse_time(clock[0])
    if unit_first := re.match(r"(second|minute)s? (.*)", time):
        time = f"{unit_first[2]} {unit_first[1]}"
    parts = re.findall(rf"({_NUMBER})[ -]?({_MINUTE}|{_SECOND})?", time)
    units = {"": unit_us, "m": MINUTE_US, "分": MINUTE_US, "s": SECOND_US, "秒": SECOND_US}
    return sum(parse_time(number) * (units[unit[:1]] // SECOND_US) for number, unit in parts)
