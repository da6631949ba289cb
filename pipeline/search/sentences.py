"""The sentences of an answer in words, and the times that they name in figures (English and Chinese)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction

from pipeline.clock import parse_time
from pipeline.plan import SECOND_US, round_us

#: A time in an answer may be off by so much: people round.
SLACK_US = SECOND_US

CITATION = re.compile(r"\[(\d{1,6}(?:\s*,\s*\d{1,6})*)\]")

#: What may end a sentence, with the citations behind it: a dot only before a blank, a citation or the end (so not the
#: dot of clip.mp4 or 0:07.5), a mark of Chinese anywhere.
_MARK = re.compile(
    r"(?:(?<![。！？])[。！？]++[”’」』）)\"']*+(?!\s*[，、,；;])"
    r"|(?<=\])\.(?!\d)"
    r"|(?<![.!?])[.!?]++(?P<closing>[\"'”’»)]*+)(?=\s|\[|$))"
    r"(?:\s*\[[\d,\s]+\])*[.。]?"
    r"|\n"
)
#: Abbreviations before a name, and those that may also end a sentence: there they do where a capital follows.
_BEFORE_NAME = re.compile(r"\b(?:mr|mrs|ms|dr|prof|st|vs|cf|e\.g|i\.e)$", re.I)
_SHORT = re.compile(r"\b(?:etc|approx|ca|nos?|figs?|vol|pp?|secs?|mins?|hrs?|ft|a\.m|p\.m|u\.s|u\.k|jr|sr|inc)$", re.I)


def sentences(text: str, names: Collection[str] = ()) -> Iterator[str]:
    """The sentences of a text, each with its mark and the citations behind that. No dot in one of `names` ends one."""
    within = [found.span() for name in names if name for found in re.finditer(re.escape(name), text)]
    start = 0
    for mark in _MARK.finditer(text):
        at = mark.start()
        if any(a <= at < b for a, b in within) or _goes_on(
            text[max(start, at - 12) : at].strip(), mark, text[mark.end() : mark.end() + 80]
        ):
            continue
        yield text[start : mark.end()].strip()
        start = mark.end()
    yield text[start:].strip()


def _goes_on(before: str, mark: re.Match[str], after: str) -> bool:
    following = after.lstrip()[:1]
    if mark["closing"] or mark[0].startswith(".."):  # what somebody says, or a pause, within the sentence
        return following.islower()
    if mark[0] != ".":
        return False
    if _BEFORE_NAME.search(before) or re.fullmatch(r"\d{1,2}", before):  # the number of an item in a list
        return True
    return bool(_SHORT.search(before)) and not following.isupper()


@dataclass(frozen=True, slots=True)
class Named:
    """A time that a sentence names, give or take `slack_us`. `perhaps_length`: it may be meant as a length of time."""

    us: int
    slack_us: int
    perhaps_length: bool = False


_CLOCK = re.compile(r"(?<![\d:.])\d+(?::\d{2}){1,2}(?:\.\d{1,6})?")

_FIGURE = r"(?:\d{1,3}(?:,\d{3})+|\d{1,400})(?:\.\d{1,6})?"
_ALONE = r"(?<![A-Za-z0-9_:.])(?<!\d,)"
_TO = r" ?(?:[-–—~]|to|until|till|至|到) ?"
_JOIN = r"(?:,? and |, ?| )?"
#: 100 m are metres and 3分 points, but not before seconds; the 1980s are years.
_HOURS = r"(?:(?:h|hrs?|hours?)(?![a-z])|小时)"
_MINUTES = r"(?:(?:mins?|minutes?)(?![a-z])|分钟|m(?= ?\d{1,2} ?s)|分(?= ?\d{1,2} ?秒))"
_SECONDS = r"(?:(?:secs?|seconds?|(?<!1[89]\d0)(?<!20\d0)s)(?![a-z])|秒钟?)"
_AMOUNT = re.compile(
    rf"{_ALONE}(?:(?P<first>{_FIGURE}){_TO}(?=\d)|between (?P<between>{_FIGURE}) and )?"
    rf"(?:(?P<hours>{_FIGURE})[ -]?{_HOURS}{_JOIN})?(?:(?P<minutes>{_FIGURE})[ -]?{_MINUTES}{_JOIN})?"
    rf"(?:(?P<seconds>{_FIGURE})[ -]?{_SECONDS})?",
    re.I,
)
#: "second 45", "minutes 3 to 5", "the 45th second"; not "a second 2 cars come", "for 3 seconds 2 cars".
_ORDINAL = re.compile(
    rf"(?<!\bthe )(?<!\ba )(?<!\d[ -])\b(second|minute)s? ({_FIGURE})(?:(?:{_TO}| and ){_ALONE}({_FIGURE}))?"
    rf"|{_ALONE}(\d{{1,9}})(?:st|nd|rd|th) (second|minute)\b",
    re.I,
)
_ABOUT = r"(?:about|around|approximately|roughly|exactly|nearly|almost|only|just|some|the|约|大约|大概|近|将近|仅|只)"
#: What makes an amount a time of the video, and what makes it a length of time.
_POINT = re.compile(rf"(?:\b(?:at|from|until|till|since)|@|\bt ?=|第)(?: ?{_ABOUT})* ?$", re.I)
_LENGTH_BEFORE = re.compile(
    r"(?:\b(?:for|last(?:s|ed|ing)?|within|every|each|per|tak(?:es?|ing)|took|over|span(?:s|ned|ning)?|another|next|first"
    r"|final|stay(?:s|ed|ing)?|remain(?:s|ed|ing)?|wait(?:s|ed|ing)?|total(?:s|ling)?|of|an?|at (?:least|most)"
    r"|(?:less|more|longer|shorter) than|up to)|持续|长达|历时|为时|共|过了?|隔|每|前|最后|接下来|不到|超过|了)"
    rf"(?: ?{_ABOUT})* ?$",
    re.I,
)
_LENGTH_AFTER = re.compile(
    r"[ -]?(?:later|earlier|long|apart|ago|each|of|before|afterwards|after(?! the (?:start|beginning))"
    r"|in (?:length|total|duration|all))\b|(?:钟|之|以)?(?:后|前|长|内)",
    re.I,
)
#: What claims that something happens then.
_CLAIM = re.compile(
    rf"(?:\b(?:at|from|until|till|since|by|after|before|around|during|between|and|to)|@|\bt ?=|[-–—~第在从自于至到约])"
    rf"(?: ?{_ABOUT})* ?$",
    re.I,
)
_INTO = re.compile(r"[ -]?(?:into|mark|point|in)\b|处|时")
_UNIT_S = {"second": 1, "minute": 60, "hour": 3600}


def times(sentence: str, texts: Collection[str] = ()) -> Iterator[Named]:
    """Every time of a video that a sentence names in figures: 1:02, 45.5 s, second 45, 1分2秒. Lengths of time (for 3
    seconds, 3 seconds later) are none, nor are figures that stand so in one of `texts`, which events say: "the sign
    says 12:30", but not "at 12:30". Raises UsageError for what looks like a time and is none (0:75)."""
    text, said = _spelt(sentence), [_spelt(each) for each in texts]
    for clock in _CLOCK.finditer(text):
        if not _is_said(text, clock, said):
            yield Named(parse_time(clock[0]), SLACK_US)
    for found in _ORDINAL.finditer(text):
        unit, *figures = (found[5], found[4]) if found[4] else (found[1], found[2], found[3])
        for figure in figures:
            if figure:
                yield _named({unit.lower(): figure}, perhaps_length=False)
    for found in _AMOUNT.finditer(text):
        parts = {unit: found[f"{unit}s"] for unit in _UNIT_S if found[f"{unit}s"]}
        if not parts or _is_said(text, found, said):
            continue
        before, after = text[max(0, found.start() - 60) : found.start()], text[found.end() : found.end() + 30]
        point = bool(_POINT.search(before))
        adjective = re.search(r"-[a-z]+$", found[0], re.I) and not re.match(r" ?(?:mark|point)\b", after)
        if not point and (adjective or _LENGTH_BEFORE.search(before) or _LENGTH_AFTER.match(after)):
            continue
        yield _named(parts, perhaps_length=not point)
        if start := found["first"] or found["between"]:
            yield _named({next(iter(parts)): start}, perhaps_length=not point)


def _spelt(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _is_said(text: str, figure: re.Match[str], said: Collection[str]) -> bool:
    """Whether a figure of the text, with what makes it a time of the video, stands in one of the texts of events."""
    if not said or _INTO.match(text, figure.end()):
        return False
    point = _CLAIM.search(text, max(0, figure.start() - 60), figure.start())
    words = text[point.start() if point else figure.start() : figure.end()].strip()
    literal = re.compile(rf"(?<![\d:.,A-Za-z]){re.escape(words)}(?![A-Za-z]|[:.,]?\d)", re.I)
    return any(literal.search(each) for each in said)


def _named(parts: dict[str, str], *, perhaps_length: bool) -> Named:
    """Of figures by their units, the smallest first: it says how exact the time is meant."""
    seconds = sum((_UNIT_S[unit] * Fraction(figure.replace(",", "")) for unit, figure in parts.items()), Fraction(0))
    return Named(round_us(seconds), max(SLACK_US, _UNIT_S[next(iter(parts))] * SECOND_US), perhaps_length)
