"""What a question asks for: its topic, and what is wanted of the topic's events (English and Chinese).

Rules, not a model: they work everywhere, cost nothing, and say what they understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.search.span import OPEN_US, Part, Span, span_of
from pipeline.search.terms import normal

#: What may be wanted -> what says so.
_WANTED = {
    "next": r"what happen(?:s|ed) (?:next|then|after(?:wards)?)|next|afterwards|after that|and then|thereafter"
    r"|following|(?<![a-z])after|接下来|然后|之后|以后|随后|后来|接着",
    "before": r"what happen(?:s|ed) before|beforehand|previously|before that|(?<![a-z])before|prior to|leading up to"
    r"|之前|以前|在此前",
    "while": r"at the same time|meanwhile|simultaneously|what else|(?<![a-z])while|(?<![a-z])during"
    r"|与此同时|同时|期间|的时候",
    "first": r"for the first time|the first time|(?<![a-z])first|earliest|第一次|第一个|首次|最早|最先",
    "last": r"for the last time|the last time|(?<![a-z])last|latest|finally|most recent(?:ly)?"
    r"|最后一次|最后一个|最后|最近一次",
    "count": r"how often|how many times|how many|number of times|几次|多少次|多少个|多少",
}

#: Words of a question that say nothing about its topic.
_IDLE_WORDS = """
    a an the this that these those is are was were be been being do does did done has have had can could will would
    shall should may might must i you he she it we they me him her them my your his its our their there here
    what when where which who whom whose why how at in on of to from for with by and or but as if so not no any some
    happen happens happened happening occur occurs occurred occurring time times second seconds minute minutes moment
    moments show shows shown showing see seen video videos clip clips film films scene please tell about find give list
    all every each just exactly then also often many ever again something anything everything someone anyone everyone
    somewhere anywhere thing things into within during through throughout let want know
    go goes going get gets there's what's whats when's who's that's it's isn't i'm event events
    describe describes summarize summarise summary overview content contents story plot whole entire
    display displays displayed displaying visible anybody somebody everybody kind kinds type types exist exists
    order now
"""
_IDLE = frozenset(_IDLE_WORDS.split())
_IDLE_PHRASES = re.compile(
    r"\bon[ -]?(?:the )?screen\b|\b(?:take|takes|took|taking) place\b|\b(?:come|comes|came) up\b|\bhow long\b"
    r"|\b(?:in|of|on) (?:the|this|that|these|my|our) (?:picture|image|footage|recording|movie|archive|log|file)s?\b"
)
_IDLE_HAN = re.compile(
    r"什么时候|什么时间|何时|哪一秒|第几秒|什么|哪里|哪个|哪些|怎么样|怎么|如何|多久|发生了?|出现过|请问|请|告诉我|给我"
    r"|列出|描述|总结|概括|内容|有没有|是否|能否|可以|看到|看见|(?:视频|影片|画面|屏幕|片子?|文件|录像)[里中上](?:面)?"
    r"|视频|里面|里|一个|一共|总共|整个|所有|全部|事件|事情|时刻|任何|显示|[这那]个?(?:单?词|字)|[一二两几]个?[词字]|[这那]个|吗|呢|呀|的|了|是|在|有|会|被|和|与|及|都"
)

#: What a topic may be framed in: without it the rest of the topic means the same. Events may say it, though.
_FRAMING_WORDS = """
    word words letter letters caption captions subtitle subtitles screen picture pictures image images frame frames
    footage recording recordings movie movies contain contains contained containing include includes included including
    feature features featured featuring say says said saying read reads reading write writes written
    mention mentions mentioned
"""
_FRAMING = frozenset(_FRAMING_WORDS.split())
_FRAMING_HAN = re.compile(r"文字|文本|字幕|字样|单词|词语|包含|含有|写着|写|画面|屏幕|讲|说")
#: What an event is said to do that only goes on: "a text appears", "the fade out ends".
_GOING_ON_WORDS = """
    appear appears appeared appearing come comes came coming start starts started starting begin begins began beginning
    end ends ended ending finish finishes finished finishing
"""
_GOING_ON = frozenset(_GOING_ON_WORDS.split())
_GOING_ON_HAN = re.compile(r"出现|开始|结束")
_WRITTEN = re.compile(
    r"\b(?:words?|letters?|captions?|subtitles?|written|says?|reads?)\b|写|文字|文本|字幕|字样|单词|词语"
)
_BEGINNING = re.compile(r"begin|begins|began|beginning|start|starts|started|开始")
_ENDING = re.compile(r"end|ends|ended|ending|结束")


@dataclass(frozen=True, slots=True)
class Question:
    """`topic`: the words to search for, "" where only a time is asked about; `wanted`: of the topic's events, any of
    "next", "before", "while", "first", "last", "count"; `start_us`, `end_us`: the time asked about, if any; `last_us`,
    `part`: it is the last so much, or this part, of a video, of which the question does not know the end; `videos`:
    whole names of the videos that it names."""

    text: str
    topic: str
    wanted: frozenset[str]
    start_us: int | None = None
    end_us: int | None = None
    last_us: int | None = None
    part: Part | None = None
    videos: tuple[str, ...] = ()


def understand(text: str, whole: bool = False) -> Question:
    """Raises UsageError for a question of which nothing is left to look for. `whole`: it is put to some videos, so that
    without a topic and a time all that happens in them is asked about."""
    said = re.sub(r"\b(how long (?:do|does|did|is)\b.*) lasts?\b", r"\1", normal(text).lower().replace("’", "'"))
    span, rest = span_of(said)
    wanted = set()
    for name, pattern in _WANTED.items():
        shorter = re.sub(pattern, " ", rest)
        if shorter != rest:
            wanted.add(name)
            rest = shorter
    words = re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", _IDLE_HAN.sub(" ", _IDLE_PHRASES.sub(" ", rest)))
    topic = " ".join(w for w in words if w not in _IDLE)
    if span is None:  # "how does it end?"
        if _BEGINNING.fullmatch(topic):
            span, topic = Span(0, OPEN_US, part="begin"), ""
        elif _ENDING.fullmatch(topic):
            span, topic = Span(0, OPEN_US, part="end"), ""
    if not topic and span is None:
        if not whole and not wanted & {"first", "last", "count"}:
            raise nothing_in(text)
        span = Span(0, OPEN_US)
    if span is None:
        return Question(text, topic, frozenset(wanted))
    return Question(text, topic, frozenset(wanted), span.start_us, span.end_us, span.last_us, span.part)


def nothing_in(text: str) -> UsageError:
    """The error for a question without topic and time."""
    return UsageError(f"nothing to look for in {text[:80]!r}: name what happens, or a time (at 1:05)")


def unframed(topic: str) -> str:
    """A topic without the words that only lead up to it: what contains, says, shows the word ..."""
    return _without(topic, _FRAMING, _FRAMING_HAN)


def bare(topic: str) -> str:
    """An unframed topic without what only says that it goes on: appears, begins, ends. Of words alone: texts."""
    rest = _without(unframed(topic), _GOING_ON, _GOING_ON_HAN)
    return "text" if not rest and _WRITTEN.search(topic) else rest


def _without(topic: str, words: frozenset[str], han: re.Pattern[str]) -> str:
    return " ".join(w for w in han.sub(" ", topic).split() if w not in words)
