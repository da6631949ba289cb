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

import pyarrow as pa

from pipeline.clock import format_time
from pipeline.errors import UsageError
from pipeline.log.lookup import Filter
from pipeline.query import Anchor, Match, Query, as_table
from pipeline.query.names import LISTED
from pipeline.query.reading import reaching
from pipeline.search.named import files_in, named_in
from pipeline.search.question import Question, nothing_in, understand
from pipeline.search.search import Hit, Search
from pipeline.search.span import OPEN_US, span_of_part
from pipeline.search.topic import COUNTED, of_topic
from pipeline.search.wish import check_length


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
    """What a question found. `exact`: the matches hold every word of the topic, or lie at the time asked about where
    it has none; else they come nearest. `fits`: they have to do with the topic; else nothing has, and they are what
    goes on at the time asked about. `total`: how many matches there are (COUNTED: or more), `videos`: how many in each
    video, of which `evidence` shows some; `left`: how many videos were not looked at for want of time."""

    question: Question
    exact: bool
    total: int
    videos: dict[str, int]
    evidence: tuple[Evidence, ...]
    left: int = 0
    fits: bool = True


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

    Raises UsageError: nothing to look for in the question, unknown video or run; LogError: damaged log or index;
    NotIndexed: one of the videos is not in the index yet.
    """
    if limit < 1 or around < 1:
        raise UsageError("ask for one event at least")
    check_length(text)
    names, rest = _named(search, query, text)
    video = _both(query, names, video, run)
    question = replace(understand(rest, whole=video is not None), text=text, videos=tuple(names))
    question = _placed(question, query, video, run)
    exact, fits, left = not question.topic, True, 0
    hits: list[Hit] = []
    if question.topic:
        narrowed: dict[str, Any] = {"kinds": kinds, "run": run}
        if video is not None:
            narrowed["owners"] = [(m.entry.video_id, m.entry.run_id) for m in query.matches(video, run)]
        narrowed |= {"start_us": question.start_us, "end_us": question.end_us}
        topic, exact, hits = of_topic(search, question.topic, narrowed)
        question = replace(question, topic=topic)
        if not topic and question.start_us is None:
            if video is None:
                raise nothing_in(text)
            question = replace(question, start_us=0, end_us=OPEN_US)
    if not hits and question.start_us is not None:
        fits = not question.topic
        hits, left = _at_time(query, question, query.matches(video, run), Filter(kinds), within_s)
    chosen = _chosen(hits, question, limit)
    evidence: list[Evidence] = []
    for hit in chosen:
        evidence += _with_neighbours(query, hit, question, around, len(evidence))
    counts = Counter(h.name for h in hits).most_common()
    return Found(question, exact, len(hits), dict(counts), tuple(evidence), left, fits)


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


def _placed(question: Question, query: Query, video: str | Sequence[str] | None, run: str | None) -> Question:
    """The question with the time of the last seconds, or of the part, that it asks about: they need a video with an
    end. The beginnings and ends of several videos are their first and last events."""
    if question.last_us is None and question.part is None:
        return question
    said = f"the last {format_time(question.last_us)}" if question.last_us is not None else f"the {question.part}"
    matches = query.matches(video, run)
    if len(matches) != 1:
        if question.part is None or (not question.topic and question.part not in ("begin", "end")):
            raise UsageError(f"{said} of which of {len(matches)} videos? Name one of them")
        wanted = question.wanted | {"begin": {"first"}, "end": {"last"}}.get(question.part, set())
        if question.topic:
            return replace(question, wanted=wanted, start_us=None, end_us=None)
        return replace(question, wanted=wanted)
    match = matches[0]
    duration_us = match.entry.duration_us
    if duration_us is None:
        raise UsageError(f"{match.name}: the log does not know how long it is, so not what {said} of it is")
    if question.part is not None:
        start_us, end_us = span_of_part(question.part, duration_us)
        return replace(question, start_us=start_us, end_us=end_us)
    assert question.last_us is not None
    return replace(question, start_us=max(0, duration_us - question.last_us))


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
        rows, room = as_table(batches), COUNTED - len(hits)
        if rows.num_rows > room:  # both ends: what was first and last is in them
            rows = pa.concat_tables([rows.slice(0, room - room // 2), rows.slice(rows.num_rows - room // 2)])
        hits += [Hit(row, 1.0, ("time",), match.name) for row in rows.to_pylist()]
        if len(hits) >= COUNTED:
            return hits, 0
    return hits, len(matches) - looked_at


def _chosen(hits: Sequence[Hit], question: Question, limit: int) -> list[Hit]:
    """The matches to show: the best; or of each video its first and last, where the question wants those."""
    if not question.wanted & {"first", "last"}:
        return list(hits[-limit:] if question.part == "end" and not question.topic else hits[:limit])
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
