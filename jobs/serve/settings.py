"""What a server is told when it starts, by the command line or (under Ray Serve) by the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.errors import UsageError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, or all together, may ask for. Beyond it: an error with its status; the server lives."""

    query_bytes: int = 8 * 1024  # of a path with its query: 414
    body_bytes: int = 16 * 1024  # of a request: 413
    picture_bytes: int = 8 << 20  # of a picture to search by: 413
    in_flight: int = 256  # requests at once: 503
    streams: int = 64  # of these, live streams and videos being sent, each
    quick_threads: int = 8  # lookups
    heavy_threads: int = 2  # stills, sums over the whole log
    cut_threads: int = 2  # clips, copies into MP4, contact sheets, timelines: what a page must not wait behind
    many_threads: int = 2  # lookups of many videos, one after the other: what a page must not wait behind either
    many_s: float = 5.0  # of such a page: then what was found so far, and a cursor
    model_threads: int = 4  # questions and pictures that a model looks at
    encode_threads: int = 2  # seconds of video made for browsers that cannot decode it
    encode_waiting: int = 32  # of these: 503
    waiting: int = 64  # pieces of work that wait for a thread: 503
    quick_s: float = 20.0  # 504
    heavy_s: float = 90.0
    model_s: float = 75.0  # of a question: then what was found, without an answer in words
    sql_processes: int = 2  # at once; the others wait
    sql_s: float = 30.0  # 504
    sql_memory: int = 2 << 30  # of one query: 422
    sql_bytes: int = 16 << 20  # of its answer: 422
    rows: int = 1000  # of one page
    clip_s: float = 600.0  # longest clip
    stills_bytes: int = 64 << 20  # kept in memory
    segments_bytes: int = 256 << 20  # such seconds kept in memory
    remux_bytes: int = 4 << 30  # largest file that is put into another container for the browser, and all of them


@dataclass(frozen=True, slots=True)
class Settings:
    """`token`: what a client must show; None: nothing. `hosts`: names a client may call this server by; empty: any.

    `roots`: folders and object-store prefixes below which videos may be shown; None: those the log's runs were given.

    Raises UsageError for a `model` that none can be, or a token for it that cannot be sent.
    """

    log: str
    token: str | None = None
    roots: tuple[str, ...] | None = None
    hosts: tuple[str, ...] = ()
    model: str | None = None  # answers questions (`ask`)
    watcher: str | None = None  # the checkpoint that watched, to search by picture; None: the bundled one
    secure: bool = False  # behind TLS: cookies only over it
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.model is not None:
            from model.chat import ChatEndpoint

            ChatEndpoint(self.model)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """SECONDSIGHT_LOG, SECONDSIGHT_TOKEN, SECONDSIGHT_ROOTS (separated by spaces or new lines),
        SECONDSIGHT_HOSTS, SECONDSIGHT_MODEL, SECONDSIGHT_WATCHER, SECONDSIGHT_SECURE.

        Raises UsageError as for others, and without a log or a token: SECONDSIGHT_TOKEN=none says that none is wanted.
        """
        known = os.environ if environment is None else environment
        log, token = known.get("SECONDSIGHT_LOG", ""), known.get("SECONDSIGHT_TOKEN", "")
        if not log:
            raise UsageError("SECONDSIGHT_LOG is not set: the path or URI of the event log to serve")
        if not token:
            raise UsageError(
                "SECONDSIGHT_TOKEN is not set: the token that clients show (all replicas need the same); 'none' for a"
                " server that anybody who reaches it may ask"
            )
        roots = tuple(known.get("SECONDSIGHT_ROOTS", "").split()) or None
        return cls(
            log,
            None if token == "none" else checked_token(token),
            roots,
            tuple(known.get("SECONDSIGHT_HOSTS", "").split()),
            known.get("SECONDSIGHT_MODEL") or None,
            known.get("SECONDSIGHT_WATCHER") or None,
            known.get("SECONDSIGHT_SECURE", "").lower() in ("1", "true", "yes"),
        )


def checked_token(token: str) -> str:
    """A token that can stand in a header and is not guessed at once. Raises UsageError."""
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("the token must be 16 printable ASCII characters at least, without spaces")
    return token
