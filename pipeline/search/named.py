"""The videos that a question names: match.mp4, cam 1/match.mp4, or only "in match", where it can mean nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from pipeline.patterns import VIDEO_EXTENSIONS
from pipeline.search.terms import normal

#: What reaches so far back from its ending may be a name; names and their beginnings that are looked up at most.
LONGEST, MOST = 120, 2000

#: An ending of a file's name, which is more than a fraction of seconds.
_ENDING = re.compile(r"\.(?=[0-9]*[A-Za-z])[A-Za-z0-9]{1,8}(?![A-Za-z0-9_]|\.[A-Za-z0-9])")

#: Before a name without its ending.
_MARK = re.compile(
    r"(?i:(?<![A-Za-z])(?:in|of|from|on|within|inside|video|clip|film|movie|recording|file)) +"
    r"|(?:视频|影片|录像|文件) ?"
)
_QUOTED = re.compile(r"[\"“”'‘「『《]([^\"“”'‘’「」『』《》\n]{1,120})[\"“”'’」』》]")
#: What no sentence has but as a name: cam_3, GOPR0042.
_CODE = re.compile(r"(?<![\w.:-])(?=[\w-]*_|[A-Za-z][\w-]*\d)[A-Za-z0-9_-]{3,}(?![\w.:-])")
_WORDS = 6  # of a name without its ending at most


@dataclass(frozen=True, slots=True)
class _Candidate:
    start: int
    end: int
    text: str
    whole: bool  # with its ending


def parts_of(name: str) -> tuple[str, ...]:
    """What a video is called by: the last part of its name, with and without its ending, in one spelling."""
    last = _spelt(name.rstrip("/").rsplit("/", 1)[-1])
    stem = last.rsplit(".", 1)[0] if _ENDING.search(last) else last
    return tuple(dict.fromkeys(part for part in (last, stem) if part))


def named_in(
    text: str,
    called: Callable[[Collection[str]], Mapping[str, Collection[tuple[str, str]]]],
    is_said: Callable[[str], bool],
) -> tuple[list[str], str]:
    """(whole names of the videos that a text names, one of each, the text without them).

    `called`: (whole name, video_id) of the videos with a name of which `parts_of` holds one of some texts; `is_said`:
    whether events say these words. A name without its ending counts where one video has it and no event says it.
    """
    text = normal(text)
    candidates = [c for c, _ in zip(_candidates(text), range(MOST), strict=False)]
    known = called({_last(c.text) for c in candidates}) if candidates else {}
    found: list[str] = []
    cut: list[tuple[int, int]] = []
    for c in candidates:  # of those with one ending the longest comes first
        if any(start < c.end and c.start < end for start, end in cut):
            continue
        said = _spelt(c.text)
        meant = [pair for pair in known.get(_last(c.text), ()) if _ends_so(_spelt(pair[0]), said, c.whole)]
        names = set({video_id: name for name, video_id in sorted(meant, reverse=True)}.values())
        if names and (c.whole or (len(names) == 1 and not said.isdecimal() and not is_said(c.text))):
            found += sorted(names)
            cut.append((c.start, c.end))
    for start, end in sorted(cut, reverse=True):
        text = f"{text[:start]} {text[end:]}"
    return list(dict.fromkeys(found)), text


def files_in(text: str) -> list[str]:
    """What looks like a video's file in a text, as far as it has no blanks."""
    words = (word.strip("\"'“”‘’「」『』《》()[]?!.,;:。，？！") for word in normal(text).split())
    return [word for word in words if word.lower().endswith(tuple(VIDEO_EXTENSIONS))]


def _candidates(text: str) -> Iterator[_Candidate]:
    for ending in _ENDING.finditer(text):
        for start in range(max(0, ending.start() - LONGEST), ending.start()):
            if _begins(text, start):
                yield _Candidate(start, ending.end(), text[start : ending.end()], True)
    for quoted in _QUOTED.finditer(text):
        yield _Candidate(quoted.start(), quoted.end(), quoted[1].strip(), False)
    for mark in _MARK.finditer(text):
        ends = [mark.end() + m.end() for m in re.finditer(r"[\w)\]](?![A-Za-z0-9_])", text[mark.end() :][:LONGEST])]
        for end in reversed([e for e in ends if text[mark.end() : e].count(" ") < _WORDS]):
            yield _Candidate(mark.end(), end, text[mark.end() : end], False)
    for code in _CODE.finditer(text):
        yield _Candidate(code.start(), code.end(), code[0], False)


def _begins(text: str, at: int) -> bool:
    """Whether a name may begin there: not in the middle of a word of a script that puts blanks between words."""
    return not text[at].isspace() and (at == 0 or not (_is_letter(text[at]) and _is_letter(text[at - 1])))


def _is_letter(character: str) -> bool:
    return (character.isalnum() or character == "_") and character < "\u0e00"


def _spelt(text: str) -> str:
    return normal(text).casefold()


def _last(text: str) -> str:
    return _spelt(text.rsplit("/", 1)[-1])


def _ends_so(name: str, said: str, whole: bool) -> bool:
    """Whether a name is what was said, or ends so at the border of a folder."""
    if not whole:
        return "/" not in said
    return name == said or name.endswith("/" + said.lstrip("/"))
