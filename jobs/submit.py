"""`secondsight submit`: send a run to a Ray cluster, and look after it there."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jobs import run
from jobs.extras import needed
from jobs.package import Shipment, localise, run_actions, run_arguments, runtime_env
from model.registry import located
from pipeline.errors import UsageError
from pipeline.storage import local_path

DESCRIPTION = """\
Send a run to a Ray cluster through its job server, follow it, and look after it there.

Takes what `secondsight run` takes. Secondsight's own code travels along, and its requirements are installed on the
nodes with pip before the run begins (minutes, once per node); where the cluster's image holds both, say
--image-has-it. Paths must mean the same on every node: an object store, or a shared folder. Lists (@FILE, @-) and
prompt files are shipped.

The job's log is shown until it ends; Ctrl-C here ends the showing, not the job. A run that was stopped or lost its
cluster is begun again where it was by --resume, or by submitting the same again: what the event log holds is not
done twice.

Secrets are not sent along: they belong into the environment of the cluster's own nodes, on Kubernetes from its secrets
(docs/kubernetes.md, 3). The token of a served model (`--model openai:...`) is read on the node of the driver (the head,
unless --driver-cpus is given), from $OPENAI_API_KEY or what `--set token_variable=NAME` names; replicas get it from
there. Keys of an object store are read on every node.

