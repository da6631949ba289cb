"""What a question asks for: its topic, and what is wanted of the topic's events (English and Chinese).

Rules, not a model: they work everywhere, cost nothing, and say what they understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.clock import parse_time
from pipeline.errors import UsageError
from pipeline.search.terms import normal

#: What may be wanted -> what says so.
_WANTED = {
    "next": r"what happen(?:s|ed) (?:next|then|after(?:wards)?)|next|afterwards|after that|and then|thereafter"
    r"|following|(?<![a-z])after|接下来|然后|之后|以后|随后|后来|接着",
    "before": r"what happen(?:s|ed) before|beforehand|previously|before that|(?<![a-z])before|prior to|leading up to"
    r"|之前|以前|在此前",
    "while": r"at the same time|meanwhile|simultaneously|what else|(?<![a-z])while|(?<![a-z])during"
    r"|与此同时|同时|期间|的时候",
    "first": r"for the first time|the first time|(?<![a-z])first|earliest|第一次|首次|最早|最先",
    "last": r"for the last time|the last time|(?<![a-z])last|latest|finally|most recent(?:ly)?|最后一次|最后|最近一次",
    "count": r"how often|how many times|how many|number of times|几次|多少次|多少个|多少",
}

#: Words of a question that say nothing about its topic.
_IDLE_WORDS = """
    a an the this that these those is are was were be been being do does did done has have had can could will would
    shall should may might must i you he she it we they me him her them my your his its our their there here
    what when where which who whom whose why how at in on of to from for with by and or but as if so not no any some
    happen happens happened happening occur occurs occurred time times second seconds minute minutes moment show shows
    shown see seen video videos clip film scene please tell about find give list all every each just exactly
    then also often many ever again something anything someone anyone thing things
    go goes going get gets there's what's when's
"""
_IDLE = frozenset(_IDLE_WORDS.split())
_IDLE_HAN = re.compile(
    r"什么时候|什么时间|何时|哪一秒|第几秒|什么|哪里|哪个|哪些|怎么|多久|发生了?|出现过|请问|视频|里面|里"
    r"|吗|呢|呀|的|了|是|在|有|会|被|和|与|及"
)

_UNIT = r"(?:s\b|sec\b|seconds?\b|秒)"
_TIME = rf"(\d{{1,9}}(?::\d{{1,2}}){{1,2}}(?:\.\d{{1,6}})?|\d{{1,9}}(?:\.\d{{1,6}})?(?= ?{_UNIT}))(?: ?{_UNIT})?"
_BETWEEN = re.compile(rf"\b(?:between|from) {_TIME} (?:and|to|until) {_TIME}|从 ?{_TIME} ?到 ?{_TIME}", re.I)
_AT = re.compile(
    rf"\b(?P<how>at|after|before|around)? ?(?:second )?{_TIME}"
    r"|\bsecond (\d{1,9}(?:\.\d{1,6})?)|第 ?(\d{1,9}) ?秒",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Question:
    """`topic`: the words to search for, "" where only a time is asked about; `wanted`: of the topic's events, any of
    "next", "before", "while", "first", "last", "count"; `start_us`, `end_us`: the time asked about, if any."""

    text: str
    topic: str
    wanted: frozenset[str]
    start_us: int | None = None
    end_us: int | None = None


def understand(text: str) -> Question:
    """Raises UsageError for a question of which nothing is left to look for."""
    rest = normal(text).lower().replace("’", "'")
    start_us, end_us, rest = _time(rest)
    wanted = set()
    for name, pattern in _WANTED.items():
        shorter = re.sub(pattern, " ", rest)
        if shorter != rest:
            wanted.add(name)
            rest = shorter
    words = re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", _IDLE_HAN.sub(" ", rest))
    topic = " ".join(w for w in words if w not in _IDLE)
    if not topic and start_us is None:
        raise UsageError(f"nothing to look for in {text[:80]!r}: name what happens, or a time (at 1:05)")
    return Question(text, topic, frozenset(wanted), start_us, end_us)


def _time(text: str) -> tuple[int | None, int | None, str]:
    """(start, end) of the time that a text names, and the text without it."""
    if found := _BETWEEN.search(text):
        first, last = (parse_time(t) for t in found.groups() if t)
        return (
            (first, last, text.replace(found[0], " ")) if first < last else (first, None, text.replace(found[0], " "))
        )
    if found := _AT.search(text):
        us = parse_time(next(t for t in found.groups()[1:] if t))
        rest = text.replace(found[0], " ")
        if found["how"] == "after":
            return us, 2**62, rest
        if found["how"] == "before":
            return 0, us, rest
        return us, us + 1_000_000, rest
    return None, None, text
