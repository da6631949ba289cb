"""Who may ask: a bearer token, or a cookie that was given for it.

<img> and <video> cannot send a header, so the page trades the token for a cookie: the time at which it ends, signed
with a key derived from the token (HMAC-SHA256). Every replica that knows the token can check it; nothing is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import time

LASTS_S = 12 * 3600


class Gate:
    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._key = hashlib.blake2b(self._token or b"", digest_size=32, person=b"secondsight-web").digest()
        # Cookies do not know ports: two servers on one machine must not overwrite each other's.
        self.cookie_name = "secondsight-" + hashlib.blake2b(self._key, digest_size=4).hexdigest()

    @property
    def open(self) -> bool:
        """Nobody has to show anything."""
        return self._token is None

    def token_is(self, shown: str) -> bool:
        return self._token is None or hmac.compare_digest(shown.encode("utf-8", "replace"), self._token)

    def cookie(self, now: float | None = None) -> str:
        ends = int((time.time() if now is None else now) + LASTS_S)
        return f"{ends}.{self._signed(ends)}"

    def cookie_is_valid(self, cookie: str, now: float | None = None) -> bool:
        until, _, signature = cookie.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) <= 12):
            return False
        right = hmac.compare_digest(signature.encode("utf-8", "replace"), self._signed(int(until)).encode())
        return right and int(until) > (time.time() if now is None else now)

    def _signed(self, ends: int) -> str:
        return hmac.new(self._key, str(ends).encode(), hashlib.sha256).hexdigest()