A cluster that wants a token (Ray's token authentication) gets it from --token-file, else from where Ray itself looks:
$RAY_AUTH_TOKEN, $RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

exit status: that of the run (see `secondsight run --help`); 130 where the job was stopped

examples:
  secondsight submit s3://bucket/2026/ --log s3://bucket/log --address http://HEAD:8265
  secondsight submit @list.txt --log s3://bucket/log --image-has-it --no-wait
  secondsight submit --list
  secondsight submit --stop secondsight-20260131T154500-3fa2c1
"""

MARK = "secondsight"  # metadata: jobs of ours have it, with the version that sent them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run.add_arguments(parser)
    for action in parser._actions:
        if action.dest == "archive":
            action.nargs = "*"
        elif action.dest == "log":
            action.required = False
        elif action.dest == "address":
            action.help = "the job server: http://HEAD:8265 (default: $RAY_API_SERVER_ADDRESS, else $RAY_ADDRESS)"
    job = parser.add_argument_group("the job")
    job.add_argument("--no-wait", action="store_true", help="print the job's id and leave it to itself")
    job.add_argument("--job", metavar="ID", help="its id (default: made up from the time)")
    job.add_argument("--image-has-it", action="store_true", help="the nodes have Secondsight: ship no code, no pip")
    job.add_argument("--no-pip", action="store_true", help="ship the code, install nothing: the nodes have the rest")
    job.add_argument(
        "--extra", action="append", default=[], metavar="NAME", help="also install this extra of Secondsight"
    )
    job.add_argument("--pip", action="append", default=[], metavar="REQ", help="also install this with pip")
    job.add_argument("--module", action="append", default=[], metavar="PATH", help="also ship this Python code")
    job.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set in every process of the job, for all to see who may ask the job server: no secrets (see above)",
    )
    job.add_argument("--driver-cpus", type=float, default=0.0, metavar="N", help="CPUs reserved for the driver")
    after = parser.add_argument_group("jobs that were sent")
    which = after.add_mutually_exclusive_group()
    which.add_argument("--list", action="store_true", help="the jobs that Secondsight sent to this cluster")
    which.add_argument("--status", metavar="ID", help="where a job stands")
    which.add_argument("--logs", metavar="ID", help="what it printed; goes on until it ends (--no-wait: so far)")
    which.add_argument("--stop", metavar="ID", help="stop it, as by Ctrl-C: what is finished is in the event log")
    which.add_argument("--resume", metavar="ID", help="send an ended job again; it does what is missing")
    after.add_argument("--json", action="store_true", help="--list and --status: print JSON")
    server = parser.add_argument_group("the job server")
    server.add_argument("--token-file", metavar="FILE", help="holds the cluster's authentication token")
    server.add_argument("--ca", metavar="FILE", help="certificate of the authority to trust for https")
    server.add_argument("--insecure", action="store_true", help="https: trust any certificate")


def main(args: argparse.Namespace) -> int:
    from jobs.jobserver import JobServer, find_token

    looking = args.list or args.status or args.logs or args.stop or args.resume
    if looking and (args.archive or args.log):
        raise UsageError("--list, --status, --logs, --stop and --resume take no archive and no log")
    if not looking and not (args.archive and args.log):
        raise UsageError("submit what? Name an archive and --log, or one of --list, --status, --logs, --stop, --resume")
    if args.ca and not os.path.exists(args.ca):
        raise UsageError(f"--ca {args.ca}: no such file")
    address = args.address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        raise UsageError("--address: write the job server's address, such as http://HEAD:8265")
    server = JobServer(address, find_token(args.token_file), verify=args.ca or not args.insecure)
    if args.list:
        return _list(server, args.json)
    if args.status:
        return _status(server, args.status, args.json)
    if args.logs:
        return _logs(server, args.logs, wait=not args.no_wait)
    if args.stop:
        return _stop(server, args.stop)
    if args.resume:
        args = _arguments_of(server, args.resume, args)
    return _submit(server, args)


def _submit(server: Any, args: argparse.Namespace) -> int:
    job = args.job or f"secondsight-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    given = _as_given(args)
    with tempfile.TemporaryDirectory(prefix="secondsight-job-") as scratch:
        folder = Path(scratch)
        for notice in localise(args, folder):
            _say(notice)
        shipment = Shipment(
            code=not args.image_has_it,
            pip=not args.image_has_it and not args.no_pip,
            extras=sorted({*args.extra, *needed(args, [*args.archive, *_listed(folder)])}),
            more_pip=args.pip,
            modules=args.module,
            env=_env(args.env),
        )
        words = run_arguments(run_actions(_run_parser()), args)
        server.submit(
            # `exec`: the signal that stops the job goes to Python, not to a shell.
            f"exec python -m jobs.cli run {shlex.join(words)}",
            job,
            runtime_env=runtime_env(shipment, folder),
            metadata={MARK: _version(), "log": args.log, "archive": " ".join(args.archive)[:500], "given": given},
            entrypoint_num_cpus=args.driver_cpus or None,
        )
    if args.no_wait:
        print(job)
        _say(f"follow it with: secondsight submit --address {server.address} --logs {job}")
        return 0
    _say(f"job {job}")
    return _logs(server, job, wait=True)


def _logs(server: Any, job: str, wait: bool) -> int:
    from jobs.jobserver import exit_status

    if not wait:
        sys.stdout.write(server.logs(job))
        return 0
    server.job(job)  # an unknown one is an error at once
    try:
        details = server.follow(job, _write)
    except KeyboardInterrupt:
        _say(f"\n{job} goes on; --logs {job} shows it again, --stop {job} ends it")
        return 0
    status = details.status.value
    if status == "FAILED" and details.driver_exit_code is None:  # its log does not say why
        _say(f"{job}: {details.message or 'failed'}")
    elif status == "STOPPED":
        _say(f"{job} was stopped; --resume {job} does the rest")
    return exit_status(details)


def _stop(server: Any, job: str) -> int:
    before = server.job(job).status.value
    if before in ("SUCCEEDED", "FAILED", "STOPPED"):
        _say(f"{job} had ended already: {before.lower()}")
        return 0
    status = server.stop(job)
    print(f"{job}: {status.lower()}")
    return 0 if status in ("SUCCEEDED", "FAILED", "STOPPED") else 1


def _list(server: Any, as_json: bool) -> int:
    ours = [j for j in server.jobs() if (j.metadata or {}).get(MARK)]
    facts = [_facts(j) for j in ours]
    if as_json:
        print(json.dumps(facts, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("job", "status", "began", "lasted", "log", "archive"):
        table.add_column(column, overflow="fold" if column == "job" else "ellipsis", no_wrap=column != "job")
    for fact in facts:
        table.add_row(
            fact["job"], fact["status"], fact["began"] or "", fact["lasted"] or "", fact["log"], fact["archive"]
        )
    console = Console()
    console.print(table if facts else f"no jobs of Secondsight at {server.address}")
    return 0


def _status(server: Any, job: str, as_json: bool) -> int:
    from jobs.top import render_run, run_of

    facts = _facts(server.job(job))
    live = run_of(job, facts["log"])
    if as_json:
        print(json.dumps({**facts, "live": live.as_json() if live else None}, indent=2))
        return 0
    for name, value in facts.items():
        if value:
            print(f"{name:<8} {value}")
    if live:
        from rich.console import Console

        Console().print(render_run(live))
    return 0


def _facts(job: Any) -> dict[str, str]:
    from jobs.progress import duration

    metadata = job.metadata or {}
    began, ended = job.start_time, job.end_time
    now_ms = datetime.now(UTC).timestamp() * 1000
    return {
        "job": job.submission_id,
        "status": job.status.value.lower(),
        "message": " ".join((job.message or "").split()) if job.status.value in ("FAILED", "PENDING") else "",
        "began": f"{datetime.fromtimestamp(began / 1000, UTC):%Y-%m-%d %H:%M:%S}Z" if began else "",
        "lasted": duration(((ended or now_ms) - began) / 1000) if began else "",
        "log": metadata.get("log", ""),
        "archive": metadata.get("archive", ""),
    }


def _arguments_of(server: Any, job: str, now: argparse.Namespace) -> argparse.Namespace:
    """The arguments that a job was sent with, to be sent again with the job server's of now."""
    details = server.job(job)
    if details.status.value in ("PENDING", "RUNNING"):
        raise UsageError(f"{job} has not ended ({details.status.value.lower()}): nothing to resume")
    try:
        given = json.loads((details.metadata or {})["given"])
        directory, words = str(given["directory"]), [str(w) for w in given["words"]]
    except (KeyError, ValueError, TypeError):
        raise UsageError(f"{job} was not sent by `secondsight submit`: submit its run again") from None
    if "@-" in words:
        raise UsageError(f"{job} read its list from standard input: submit it again with the list")
    parser = argparse.ArgumentParser(prog="secondsight submit")
    add_arguments(parser)
    again = parser.parse_args(words)
    if relative := _relative(again):
        if not os.path.isdir(directory):
            raise UsageError(
                f"{job} was sent from {directory}, which is not here, and what {relative[0]} meant there is not known:"
                " resume it there, or submit it again"
            )
        os.chdir(directory)
    again.no_wait, again.job = now.no_wait, now.job
    return again


def _relative(args: argparse.Namespace) -> list[str]:
    """The files that arguments name by a path that means something else in another directory."""
    names = [*(name.removeprefix("@") for name in args.archive), args.log, args.forecast, *args.module]
    names += [args.prompt] if (args.prompt or "").endswith(".toml") else []
    names += [part.partition("=")[2] for part in (args.redact or "").split(",")]
    elsewhere = ("/", "~", "file://")
    return [name for name in names if name and local_path(name) is not None and not name.startswith(elsewhere)]


def _as_given(args: argparse.Namespace) -> str:
    """The arguments as they were given and where, for `--resume`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    kept = [a for a in run_actions(parser) if a.dest not in ("no_wait", "job", "token_file", "ca", "insecure")]
    model = located(args.model)  # a name of a hub, or a whole path: this machine knows which
    values = argparse.Namespace(**{**vars(args), "model": model})
    return json.dumps({"words": run_arguments(kept, values), "directory": os.getcwd()})


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser


def _listed(folder: Path) -> list[str]:
    """What the lists name that were shipped."""
    return [line for file in folder.glob("list*.txt") for line in file.read_text("utf-8", "replace").splitlines()]


def _env(pairs: Sequence[str]) -> dict[str, str]:
    env: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name.isidentifier():
            raise UsageError(f"--env {pair}: write NAME=VALUE, or NAME to take it from here")
        if not equals and name not in os.environ:
            raise UsageError(f"--env {name}: is not set here")
        env[name] = value if equals else os.environ[name]
    return env


def _version() -> str:
    try:
        return version("secondsight")
    except PackageNotFoundError:
        return "unknown"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


_say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)  # noqa: E731
