"""Times as a person writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clock import format_time, parse_time
from pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("45", 45_000_000),
        ("45.5", 45_500_000),
        (".25", 250_000),
        ("5.", 5_000_000),
        ("2:45", 165_000_000),
        ("90:00", 5_400_000_000),
        ("1:02:45.5", 3_765_500_000),
        (" 100 ", 100_000_000),
        ("0.0000005", 1),  # halves away from zero
    ],
)
def test_parse(text: str, us: int) -> None:
    assert parse_time(text) == us


@pytest.mark.parametrize(
    "text", ["", "abc", "-1", "1:60", "1:60:00", "1:2:3:4", "1e3", "nan", "inf", ":30", "1:", "4 5", "٤٥"]
)
def test_what_is_not_a_time_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("us", "text"), [(0, "0:00"), (45_500_000, "0:45.5"), (3_765_000_001, "1:02:45.000001"), (-40_000, "-0:00.04")]
)
def test_format(us: int, text: str) -> None:
    assert format_time(us) == text


@given(st.integers(0, 10**15))
def test_round_trip(us: int) -> None:
    assert parse_time(format_time(us)) == us
