"""Answers as a person or a program wants them: table, json, jsonl, csv, parquet; to the screen or into a file.

Rows are dictionaries. pyarrow and rich are imported only for the formats that need them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from pipeline.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
FORMATS = ("table", "json", "jsonl", "csv", "parquet")


def add_format(parser: argparse.ArgumentParser) -> None:
    """The arguments --format and --out."""
    parser.add_argument("--format", choices=FORMATS, default="table", help="how to write the answer (default: table)")
    parser.add_argument("--out", metavar="FILE", help="write the answer there (parquet: needed on a terminal)")


def write(rows: Sequence[Row], args: argparse.Namespace, arrow: Callable[[], pa.Table]) -> None:
    """Write rows as --format (json, jsonl, csv or parquet) says. `arrow` gives them with their types, for parquet."""
    if args.format == "parquet":
        import pyarrow.parquet as pq

        with binary(args.out) as sink:
            pq.write_table(arrow(), sink)
        return
    with text(args.out) as out:
        if args.format == "json":
            json.dump(list(rows), out, ensure_ascii=False, indent=1, default=str)
            out.write("\n")
        elif args.format == "jsonl":
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        else:
            import csv

            names = list(rows[0]) if rows else arrow().column_names
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([_flat(row[name]) for name in names] for row in rows)


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def print_table(
    rows: Sequence[Sequence[object]], columns: Sequence[str | tuple[str, str]], args: argparse.Namespace
) -> None:
    """A table for a person. A column is its heading, or (heading, "right" or "fold": the one to wrap)."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        heading, how = (column, "") if isinstance(column, str) else column
        table.add_column(
            heading,
            justify="right" if how == "right" else "left",
            overflow="fold",
            no_wrap=how != "fold",
            ratio=1 if how == "fold" else None,
        )
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    with text(args.out) as out:
        # Without a terminal nobody wraps: programs and pagers want one line per row.
        width = None if out.isatty() else max(80, 4 * len(columns) + max((_width(r) for r in rows), default=0))
        Console(file=out, width=width, soft_wrap=False, highlight=False).print(table)


def _width(row: Sequence[object]) -> int:
    return sum(3 * len(str(cell)) for cell in row)


def printable(value: str) -> str:
    """Text that cannot move the cursor or colour the screen, whatever a video's name or a model's answer holds."""
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else " " if c in "\n\t\r" else "\ufffd" for c in value)


def hms(us: int | None) -> str:
    """h:mm:ss.mmm, rounded down."""
    if us is None:
        return ""
    sign, ms = ("-", -us // 1000) if us < 0 else ("", us // 1000)
    seconds, ms = divmod(ms, 1000)
    return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms:03}"


@contextlib.contextmanager
def text(path: str | None) -> Iterator[IO[str]]:
    """The file to write text to, or standard output. Raises UsageError where there is none."""
    if path is None or path == "-":
        _check_open()
        yield sys.stdout
        return
    with _opened(path, "w") as file:
        yield file


@contextlib.contextmanager
def binary(path: str | None) -> Iterator[IO[bytes]]:
    """The file to write bytes to, or standard output where that is not a terminal. Raises UsageError."""
    if path is None or path == "-":
        _check_open()
        if sys.stdout.isatty():
            raise UsageError("parquet is not for a terminal: add --out FILE")
        yield sys.stdout.buffer
        return
    with _opened(path, "wb") as file:
        yield file


def _check_open() -> None:
    if sys.stdout is None:  # as the shell's `>&-` has it
        raise UsageError("standard output is closed: name a file with --out FILE")


@contextlib.contextmanager
def _opened(path: str, mode: str) -> Iterator[Any]:
    try:
        with open(path, mode, encoding="utf-8" if mode == "w" else None) as file:
            yield file
    except OSError as error:
        raise UsageError(f"{path}: cannot write: {error.strerror or error}") from error
