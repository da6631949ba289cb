"""What goes back to a client: JSON, compressed where it is large; and errors, all of one shape."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipeline.errors import LogError, SecondsightError, UsageError, VideoError

#: JSON longer than this is compressed where the client takes it.
COMPRESSED = 2048


class Problem(HTTPException):
    """An answer other than the one asked for: HTTP `status`, `code` for programs, `message` for people."""

    # An HTTPException, so that FastAPI lets it through wherever it is raised, also while it reads a body.

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        said = dict(headers or {})
        if retry_s is not None:
            said["Retry-After"] = str(retry_s)
        super().__init__(status, message, said)
        self.status, self.code, self.message = status, code, message

    def __str__(self) -> str:
        return self.message

    def reply(self) -> Response:
        body = dumps({"error": {"code": self.code, "message": self.message}})
        return Response(body, self.status, {"Cache-Control": "no-store", **(self.headers or {})}, "application/json")


#: Why a video cannot be shown -> status.
_VIDEO = {"vanished": 410, "denied": 403, "changed": 409, "storage": 503, "timeout": 504, "memory": 503}


def problem(error: SecondsightError) -> Problem:
    """An error of ours as HTTP says it."""
    if isinstance(error, VideoError):
        return Problem(_VIDEO.get(error.reason, 422), f"video_{error.reason}", str(error))
    if isinstance(error, LogError):
        return Problem(503, "log_unreadable", str(error), retry_s=10)
    return Problem(422 if isinstance(error, UsageError) else 503, "bad_request", str(error))


def dumps(value: Any) -> bytes:
    """JSON whatever a model has said: no NaN, which JSON does not know, and lone surrogates escaped."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def reply(request: Request, value: Any, *, fresh_s: int = 0) -> Response:
    """`value` as JSON. `fresh_s`: how long the client's own cache may give the same answer.

    Takes its time for a large one: to be made in a pool's thread, not on the event loop.
    """
    body = dumps(value)
    headers = {"Cache-Control": f"private, max-age={fresh_s}" if fresh_s else "no-cache", "Vary": "Accept-Encoding"}
    if len(body) > COMPRESSED and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, compresslevel=3, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, 200, headers, "application/json")
