"""The `secondsight` command. Each subcommand is one module of jobs/, imported only when it is asked for.

A command module defines `DESCRIPTION`, `add_arguments(parser)` and `main(args) -> int` (the exit status).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

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
        else:
            commands.add_parser(known, help=line)
    args = overview.parse_args(arguments)
    try:
        status = int(args.main(args))
        sys.stdout.flush()
        return status
    except SecondsightError as error:
        print(f"secondsight: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader went away (`| head`): not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("secondsight: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
