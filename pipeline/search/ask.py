"""Questions in a person's words: what is asked for, and the events that answer it.

What is asked for is found by rules (question.py): the topic, and what is wanted of it. Events of the topic are
searched for, and around each of them the query layer is asked for what came before, next or at the same time. A
language model, where there is one, only puts these events into words (answer.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.clock import format_time
from pipeline.errors import UsageError
from pipeline.query import Anchor, Query
from pipeline.search.question import Question, understand
from pipeline.search.search import Hit, Search
from pipeline.search.terms import cut, normal, words_analyzer
from pipeline.search.wish import check_length

#: Events of the topic that are counted and ordered in time at most.
COUNTED = 1000


#: Events that are looked at where none holds every word of the topic.
NEAREST = 50


@dataclass(frozen=True, slots=True)
class Evidence:
    """An event that bears on the question. `number`: what citations say; `role`: "match" (an event of the topic, or of
    the time asked about), or what it is to the match of number `of`: "before", "while", "next"."""

    number: int
    role: str
    of: int
    event: dict[str, Any]
    name: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a question found. `exact`: the matches hold every word of the topic, or lie at the time asked about; else
    they come nearest. `total`: how many matches there are (COUNTED: or more), `videos`: how many in each video, of
    which `evidence` shows some."""

    question: Question
    exact: bool
    total: int
    videos: dict[str, int]
    evidence: tuple[Evidence, ...]


def ask(
    search: Search,
    query: Query,
    text: str,
    *,
    video: str | Sequence[str] | None = None,
    kinds: Collection[str] | None = None,
    run: str | None = None,
    limit: int = 5,
    around: int = 3,
) -> Found:
    """The events that answer a question: up to `limit` of its topic, with up to `around` before, during and after each
    where the question wants them. `video`, `kinds` and `run` narrow the topic, as in Search.find.

    Raises UsageError: nothing to look for in the question, unknown video or run; LogError: damaged log or index.
    """
    if limit < 1 or around < 1:
        raise UsageError("ask for one event at least")
    check_length(text)
    question = _ending(understand(text), query, video, run)
    exact, hits = _matches(search, query, question, video, kinds, run)
    chosen = _chosen(hits, question, limit)
    evidence: list[Evidence] = []
    for hit in chosen:
        evidence += _with_neighbours(query, hit, question, around, len(evidence))
    return Found(question, exact, len(hits), dict(Counter(h.name for h in hits).most_common()), tuple(evidence))


def _ending(question: Question, query: Query, video: str | Sequence[str] | None, run: str | None) -> Question:
    """The question with the time of the last seconds that it asks about: they need a video with an end."""
    if question.last_us is None:
        return question
    matches = query.matches(video, run)
    if len(matches) != 1:
        raise UsageError(f"the last {format_time(question.last_us)} of which of {len(matches)} videos? Name one")
    match = matches[0]
    if match.entry.duration_us is None:
        raise UsageError(f"{match.name}: the log does not know how long it is, so not what its last seconds are")
    return replace(question, start_us=max(0, match.entry.duration_us - question.last_us))


def _matches(
    search: Search,
    query: Query,
    question: Question,
    video: str | Sequence[str] | None,
    kinds: Collection[str] | None,
    run: str | None,
) -> tuple[bool, list[Hit]]:
    narrowed: dict[str, Any] = {"video": video, "kinds": kinds, "run": run}
    narrowed |= {"start_us": question.start_us, "end_us": question.end_us}
    if not question.topic:
        start, end = question.start_us or 0, question.end_us if question.end_us is not None else 2**62
        rows = query.between(video, start, end, kinds=kinds, run=run).slice(0, COUNTED).to_pylist()
        names = {m.entry.video_id: m.name for m in query.matches(video, run)} if rows else {}
        return True, [Hit(row, 1.0, ("time",), names[row["video_id"]]) for row in rows]
    all_words = " ".join(f"+{word}" for word in question.topic.split())
    hits = search.find(all_words, limit=COUNTED, mode="words", **narrowed)
    if hits and all(h.found_by == ("words",) for h in hits):
        return True, hits
    near = search.find(question.topic, limit=NEAREST, **narrowed)
    wanted = _terms(question.topic)
    fitting = [h for h in near if "meaning" in h.found_by or 2 * len(wanted & _terms(_said(h))) >= len(wanted)]
    return False, hits or fitting


def _said(hit: Hit) -> str:
    return f"{hit.event['text']} {hit.event['kind'].replace('_', ' ')}"


def _terms(text: str) -> set[str]:
    """What a text is found by: stems, and characters of scripts without blanks."""
    rest, runs = cut(normal(text))
    return {*words_analyzer().analyze(rest), *(character for run in runs for character in run)}


def _chosen(hits: Sequence[Hit], question: Question, limit: int) -> list[Hit]:
    """The matches to show: the best; or of each video its first and last, where the question wants those."""
    if not question.wanted & {"first", "last"}:
        return list(hits[:limit])
    in_time = sorted(hits, key=lambda h: (h.event["start_us"], h.event["end_us"]))
    first = {h.event["video_id"]: h for h in reversed(in_time)}
    last = {h.event["video_id"]: h for h in in_time}
    chosen = []
    for video_id in list(dict.fromkeys(h.event["video_id"] for h in hits))[:limit]:
        ends = [
            *([first[video_id]] if "first" in question.wanted else []),
            *([last[video_id]] if "last" in question.wanted else []),
        ]
        chosen += [h for i, h in enumerate(ends) if h not in ends[:i]]
    return chosen


def _with_neighbours(query: Query, hit: Hit, question: Question, around: int, before: int) -> list[Evidence]:
    """A match and what the question wants around it, in order of time, numbered from `before` on."""
    event, wanted = hit.event, question.wanted
    anchor, of = Anchor(event), {"video": event["video_id"], "run": event["run_id"]}
    rows: list[tuple[str, dict[str, Any]]] = []
    if "before" in wanted:
        rows += [("before", r) for r in query.before(when=anchor, count=around, **of).to_pylist()]
    rows.append(("match", event))
    if "while" in wanted:
        rows += [("while", r) for r in query.meanwhile(anchor=anchor, **of).slice(0, around).to_pylist()]
    if "next" in wanted:
        rows += [("next", r) for r in query.after(when=anchor, count=around, **of).to_pylist()]
    match = before + 1 + [role for role, _ in rows].index("match")
    return [Evidence(before + 1 + i, role, match, row, hit.name) for i, (role, row) in enumerate(rows)]
