"""What a question asks for: its topic, and what is wanted of the topic's events (English and Chinese).

Rules, not a model: they work everywhere, cost nothing, and say what they understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.search.span import OPEN_US, span_of
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


@dataclass(frozen=True, slots=True)
class Question:
    """`topic`: the words to search for, "" where only a time is asked about; `wanted`: of the topic's events, any of
    "next", "before", "while", "first", "last", "count"; `start_us`, `end_us`: the time asked about, if any; `last_us`:
    it is the last so much of a video, of which the question does not know the end; `videos`: whole names of the videos
    that it names."""

    text: str
    topic: str
    wanted: frozenset[str]
    start_us: int | None = None
    end_us: int | None = None
    last_us: int | None = None
    videos: tuple[str, ...] = ()


def understand(text: str, whole: bool = False) -> Question:
    """Raises UsageError for a question of which nothing is left to look for. `whole`: it is put to some videos, so that
    without a topic and a time all that happens in them is asked about."""
    span, rest = span_of(normal(text).lower().replace("’", "'"))
    wanted = set()
    for name, pattern in _WANTED.items():
        shorter = re.sub(pattern, " ", rest)
        if shorter != rest:
            wanted.add(name)
            rest = shorter
    words = re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", _IDLE_HAN.sub(" ", rest))
    topic = " ".join(w for w in words if w not in _IDLE)
    if not topic and span is None:
        if whole:
            return Question(text, topic, frozenset(wanted), 0, OPEN_US)
        raise UsageError(f"nothing to look for in {text[:80]!r}: name what happens, or a time (at 1:05)")
    if span is None:
        return Question(text, topic, frozenset(wanted))
    return Question(text, topic, frozenset(wanted), span.start_us, span.end_us, span.last_us)
