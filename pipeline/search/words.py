"""The index of words: a tantivy index of events, and of the videos and runs (owners) that they belong to.

Four kinds of documents: an event (all its filters, and its whole row to show), an owner (a video in a run: an `Owner`),
a name that a video was found under later, and one `state` (how much of the log is in the index). All of an update
appears in one commit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tantivy
from tantivy import FieldType, Query

from pipeline.errors import LogError
from pipeline.search.named import parts_of
from pipeline.search.owner import Owner, State, hashed, run_key
from pipeline.search.rows import packed, unpacked
from pipeline.search.terms import blank_analyzer, characters, cut, normal, pairs, words_analyzer

#: Raised when an index made by older code is of no use: it lies in a folder of this name and is made anew.
FORMAT = "words-3"

#: Owners that a reader remembers.
OWNERS_KNOWN = 50_000

#: Bytes of events that are gathered before they are written out.
HEAP_BYTES = 64 << 20


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("words", tokenizer_name="words")
    builder.add_text_field("characters", tokenizer_name="blanks")
    builder.add_text_field("pairs", tokenizer_name="blanks", index_option="freq")
    builder.add_text_field("kind", tokenizer_name="raw", index_option="basic")
    for name in ("owner", "run", "text", "is_owner", "is_owner_of", "is_name", "named"):
        builder.add_integer_field(name, indexed=True, fast=True)
    for name in ("start_us", "until_us"):
        builder.add_integer_field(name, fast=True)
    builder.add_float_field("confidence", fast=True)
    builder.add_text_field("state", tokenizer_name="raw", index_option="basic")
    builder.add_bytes_field("row", stored=True)
    return builder.build()


class WordIndex:
    """One index in a folder. Reading is thread-safe; writing is for one at a time (place.py's lock)."""

    def __init__(self, folder: Path) -> None:
        """Opens it, or makes an empty one. Raises LogError for one that is damaged."""
        self.folder = folder / FORMAT
        self.schema = _schema()
        with reading(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._index = tantivy.Index(self.schema, str(self.folder))
            self._index.register_tokenizer("words", words_analyzer())
            self._index.register_tokenizer("blanks", blank_analyzer())
            self._index.config_reader("manual")
            self._seen: object = None
            self._view = View(self, self._index.searcher())

    # -- reading

    def view(self) -> View:
        """The newest commit, whichever process made it."""
        with reading(self.folder):
            status = os.stat(self.folder / "meta.json")
            now = (status.st_mtime_ns, status.st_ino, status.st_size)
            if now != self._seen:
                self._index.reload()
                self._view, self._seen = View(self, self._index.searcher()), now
            return self._view

    def state(self) -> State | None:
        """How far the newest commit has come; None for an empty one."""
        return self.view().state

    def any_of(self, field: str, values: Iterable[int]) -> Query:
        """The documents that have one of these numbers in a field; of no score of their own."""
        return Query.const_score_query(Query.term_set_query(self.schema, field, list(values)), 0.0)

    def any_kind(self, kinds: Iterable[str]) -> Query:
        return Query.const_score_query(Query.term_set_query(self.schema, "kind", list(kinds)), 0.0)

    def range(self, field: str, low: float | None = None, below: float | None = None) -> Query:
        """The documents with `low` <= field < `below`."""
        kind = FieldType.Float if field == "confidence" else FieldType.Integer
        found = Query.range_query(
            self.schema, field, kind, lower_bound=low, upper_bound=below, include_upper=below is None
        )
        return Query.const_score_query(found, 0.0)

    # -- writing

    def writer(self) -> Writer:
        """To be closed. Raises LogError where another process writes without the lock."""
        try:
            return Writer(self._index.writer(heap_size=HEAP_BYTES, num_threads=1), self)
        except ValueError as error:
            raise LogError(f"{self.folder}: the search index cannot be written to: {_said(error)}") from error


class View:
    """One commit of an index, which stays as it is while it is read."""

    def __init__(self, index: WordIndex, searcher: tantivy.Searcher) -> None:
        self.index, self.searcher = index, searcher
        self._owners: dict[int, Owner] = {}

    @cached_property
    def state(self) -> State | None:
        """How far the index has come; None for an empty one."""
        asked = Query.term_query(self.index.schema, "state", "state", index_option="basic")
        with reading(self.index.folder):
            found = self.searcher.search(asked, 1).hits
            return State(**json.loads(self._kept(found[0][1]))) if found else None

    def owners(self, keys: Sequence[int]) -> dict[int, Owner]:
        """The owners of these keys."""
        known = self._owners if len(self._owners) < OWNERS_KNOWN else {}
        missing = [key for key in keys if key not in known]
        if missing:
            known.update({o.key: o for o in self._found(self.index.any_of("is_owner", missing), len(missing))})
        self._owners = known
        return {key: known[key] for key in keys}

    def has(self, owners: Collection[int]) -> bool:
        """Whether all of these owners are in the index."""
        found = self.searcher.search(self.index.any_of("is_owner", owners), 1)
        return int(found.count) >= len(set(owners))  # type: ignore[attr-defined]  # missing in its stubs

    def owners_of(self, videos: Sequence[int]) -> list[Owner]:
        """The owners that belong to these videos (their hashed ids)."""
        return self._found(self.index.any_of("is_owner_of", videos))

    def named(self, parts: Collection[str]) -> list[tuple[str, str]]:
        """(whole name, video_id) of the videos that are called so (named.py), one for each of their names."""
        found = set()
        for row in self._rows(self.index.any_of("named", [hashed(part) for part in parts])):
            if isinstance(row, list):
                found.add((row[0], row[1]))
            else:
                found |= {(name, row["video_id"]) for name in (row["name"], *row["others"])}
        named = [(name, video_id) for name, video_id in sorted(found) if not set(parts).isdisjoint(parts_of(name))]
        there = {owner.video_id for owner in self.owners_of(list({hashed(video_id) for _, video_id in named}))}
        return [(name, video_id) for name, video_id in named if video_id in there]

    def all_owners(self) -> list[tuple[int, int]]:
        """(key, finished_at_us) of every owner in the index."""
        return [(owner.key, owner.finished_at_us) for owner in self._found(Query.exists_query("is_owner"))]

    def _found(self, query: Query, most: int | None = None) -> list[Owner]:
        """Every owner that a query finds (`most`: which are no more than this)."""
        return [Owner(**row) for row in self._rows(query, most)]

    def _rows(self, query: Query, most: int | None = None) -> list[Any]:
        """What is kept of the owners and names that a query finds."""
        if most is None:
            most = int(self.searcher.search(query, 1).count)  # type: ignore[attr-defined]  # missing in its stubs
        hits = self.searcher.search(query, most, count=False).hits if most else []
        return [json.loads(self._kept(address)) for _, address in hits]

    def events(self, addresses: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows of events, without video and run."""
        return [unpacked(self._kept(address)) for address in addresses]

    def _kept(self, address: Any) -> bytes:
        return self.searcher.doc(address).get_first("row") or b"null"


class Writer:
    """Changes of an index, which appear together with `commit`."""

    def __init__(self, writer: tantivy.IndexWriter, index: WordIndex) -> None:
        self._writer, self._index = writer, index

    def remove(self, owner: int) -> None:
        """An owner and all its events."""
        self._writer.delete_documents_by_term("owner", owner)
        self._writer.delete_documents_by_term("is_owner", owner)

    def clear(self) -> None:
        self._writer.delete_all_documents()

    def add_owner(self, owner: Owner) -> None:
        document = tantivy.Document()
        document.add_integer("is_owner", owner.key)
        document.add_integer("is_owner_of", hashed(owner.video_id))
        for part in {part for name in (owner.name, *owner.others) for part in parts_of(name)}:
            document.add_integer("named", hashed(part))
        document.add_bytes("row", json.dumps(asdict(owner), ensure_ascii=False).encode("utf-8", "replace"))
        self._writer.add_document(document)

    def add_name(self, name: str, video_id: str) -> None:
        """A name that a video was found under later."""
        key = hashed(video_id, name)
        self._writer.delete_documents_by_term("is_name", key)
        document = tantivy.Document()
        document.add_integer("is_name", key)
        for part in parts_of(name):
            document.add_integer("named", hashed(part))
        document.add_bytes("row", json.dumps([name, video_id], ensure_ascii=False).encode("utf-8", "replace"))
        self._writer.add_document(document)

    def add_events(self, columns: Mapping[str, Sequence[Any]], owners: Mapping[tuple[str, str], int]) -> int:
        """The rows, column by column, that belong to `owners`; returns how many."""
        names = ("video_id", "run_id", "kind", "text", "start_us", "end_us", "confidence")
        said = lru_cache(1024)(_Said.of)  # events say the same again and again
        count = 0
        for (video_id, run_id, kind, text, start, end, confidence), row in zip(
            zip(*(columns[name] for name in names), strict=True), packed(columns), strict=True
        ):
            owner = owners.get((video_id, run_id))
            if owner is None:
                continue
            what = said(kind or "", text or "")
            document = tantivy.Document()
            document.add_text("words", what.words)
            if what.pairs is not None:
                document.add_text("characters", what.characters)
                document.add_text("pairs", what.pairs)
            document.add_text("kind", kind or "")
            document.add_integer("owner", owner)
            document.add_integer("run", run_key(run_id))
            document.add_integer("text", what.key)
            document.add_integer("start_us", start)
            document.add_integer("until_us", max(end, start + 1))
            if confidence is not None:
                document.add_float("confidence", confidence)
            document.add_bytes("row", row)
            self._writer.add_document(document)
            count += 1
        return count

    def set_state(self, state: State) -> None:
        self._writer.delete_documents_by_term("state", "state")
        document = tantivy.Document()
        document.add_text("state", "state")
        document.add_bytes("row", json.dumps(asdict(state)).encode())
        self._writer.add_document(document)

    def commit(self) -> None:
        self._writer.commit()

    def close(self) -> None:
        """Ends the writer, when it has merged what it merges."""
        self._writer.wait_merging_threads()


@dataclass(slots=True)
class _Said:
    """What is indexed of a kind and a text. `pairs`: None where all of it has blanks between its words."""

    words: str
    characters: str
    pairs: str | None
    key: int

    @classmethod
    def of(cls, kind: str, text: str) -> _Said:
        said, label = normal(text), normal(kind)
        rest, scripts = cut(said)
        if not label.isascii():
            scripts = [*scripts, *cut(label)[1]]
        neighbours = " ".join(pair for run in scripts for pair in pairs(run)) if scripts else None
        return cls(f"{rest}\n{label.replace('_', ' ')}", characters(scripts), neighbours, text_key(said))


def text_key(normal_text: str) -> int:
    """The number of a text: events that say the same have the same."""
    return hashed(normal_text)


def remove_index(folder: Path) -> None:
    """Delete the index of words in a folder, damaged or not; its readers keep what they have open."""
    shutil.rmtree(folder / FORMAT, ignore_errors=True)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Around reading an index: whatever its damaged files make tantivy raise becomes a LogError that names it."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise damaged(folder, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust: no Exception, so that nobody catches it by mistake
            raise
        raise damaged(folder, error) from error


def damaged(folder: Path, error: BaseException) -> LogError:
    return LogError(
        f"{folder}: the search index is damaged ({_said(error)}); `secondsight search LOG --rebuild` makes it again"
    )


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
