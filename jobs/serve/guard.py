"""What every request passes before anything looks at what it asks for: limits, Host, token; and headers on the way out.

Plain ASGI, so that streams go through as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette._utils import get_route_path  # what its router goes by: a guard that reads paths otherwise is none
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serve.reply import Problem
from jobs.serve.session import Gate
from jobs.serve.settings import Settings

#: Where the one kind of large request goes.
PICTURES = "/api/search/image"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:;"
    " connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """`public`: paths (below the prefix that the application is mounted at) that need no token; all others do."""

    def __init__(self, app: ASGIApp, settings: Settings, gate: Gate, public: Collection[str]) -> None:
        self.app, self._settings, self.gate, self._public = app, settings, gate, frozenset(public)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none here
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        path, taken = get_route_path(scope), 0
        most = self._settings.limits.picture_bytes if path == PICTURES else self._settings.limits.body_bytes

        async def received() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:  # whatever its headers said, or did not say
                raise _too_large(most)
            return message

        self._in_flight += 1
        try:
            self._check(scope, path, most)
            await self.app(scope, received, sent)
        except Problem as problem:
            if begun:
                raise
            await problem.reply()(scope, receive, sent)
        finally:
            self._in_flight -= 1

    def _check(self, scope: Scope, path: str, most: int) -> None:
        limits, headers = self._settings.limits, Headers(scope=scope)
        if len(scope.get("raw_path", b"")) + len(scope["query_string"]) > limits.query_bytes:
            raise Problem(414, "too_long", f"an address of more than {limits.query_bytes} bytes: ask for less at once")
        if self._in_flight > limits.in_flight:
            raise Problem(503, "busy", "too many requests at once: ask again in a few seconds", retry_s=2)
        self._check_host(headers)
        # Other sites' pages may not make a browser ask here, even where they could not read the answer.
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            raise Problem(403, "cross_site", "this was asked by the page of another site")
        if scope["method"] not in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
            raise Problem(405, "method", "the log is only read here: GET", headers={"Allow": "GET, HEAD"})
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > most:
            raise _too_large(most)
        if path not in self._public and not self._known(headers):
            raise Problem(
                401,
                "token",
                "this server wants a token: send it as `Authorization: Bearer TOKEN`",
                headers={"WWW-Authenticate": 'Bearer realm="secondsight"'},
            )

    def _check_host(self, headers: Headers) -> None:
        """A name that a foreign site has pointed at this machine (DNS rebinding) is not one of ours."""
        if not self._settings.hosts:
            return
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            host = ""
        if host.rstrip(".").lower() not in self._settings.hosts:
            raise Problem(
                421, "host", f"this server is not called {host[:100]!r}; start it with --allow-host if it should be"
            )

    def _known(self, headers: Headers) -> bool:
        if self.gate.open:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.gate.token_is(token.strip())
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.gate.cookie_name)
        except CookieError:
            return False
        return morsel is not None and self.gate.cookie_is_valid(morsel.value)


def _too_large(most: int) -> Problem:
    return Problem(413, "too_large", f"a request of more than {most} bytes")
