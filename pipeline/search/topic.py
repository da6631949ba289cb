"""The events of a question's topic: those that have all of its words, else those that come nearest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.search.question import bare, unframed
from pipeline.search.search import Hit, Search
from pipeline.search.terms import cut, normal, words_analyzer

#: Events of the topic that are counted and ordered in time at most.
COUNTED = 1000

#: Events that are looked at where none holds every word of the topic.
NEAREST = 50


def of_topic(search: Search, topic: str, narrowed: Mapping[str, Any]) -> tuple[str, bool, list[Hit]]:
    """(the topic as it was looked for, whether the events have all of its words, the events). `narrowed`: the filters
    of Search.find.

    Words that frame the topic, or say that it goes on, are left out where no event has them too.
    """
    core = bare(topic)
    for words in dict.fromkeys((topic, unframed(topic))):
        if words == topic or bare(words):
            hits = _with_all(search, words, narrowed)
            if hits and all(h.found_by == ("words",) for h in hits):
                return words, True, hits
    if not core:
        return "", False, []
    hits = _with_all(search, core, narrowed)
    if hits and all(h.found_by == ("words",) for h in hits):
        # A cut that "appears" is a cut; of a star that appears, one that leaves is only near.
        themselves = [h for h in hits if _is_named(h, core)]
        return core, bool(themselves), themselves or hits
    near = [] if hits else search.find(core, limit=NEAREST, **narrowed)
    wanted = _terms(core)
    fitting = [h for h in near if "meaning" in h.found_by or 2 * len(wanted & _terms(_said(h))) >= len(wanted)]
    return core, False, hits or fitting


def _with_all(search: Search, words: str, narrowed: Mapping[str, Any]) -> list[Hit]:
    return search.find(" ".join(f"+{word}" for word in words.split()), limit=COUNTED, mode="words", **narrowed)


def _is_named(hit: Hit, core: str) -> bool:
    """Whether an event is what the words name, whatever it does: a text, or of the kind of this name."""
    return hit.event["kind"] == "text" or _terms(core) <= _terms(hit.event["kind"].replace("_", " "))


def _said(hit: Hit) -> str:
    return f"{hit.event['text']} {hit.event['kind'].replace('_', ' ')}"


def _terms(text: str) -> set[str]:
    """What a text is found by: stems, and characters of scripts without blanks."""
    rest, runs = cut(normal(text))
    return {*words_analyzer().analyze(rest), *(character for run in runs for character in run)}
