"""secondsight serve: the event log over HTTP, and the web page."""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import sys
import webbrowser
from typing import Any

from jobs.serve.settings import LOOPBACK, Settings, checked_token
from pipeline.errors import SecondsightError, UsageError

DESCRIPTION = """\
Serve an event log: a web page to look at the archive, its videos and what happens in them, and the HTTP API under it.

  secondsight serve LOG                        http://127.0.0.1:8017, for this machine only
  secondsight serve LOG --host 0.0.0.0         for others too: prints an address with a token, which they need
  secondsight serve s3://bucket/log --root s3://bucket/archive

Only reads, also a log that a run is still writing. Videos are shown where the log names them, they lie below a root and
hold what was watched. The roots are, by default, what the log's runs were given (but no folder of the system, no whole
home folder and no hidden one: those only by --root); they are printed at the start. The API is described at /docs.html;
$SECONDSIGHT_TOKEN is the token where it is set. Anybody who has it can see all of the log and its videos; put TLS in
front where others listen."""

PORT = 8017


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free")
    parser.add_argument(
        "--root",
        action="append",
        metavar="FOLDER",
        help="show videos below this folder or s3:// prefix",
    )
    parser.add_argument("--model", metavar="openai:URL#NAME", help="who puts answers to questions into words")
    parser.add_argument(
        "--watcher", metavar="PATH", help="the checkpoint that watched, to search by picture (default: the bundled one)"
    )
    parser.add_argument("--no-token", action="store_true", help="ask nobody for a token, wherever they come from")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name by which clients call this server"
    )
    parser.add_argument("--secure-cookies", action="store_true", help="behind TLS: give cookies over it only")
    parser.add_argument("--open", action="store_true", help="show the page in a browser")
    parser.add_argument("--access-log", action="store_true", help="write a line for every request")


def main(args: argparse.Namespace) -> int:
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'secondsight[serve]'") from error
    from jobs.serve.app import create_app

    alone = args.host in LOOPBACK
    token = os.environ.get("SECONDSIGHT_TOKEN") or (None if alone else secrets.token_urlsafe(24))
    if args.no_token:
        token = None
    settings = Settings(
        args.log,
        None if token is None else checked_token(token),
        tuple(args.root) if args.root else None,
        # A token proves who asks. Without one, a page of another site could: by a name that points here.
        (*LOOPBACK, *(h.lower() for h in args.allow_host)) if alone else tuple(h.lower() for h in args.allow_host),
        model=args.model,
        watcher=args.watcher,
        secure=args.secure_cookies,
    )
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=args.host,
        port=args.port,
        log_level="info" if args.access_log else "warning",
        access_log=args.access_log,
        server_header=False,
        http="h11",
        h11_max_incomplete_event_size=2 << 20,  # an address that long is refused by our own message
        limit_concurrency=2 * settings.limits.in_flight,
        backlog=512,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=3,
        ws="none",
    )
    return _run(config, args, token)


def _run(config: Any, args: argparse.Namespace, token: str | None) -> int:
    import uvicorn

    try:
        listening = config.bind_socket()
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an answer is two writes: 40 ms else
    except (SystemExit, OverflowError):  # uvicorn's way to say that the address is taken; no such port
        raise UsageError(f"cannot listen at {args.host} port {args.port}: choose another with --port") from None
    listening.listen(config.backlog)  # whoever reads the address may come at once
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(args.host, args.host)
    port = listening.getsockname()[1]
    address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    # What follows the # stays in the browser: it is in no request and no log.
    whole = address if token is None else f"{address}#token={token}"
    print(f"Secondsight serves {args.log} at {whole}  (Ctrl-C ends it)", flush=True)
    if not args.root:
        _print_roots(args.log)
    if token is None and args.host not in LOOPBACK:
        print("anybody who can reach this address can see the log and its videos", file=sys.stderr)
    if args.open:
        webbrowser.open(whole)
    uvicorn.Server(config).run([listening])
    return 0


def _print_roots(log: str) -> None:
    """Where videos are shown because the log says so: who serves a log from elsewhere should see it."""
    from jobs.serve.archive import given
    from jobs.serve.rooted import doubtful
    from pipeline.log import EventLog
    from pipeline.log.sql import select

    try:
        hosts = select(EventLog.open(log).snapshot(), "select host from runs").column("host").to_pylist()
    except SecondsightError as error:  # the page says it, too
        print(f"secondsight: {error}", file=sys.stderr, flush=True)
        return
    roots = given(hosts)
    shown = ", ".join(root for root in roots if not doubtful(root)) or "no folder"
    print(f"It shows videos below {shown} (what the log's runs were given; --root names others)", flush=True)
    for root in filter(doubtful, roots):
        print(f"and none below {root}, which a log may not choose: name it with --root if that is meant", flush=True)
