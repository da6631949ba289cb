"""secondsight sql: a SQL query over an event log."""

from __future__ import annotations

import argparse

from jobs.output import add_format, print_table, write

DESCRIPTION = """\
Ask an event log in SQL (DuckDB).

  secondsight sql LOG "select kind, count(*) from events group by kind order by 2 desc"
  secondsight sql LOG "select uris[1], reason from videos where status = 'failed'" --format csv

Views: events, videos, windows, runs, names. `describe events` style questions: "select * from (describe events)".
Times in columns named *_us are microseconds on the video's timeline, in *_at_us of Unix time; attributes, config and
totals are JSON (attributes->>'level'). A video watched by several runs has rows of each: narrow by run_id.

The log is only read: other statements are refused, and files beyond the log are out of reach."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("sql", metavar="SQL", help="one SELECT (or WITH ... SELECT)")
    parser.add_argument("--version", metavar="N", type=int, help="ask an earlier version of the log (default: newest)")
    add_format(parser)


def main(args: argparse.Namespace) -> int:
    from pipeline.log import EventLog
    from pipeline.log.sql import plain, rows_of, select

    table = select(EventLog.open(args.log).snapshot(args.version), args.sql)
    rows = rows_of(table)
    if args.format == "table":
        numeric = [str(f.type).startswith(("int", "uint", "float", "double", "decimal")) for f in table.schema]
        columns = [(n, "right" if right else "fold") for n, right in zip(table.column_names, numeric, strict=True)]
        print_table(rows, columns, args)
    else:
        if args.format != "csv":
            rows = [tuple(map(plain, row)) for row in rows]
        write([dict(zip(table.column_names, row, strict=True)) for row in rows], args, lambda: table)
    return 0
