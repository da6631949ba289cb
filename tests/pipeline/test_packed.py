"""Packed values: they come back by key, whatever order they were added in, and in little memory."""

from __future__ import annotations

import tracemalloc
from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.event import EVENT_ORDER, Event
from pipeline.packed import BLOCK, Packed


@given(st.lists(st.integers(0, 5 * BLOCK), max_size=5 * BLOCK), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_values_come_back_by_key_and_equal_ones_as_they_came(keys: list[int], run: int) -> None:
    numbered = list(enumerate(keys))
    for part in range(0, len(numbered), run):  # sorted in stretches, as answers nearly are
        numbered[part : part + run] = sorted(numbered[part : part + run], key=lambda pair: pair[1])
    packed = Packed(lambda pair: pair[1], numbered)
    assert len(packed) == len(numbered)
    assert list(packed) == list(packed) == sorted(numbered, key=lambda pair: pair[1])
    assert list(islice(packed, 3)) == sorted(numbered, key=lambda pair: pair[1])[:3]
    assert all(pair in packed for pair in numbered[::100]) and (-1, -1) not in packed


def test_what_cannot_be_packed_is_held_as_it_is() -> None:
    class Local:
        pass

    values = [(number, Local() if number % BLOCK == 3 else None) for number in range(2 * BLOCK)]
    assert list(Packed(lambda pair: pair[0], values)) == values


def test_many_events_take_a_tenth_of_their_objects() -> None:
    def event(number: int) -> Event:
        text = f"a person in a {['red', 'blue', 'green'][number % 3]} coat passes door {number % 17}"
        start_us = 700_000 * number
        return Event(start_us, start_us + 650_000, "action", text, 0.5 + number % 50 / 100, 0, 0, (start_us,), {})

    tracemalloc.start()
    objects = [event(number) for number in range(20_000)]
    as_objects, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    packed = Packed(EVENT_ORDER, (event(number) for number in range(20_000)))
    held, peak = tracemalloc.get_traced_memory()
    assert held - as_objects < as_objects / 8 and peak - as_objects < as_objects / 6
    tracemalloc.reset_peak()
    assert all(a == b for a, b in zip(objects, packed, strict=True))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - held < as_objects / 20, "going through them unpacks one block after another"
