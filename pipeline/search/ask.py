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
from pipeline.log.lookup import Filter
from pipeline.query import Anchor, Match, Query, as_table
from pipeline.query.names import LISTED
from pipeline.query.reading import reaching
from pipeline.search.named import files_in, named_in
from pipeline.search.question import Question, understand
from pipeline.search.search import Hit, Search
from pipeline.search.span import OPEN_US
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
    which `evidence` shows some; `left`: how many videos were not looked at for want of time."""

    question: Question
    exact: bool
    total: int
    videos: dict[str, int]
    evidence: tuple[Evidence, ...]
    left: int = 0


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
    within_s: float | None = None,
) -> Found:
    """The events that answer a question: up to `limit` of its topic, with up to `around` before, during and after each
    where the question wants them. `video`, `kinds` and `run` narrow the topic, as in Search.find; so do videos that the
    question names. `within_s`: how long many videos may be looked through for what goes on at a time.

    Raises UsageError: nothing to look for in the question, unknown video or run; LogError: damaged log or index.
    """
    if limit < 1 or around < 1:
        raise UsageError("ask for one event at least")
    check_length(text)
    names, rest = _named(search, query, text)
    video = _both(query, names, video, run)
    question = replace(understand(rest, whole=video is not None), text=text, videos=tuple(names))
    question = _ending(question, query, video, run)
    if question.topic:
        left, (exact, hits) = 0, _of_topic(search, question, video, kinds, run)
    else:
        exact = True
        hits, left = _at_time(query, question, query.matches(video, run), Filter(kinds), within_s)
    chosen = _chosen(hits, question, limit)
    evidence: list[Evidence] = []
    for hit in chosen:
        evidence += _with_neighbours(query, hit, question, around, len(evidence))
    counts = Counter(h.name for h in hits).most_common()
    return Found(question, exact, len(hits), dict(counts), tuple(evidence), left)


def _named(search: Search, query: Query, text: str) -> tuple[list[str], str]:
    """(whole names of the videos that a question names, the question without them). Raises UsageError for the name of
    a file that the log does not hold."""
    names, rest = named_in(text, search.called, lambda _: False)
    if names and understand(rest, whole=True).topic:  # which the words of a name may be part of, where events say them
        names, rest = named_in(text, search.called, search.is_said)
    for file in files_in(rest):
        if not search.is_said(file):
            names.append(query.resolve(file)[1])  # a name that its content was found under later
            rest = rest.replace(file, " ")
    return names, rest


def _both(
    query: Query, names: Sequence[str], video: str | Sequence[str] | None, run: str | None
) -> str | Sequence[str] | None:
    """The videos that a question is put to and that it names, where it does both."""
    if not names or video is None:
        return names or video
    put_to = {m.entry.video_id for m in query.matches(video, run)}
    both = [name for name in names if query.find(name, run).entry.video_id in put_to]
    if not both:
        raise UsageError(f"the question names {', '.join(names[:LISTED])}, and is put to another video")
    return both


def _ending(question: Question, query: Query, video: str | Sequence[str] | None, run: str | None) -> Question:
    """The question with the time of the last seconds that it asks about: they need a video with an end."""
    if question.last_us is None:
        return question
    matches = query.matches(video, run)
    if len(matches) != 1:
        raise UsageError(
            f"the last {format_time(question.last_us)} of which of {len(matches)} videos? Name one of them"
        )
    match = matches[0]
    if match.entry.duration_us is None:
        raise UsageError(f"{match.name}: the log does not know how long it is, so not what its last seconds are")
    return replace(question, start_us=max(0, match.entry.duration_us - question.last_us))


def _at_time(
    query: Query, question: Question, matches: Sequence[Match], wanted: Filter, within_s: float | None
) -> tuple[list[Hit], int]:
    """What goes on in the videos at the time asked about, and how many of them were not looked at."""
    start = question.start_us or 0
    end = OPEN_US if question.end_us is None else question.end_us
    if len(matches) > 1:
        matches = reaching(matches, start)
    hits: list[Hit] = []
    looked_at = 0
    for match, batches in query.each(matches, lambda m: query.overlapping(m, start, end, wanted), within_s):
        looked_at += 1
        for batch in batches:
            rows = as_table([batch.slice(0, min(batch.num_rows, COUNTED - len(hits)))]).to_pylist()
            hits += [Hit(row, 1.0, ("time",), match.name) for row in rows]
        if len(hits) >= COUNTED:
            return hits, 0
    return hits, len(matches) - looked_at


def _of_topic(
    search: Search,
    question: Question,
    video: str | Sequence[str] | None,
    kinds: Collection[str] | None,
    run: str | None,
) -> tuple[bool, list[Hit]]:
    narrowed: dict[str, Any] = {"video": video, "kinds": kinds, "run": run}
    narrowed |= {"start_us": question.start_us, "end_us": question.end_us}
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
