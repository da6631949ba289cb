"""What a person types into a search box, as a query of the index.

Words, all optional, the rarer the weightier, and weightier still where an event has all of them; "words in quotes"
stand beside each other; +word must be there and -word must not (so with quotes); word* is the beginning of a word.
Nothing else means anything, so that any text may be searched for as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tantivy import Occur, Query, Schema, Searcher

from pipeline.errors import UsageError
from pipeline.search.terms import cut, normal, pairs, plain_analyzer, well_formed, words_analyzer

#: A longer wish is a mistake (a pasted file); one of more words than this would look at every event of the log.
MAX_CHARACTERS, MAX_WORDS = 1000, 64

_PART = re.compile(r'(?P<sign>(?<!\S)[-+])?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')


@dataclass(frozen=True, slots=True)
class Wish:
    """The query, and the words that no event has (looked for with one letter changed)."""

    query: Query
    unknown: tuple[str, ...]


def check_length(text: str) -> None:
    """Raise UsageError for a text that is no wish but a file."""
    if len(text) > MAX_CHARACTERS:
        raise UsageError(
            f"a search of {len(text)} characters, beginning {text[:40]!r}: at most {MAX_CHARACTERS}, write fewer words"
        )


def understand(text: str, schema: Schema, searcher: Searcher) -> Wish:
    """The query that a text means. Raises UsageError where it has no word to look for, or far too many."""
    check_length(text)
    wanted: list[Query] = []
    required: list[Query] = []
    refused: list[Query] = []
    unknown: list[str] = []
    for part in _PART.finditer(normal(well_formed(text))):
        said = part["phrase"] if part["phrase"] is not None else part["word"]
        phrase = part["phrase"] is not None
        prefix = not phrase and said.endswith("*")
        found = _part(
            schema,
            searcher,
            said,
            phrase,
            phrase or part["sign"] == "+",
            prefix,
            None if part["sign"] == "-" else unknown,
        )
        {None: wanted, "+": required, "-": refused}[part["sign"]].extend(found)
    if not wanted and not required:
        raise UsageError(f"nothing to search for in {text!r}: write at least one word")
    if len(wanted) + len(required) > MAX_WORDS:
        raise UsageError(f"a search for {len(wanted) + len(required)} words: at most {MAX_WORDS}")
    clauses = [(Occur.Must, q) for q in required] + [(Occur.Should, q) for q in wanted]
    if len(wanted) > 1:
        clauses.append((Occur.Should, Query.boolean_query([(Occur.Must, q) for q in wanted])))
    query = clauses[0][1] if len(clauses) == 1 else Query.boolean_query(clauses)
    if refused:
        query = Query.boolean_query([(Occur.Must, query), *((Occur.MustNot, q) for q in refused)])
    return Wish(query, tuple(dict.fromkeys(unknown)))


def _part(
    schema: Schema, searcher: Searcher, said: str, phrase: bool, exact: bool, prefix: bool, unknown: list[str] | None
) -> list[Query]:
    """A clause for each word (one for the whole of a phrase); `exact`: all of a run of characters, not some pairs."""
    rest, runs = cut(said)
    words = words_analyzer().analyze(rest)
    found = [_run(schema, run, exact) for run in runs]
    if phrase and len(words) > 1:
        found.append(Query.phrase_query(schema, "words", list(words)))
    elif prefix and len(words) == 1:
        begun = {words[0], *plain_analyzer().analyze(rest)}  # the words of the index are stems: "leaving*" is "leav"
        starts = [Query.fuzzy_term_query(schema, "words", b, distance=0, prefix=True) for b in sorted(begun)]
        found.append(Query.boolean_query([(Occur.Should, q) for q in starts]))
    else:
        found += [_word(schema, searcher, word, unknown) for word in words]
    if phrase and len(found) > 1:
        return [Query.boolean_query([(Occur.Must, q) for q in found])]
    return found


def _word(schema: Schema, searcher: Searcher, word: str, unknown: list[str] | None) -> Query:
    if unknown is not None and len(word) >= 4 and searcher.doc_freq("words", word) == 0:
        unknown.append(word)
        return Query.fuzzy_term_query(schema, "words", word, distance=1)
    return Query.term_query(schema, "words", word)


def _run(schema: Schema, run: str, exact: bool) -> Query:
    if len(run) == 1:
        return Query.term_query(schema, "characters", run)
    phrase = Query.phrase_query(schema, "characters", list(run))
    if exact or len(run) == 2:
        return phrase
    terms = [(Occur.Should, Query.term_query(schema, "pairs", pair, index_option="freq")) for pair in pairs(run)]
    return Query.boolean_query([*terms, (Occur.Should, phrase)])
