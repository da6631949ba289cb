"""Errors that a person can act on. Each message names the thing, what is wrong with it, and what to do."""

from __future__ import annotations

from typing import Any, Literal

VideoReason = Literal[
    "vanished",  # the object is not there (any more)
    "denied",  # no permission to read it
    "not_a_file",  # a FIFO, a device, a directory
    "empty",  # zero bytes
    "unreadable",  # no container that libav recognises, or its index is gone
    "no_video",  # a container without a moving picture (audio only, cover art only)
    "unsupported",  # codec or pixel format without a decoder
    "too_large",  # a picture or stream beyond the decode limits
    "changed",  # size or content changed between listing and reading
    "corrupt",  # opened, but not one frame could be decoded
    "inexact",  # the chosen decoder cannot give the container's own times for this file
    "timeout",  # decoding made no progress within its time limit
    "memory",  # decoding went over its memory limit
    "crash",  # decoding it ended its worker process, again and again
    "redaction",  # what is to be hidden in it cannot be hidden by the very detectors of the run
    "storage",  # the object store failed (and may succeed later)
]

#: Reasons that can heal by themselves: trying again makes sense.
TRANSIENT: frozenset[str] = frozenset({"storage", "changed", "timeout"})


def shortened(text: str, length: int = 200) -> str:
    """Text as an error message can show it: whatever was asked for may be a megabyte long."""
    return text if len(text) <= length else text[: length - 1] + "…"


class SecondsightError(Exception):
    """Base of every error meant for a person's eyes. The command line prints it as one line, without a traceback."""


class UsageError(SecondsightError):
    """The command or call cannot be carried out as asked."""


class VideoError(SecondsightError):
    """One video cannot be read. Becomes a row in the log's `videos` table, never a lost job.

    `uri` names the object, `reason` is one of `VideoReason`, `detail` says what is wrong and what to do.
    """

    def __init__(self, uri: str, reason: VideoReason, detail: str) -> None:
        super().__init__(uri, reason, detail)
        self.uri, self.reason, self.detail = uri, reason, detail

    def __str__(self) -> str:
        return f"{self.uri}: {self.reason}: {self.detail}"

    def __reduce__(self) -> tuple[Any, ...]:  # crosses process borders in Ray
        return type(self), (self.uri, self.reason, self.detail)


class LogError(SecondsightError):
    """The event log is absent, damaged, of another schema version, or not a log at all."""


class ModelError(SecondsightError):
    """A model, its checkpoint or its prompt cannot be used."""


class ModelAway(ModelError):
    """A model that somebody else serves cannot be reached, or is busy: nobody's fault, and worth waiting for.

    `patience_s`: how long in all; `after_s`: when to ask again, where it said so.
    """

    def __init__(self, problem: str, patience_s: float, after_s: float = 0.0) -> None:
        super().__init__(problem, patience_s, after_s)
        self.problem, self.patience_s, self.after_s = problem, patience_s, after_s

    def __str__(self) -> str:
        return self.problem

    def __reduce__(self) -> tuple[Any, ...]:  # crosses process borders in Ray
        return type(self), (self.problem, self.patience_s, self.after_s), self.__dict__
