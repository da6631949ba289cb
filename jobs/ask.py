"""secondsight ask: a question in a person's words, answered from the events of a log."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobs.kinds import hint
from jobs.output import hms, printable, text
from jobs.query import as_said, short
from jobs.search import brought_up
from pipeline.clock import format_time
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.search.answer import Answer
    from pipeline.search.ask import Evidence, Found

DESCRIPTION = """\
Ask an event log a question, in English or Chinese.

  secondsight ask LOG "when does the red circle leave, and what happens next?"
  secondsight ask LOG "how often does a train pass?" --video yard.mp4
  secondsight ask LOG "what happens in the last 30 seconds of yard.mp4?"
  secondsight ask LOG "红色圆形什么时候离开？接下来发生什么？"
  secondsight ask LOG "what happens before the crash?" --model openai:http://localhost:8000/v1#qwen

The words of the question find events; next/after, before, while, first, last and how often say what is shown around
them. Without --model that evidence is the answer. With one, the model puts it into words, and every sentence must cite
events that bear it out: what does not is left out; where the model does not answer, the evidence is shown and the
status is 3. $OPENAI_API_KEY is sent to the model's server, if it is set.

A question may name its videos (yard.mp4; only "in yard" where that can mean nothing else)."""

_ROLES = {"match": "", "before": "before it", "while": "meanwhile", "next": "next"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("question", metavar="QUESTION", nargs="+", help="the question")
    parser.add_argument("--video", metavar="NAME", action="append", help="only this video; several: give it again")
    parser.add_argument("--kind", metavar="KIND", action="append", help="only events of this kind; may be repeated")
    parser.add_argument("--run", metavar="ID", help="as this run saw it (default: each video's newest done run)")
    parser.add_argument("--limit", metavar="N", type=int, default=5, help="events that answer it (default: 5)")
    parser.add_argument("--around", metavar="N", type=int, default=3, help="events before, while, next (default: 3)")
    parser.add_argument("--model", metavar="openai:URL#NAME", help="who answers in words")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    parser.add_argument("--out", metavar="FILE", help="write the answer there")


def main(args: argparse.Namespace) -> int:
    from model.chat import ChatEndpoint
    from pipeline.query import Query
    from pipeline.search import Search
    from pipeline.search.answer import answer
    from pipeline.search.ask import ask

    chat = ChatEndpoint(args.model) if args.model else None
    search, question = Search(args.log), " ".join(args.question)
    brought_up(search)
    query = Query(args.log)
    found = ask(
        search,
        query,
        question,
        video=args.video,
        kinds=args.kind,
        run=args.run,
        limit=args.limit,
        around=args.around,
    )
    said, trouble = None, ""
    if chat is not None:
        try:
            said = answer(found, chat)
        except ModelError as error:  # what was found answers too
            trouble = f"{chat.name} gave no answer: {error}"
    with text(args.out) as out:
        if args.format == "json":
            json.dump(as_json(found, said, trouble), out, ensure_ascii=False, indent=1)
            out.write("\n")
        else:
            out.writelines(f"{printable(line)}\n" for line in _lines(found, said))
    if not found.evidence and args.kind:
        hint(args.log, query, query.matches(args.video, args.run), args.kind)
    if search.notice:
        print(f"({search.notice})", file=sys.stderr)
    if trouble:
        print(f"secondsight: {printable(trouble)}; this is what it would have been shown", file=sys.stderr)
    return 3 if trouble else 0


def as_json(found: Found, said: Answer | None, trouble: str = "") -> dict[str, Any]:
    """What was found, and the model's answer where one was asked (or why it gave none), as plain JSON values."""
    question = asdict(found.question) | {"wanted": sorted(found.question.wanted)}
    evidence = [{"number": e.number, "role": e.role, "of": e.of, **as_said(e.name, e.event)} for e in found.evidence]
    counts = {"exact": found.exact, "fits": found.fits, "total": found.total, "videos": found.videos}
    return {
        "question": question,
        **counts,
        "evidence": evidence,
        "answer": None if said is None else asdict(said),
        "note": trouble,
    }


def _lines(found: Found, said: Answer | None) -> list[str]:
    lines: list[str] = []
    if found.question.videos:
        lines = [f"(of {', '.join(short(name) for name in found.question.videos)}, which the question names)"]
    if not found.evidence:
        return [*lines, "No event of the log supports an answer."]
    if said is not None:
        if said.text:
            lines += [said.text, ""]
            lines += [f"  [{c.number}] {short(c.name)} at {format_time(c.time_us)}" for c in said.citations]
        else:
            lines.append(f"{said.model} gave no answer that the events support.")
        if said.struck:
            lines.append(f"  ({len(said.struck)} sentences left out: no event bears them out)")
        lines += ["", "Evidence:"]
    if "count" in found.question.wanted:
        from pipeline.search.topic import COUNTED

        more = " or more" if found.total >= COUNTED else ""
        lines.append(f"{found.total if found.exact else 'no'}{more} events fit")
        lines += [f"  {count} in {short(name)}" for name, count in found.videos.items() if found.exact]
        lines.append("")
    if not found.fits:
        lines.append("No event has these words; at that time goes on:")
    elif not found.exact:
        lines.append("No event has all of these words; nearest are:")
    lines += [_line(e) for e in found.evidence]
    if found.total > (shown := sum(e.role == "match" for e in found.evidence)):
        lines.append(f"  ({found.total - shown} more of these: raise --limit)")
    return lines


def _line(e: Evidence) -> str:
    span = f"{hms(e.event['start_us'])} - {hms(e.event['end_us'])}"
    what = f"{e.event['kind']}: {e.event['text']}"
    if e.role == "match":
        return f"[{e.number}] {short(e.name)}  {span}  {what}"
    return f"    [{e.number}] {_ROLES[e.role]:9}  {span}  {what}"
