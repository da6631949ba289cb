"""Times as a person writes and reads them: 45, 45.5, 2:45, 1:02:45.5."""

from __future__ import annotations

import re
from fractions import Fraction

from pipeline.errors import UsageError, shortened
from pipeline.plan import SECOND_US, round_us

_TIME = re.compile(
    r"(?:(?:(?P<h>[0-9]{1,9}):)?(?P<m>[0-9]{1,9}):)?(?P<s>[0-9]{1,12}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})", re.A
)


def parse_time(text: str) -> int:
    """Microseconds of a time written as seconds (`45`, `45.5`), `m:ss` or `h:mm:ss`, each with an optional fraction.

    Raises UsageError for anything else, and for seconds (minutes) of 60 or more after minutes (hours).
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{shortened(text)!r} is not a time; write seconds (45 or 45.5), m:ss or h:mm:ss (1:02:45.5)")
    hours, minutes, seconds = int(match["h"] or 0), int(match["m"] or 0), Fraction(match["s"].rstrip("."))
    if (match["m"] is not None and seconds >= 60) or (match["h"] is not None and minutes >= 60):
        raise UsageError(f"{text!r} is not a time; after a colon come minutes or seconds below 60")
    return round_us(hours * 3600 + minutes * 60 + seconds)


def format_time(us: int) -> str:
    """`m:ss` or `h:mm:ss` with as many decimals as the microseconds need; `parse_time` reads it back to the same value.

    A time before zero (a frame's own time can be) has a minus sign, which `parse_time` does not take.
    """
    sign, us = ("-", -us) if us < 0 else ("", us)
    seconds, fraction = divmod(us, SECOND_US)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    whole = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{sign}{whole}.{fraction:06}".rstrip("0") if fraction else f"{sign}{whole}"
