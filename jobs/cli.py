"""The `secondsight` command. Each subcommand is one module of jobs/, imported only when it is asked for.

A command module defines `DESCRIPTION`, `add_arguments(parser)` and `main(args) -> int` (the exit status); `WORDS` where
one of its arguments (a list) takes any words, those that begin with a dash among them.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
from typing import Any, TextIO

from pipeline.errors import SecondsightError

#: name -> (module, one line of help), in the order a person meets them.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("jobs.run", "watch an archive and write what happens into an event log"),
    "submit": ("jobs.submit", "send a run to a Ray cluster, follow it, stop it, resume it"),
    "top": ("jobs.top", "runs as they go, live in the terminal"),
    "query": ("jobs.query", "what happened at, between, before or after a time"),
    "search": ("jobs.search", "events by what they say: words and, with an embedder, meaning"),
    "ask": ("jobs.ask", "a question in your words, answered from the events, with citations"),
    "log": ("jobs.log", "runs and videos of an event log, and what failed and why"),
    "sql": ("jobs.sql", "run a SQL query over an event log"),
    "serve": ("jobs.serve.command", "a web page of the archive, and the questions over HTTP"),
    "clip": ("jobs.clip", "cut an event, or any span, out of its video"),
    "frame": ("jobs.frame", "the still at a time of a video of the log"),
    "sheet": ("jobs.sheet", "a whole video in one picture, with its events as captions"),
    "timeline": ("jobs.timeline", "a video's events drawn over its time"),
    "export": ("jobs.export", "events as ActivityNet JSON, WebVTT, SRT, CSV or FiftyOne labels"),
    "frames": ("jobs.frames", "write the very stills that a model would see"),
    "forecast": ("jobs.forecast", "hours, GPU-hours, storage, cost and memory of a run, before it begins"),
    "evaluate": ("jobs.evaluate", "score a log against ground truth"),
    "demo": ("jobs.demo.command", "make a small archive, watch it, and ask it a question"),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command line. Returns the exit status: 0, 1 on an error said in one line, 2 on wrong usage."""
    arguments = sys.argv[1:] if argv is None else argv
    overview = argparse.ArgumentParser(
        prog="secondsight",
        description="Every second of a video archive, queryable.",
        epilog="`secondsight COMMAND --help` explains a command.",
    )
    commands = overview.add_subparsers(dest="command", metavar="COMMAND", required=True)
    name = next((a for a in arguments if not a.startswith("-")), None)
    words: str | None = None
    for known, (module_name, line) in COMMANDS.items():
        if known == name:
            module = importlib.import_module(module_name)
            parser = commands.add_parser(
                known,
                help=line,
                description=module.DESCRIPTION,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(parser)
            parser.set_defaults(main=module.main)
            words = getattr(module, "WORDS", None)
        else:
            commands.add_parser(known, help=line)
    args = overview.parse_args(arguments) if words is None else _with_words(overview, arguments, words)
    before = sys.stdout
    try:
        sys.stdout = _output(before, getattr(args, "format", "table"))
        status = int(args.main(args))
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except _OutputError as error:
        _drop_output()
        print(f"secondsight: standard output cannot be written: {error}", file=sys.stderr)
        return 1
    except SecondsightError as error:
        print(f"secondsight: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader went away (`| head`): not an error of ours
        _drop_output()
        return 0
    except KeyboardInterrupt:
        print("secondsight: interrupted", file=sys.stderr)
        return 130
    finally:
        sys.stdout = before


def _with_words(parser: argparse.ArgumentParser, arguments: list[str], name: str) -> argparse.Namespace:
    """The arguments, where `-word` is no option, and words may stand behind options: all go into the list `name`."""
    # What begins with a space is no option to argparse, and a word between others keeps its meaning.
    spaced = [f" {a}" if re.match(r"-[^-]", a) and a != "-h" else a for a in arguments]
    args, rest = parser.parse_known_args(spaced)
    at = rest.index("--") if "--" in rest else len(rest)
    if wrong := [a for a in rest[:at] if a.startswith("--")]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    for key, value in vars(args).items():
        if isinstance(value, list):
            setattr(args, key, [_unspaced(each) for each in value])
        else:
            setattr(args, key, _unspaced(value))
    getattr(args, name).extend(map(_unspaced, rest[:at] + rest[at + 1 :]))
    return args


def _unspaced(value: Any) -> Any:
    return value[1:] if isinstance(value, str) and value.startswith(" -") else value


class _OutputError(Exception):
    """Standard output could not be written: not an OSError, which would be taken for one of a file that is read."""


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _OutputError(error.strerror or str(error)) from error


def _output(stdout: TextIO, form: str) -> TextIO:
    """Standard output whose errors are told from others, and which takes every character.

    For programs it is UTF-8, as a file is, whatever the locale; for people what their terminal has not is escaped.
    """
    if isinstance(stdout, io.TextIOWrapper):
        encoding = None if form in ("table", "text") else "utf-8"
        stdout.reconfigure(encoding=encoding, errors="backslashreplace")
        if isinstance(stdout.buffer, io.BufferedWriter | io.FileIO):  # not a test's
            raw = _Output(stdout.fileno(), "w", closefd=False)
            return io.TextIOWrapper(
                raw if stdout.write_through else io.BufferedWriter(raw),  # as under `python -u`
                stdout.encoding,
                stdout.errors,
                line_buffering=stdout.line_buffering,
                write_through=stdout.write_through,
            )
    return stdout


def _drop_output() -> None:
    """Nobody reads it: what is held of it would be tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
