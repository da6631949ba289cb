"""How long to wait before a request is sent again: back-off with jitter, longer where the server says so."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_S, MOST_S = 0.5, 30.0
#: "Not now", by the server itself or by what stands before it; any other 4xx cannot be mended by asking again.
BUSY = frozenset({408, 425, 429, 502, 503, 504, 529})


def back_off_s(tries: int) -> float:
    """Seconds to wait after `tries` failures in a row (1 for the first): doubling, the upper half of it at random, so
    that many clients do not come back together."""
    return float(min(MOST_S, FIRST_S * 2.0 ** min(tries - 1, 20)) * random.uniform(0.5, 1.0))


def spread_s(seconds: float) -> float:
    """What is added at random to a wait of `seconds` that many share, so that they do not end it together."""
    return random.uniform(0.0, min(seconds, MOST_S) / 4)


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the server asks to be left alone: a number or a date (RFC 9110, section 10.2.3); None where it
    says nothing that can be understood."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.replace(".", "", 1).isdigit() and len(value) < 12:
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    then = then if then.tzinfo is not None else then.replace(tzinfo=UTC)
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())
