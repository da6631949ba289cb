"""The memory limit of a task's process."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from workers.limits import memory_limit, room_for

MIB = 1 << 20


def test_beyond_the_limit_allocations_fail_and_afterwards_they_do_not() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limit(64 * MIB):
        assert np.ones(16 * MIB, np.uint8).all()
        assert room_for(16 * MIB) and not room_for(256 * MIB)
        with pytest.raises(MemoryError):
            np.ones(256 * MIB, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert np.ones(256 * MIB, np.uint8).all()


def test_the_limit_is_lifted_when_the_task_fails() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ValueError), memory_limit(64 * MIB):
        raise ValueError
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_without_a_limit_nothing_changes() -> None:
    with memory_limit(None):
        assert room_for(256 * MIB)
