"""What every request passes before anything looks at what it asks for: limits, Host, token; and headers on the way out.

Plain ASGI, so that streams go through as they are.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serve.reply import Problem
from jobs.serve.session import Gate
from jobs.serve.settings import Settings

#: Below this a client must show who it is; the page itself, which asks for the token, holds nothing of the log.
PRIVATE = "/api/"
PUBLIC = ("/api/session",)

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
    def __init__(self, app: ASGIApp, settings: Settings, gate: Gate) -> None:
        self.app, self._settings, self.gate = app, settings, gate
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

        self._in_flight += 1
        try:
            self._check(scope)
            await self.app(scope, receive, sent)
        except Problem as problem:
            if begun:
                raise
            await problem.reply()(scope, receive, sent)
        finally:
            self._in_flight -= 1

    def _check(self, scope: Scope) -> None:
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
        most = limits.picture_bytes if scope["path"] == PICTURES else limits.body_bytes
        if not length.isdigit() or int(length) > most:
            raise Problem(413, "too_large", f"a request of more than {most} bytes")
        if scope["path"].startswith(PRIVATE) and scope["path"] not in PUBLIC and not self._known(headers):
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
