"""Sending bytes of a file by ranges (RFC 9110, section 14), from a local file or an object store."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jobs.serve.reply import Problem

LOCAL_CHUNK, REMOTE_CHUNK = 256 * 1024, 2 << 20

TYPES = {
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "mov": "video/mp4",  # the same boxes; browsers refuse its own name
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "ts": "video/mp2t",
    "mts": "video/mp2t",
    "m2ts": "video/mp2t",
    "avi": "video/x-msvideo",
    "mpg": "video/mpeg",
    "mpeg": "video/mpeg",
    "flv": "video/x-flv",
    "ogv": "video/ogg",
}


class Bytes:
    """What is sent: `size` bytes, `read(start, length)` of them (off the event loop), `close` at the end."""

    def __init__(self, size: int, read: Callable[[int, int], bytes], chunk: int, close: Callable[[], None]) -> None:
        self.size, self.read, self.chunk, self._close = size, read, chunk, close

    def close(self) -> None:
        self._close()

    @classmethod
    def of_handle(cls, handle: int) -> Bytes:
        return cls(
            os.fstat(handle).st_size,
            lambda start, length: os.pread(handle, length, start),
            LOCAL_CHUNK,
            lambda: os.close(handle),
        )

    @classmethod
    def of_object(cls, uri: str) -> Bytes:
        """Raises VideoError."""
        from pipeline.storage import RangeFile

        file = RangeFile(uri)
        return cls(file.size, lambda start, length: file.fetch(start, start + length), REMOTE_CHUNK, file.close)


class Ranged(Response):
    """200 with all of it, 206 with the range that was asked for. `tag` names the content, whatever its file is called.

    `end` is called once when all is sent or the client has gone.
    """

    def __init__(self, request: Request, what: Bytes, media_type: str, tag: str, end: Callable[[], None]) -> None:
        self._what, self._end = what, end
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=3600",
            "ETag": tag,
            "Content-Type": media_type,
            "Content-Disposition": "inline",
        }
        self._start, stop, status = 0, what.size, 200
        wanted = request.headers.get("range")
        if wanted is not None and request.headers.get("if-range", tag) == tag:
            found = parse_range(wanted, what.size)
            if found is not None:
                (self._start, stop), status = found, 206
                headers["Content-Range"] = f"bytes {self._start}-{stop - 1}/{what.size}"
        self._left = stop - self._start
        headers["Content-Length"] = str(self._left)
        self.status_code, self.background = status, None
        self.init_headers(headers)
        self._body = request.method != "HEAD"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            at, left = self._start, self._left if self._body else 0
            while left > 0:
                piece = await to_thread.run_sync(self._what.read, at, min(left, self._what.chunk))
                if not piece:  # the file has become shorter: the length that was promised cannot be kept
                    raise ConnectionError("the file has changed while it was sent")
                at, left = at + len(piece), left - len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            with suppress(OSError):
                self._what.close()
            self._end()


_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", re.A)


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """[start, stop) of a Range header; None for one to be ignored (several ranges, other units, nonsense).

    Raises Problem 416 for a range that the file does not have.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= size or stop <= start:
        raise Problem(416, "range", f"the file has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
    return start, stop
