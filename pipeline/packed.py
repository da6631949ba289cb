"""Many values held in little memory: what is gathered over a long video grows with it, and objects are large."""

from __future__ import annotations

import heapq
import pickle
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

BLOCK = 128  # values that are packed together


class Packed(Collection[T], Generic[T]):
    """Values by `key`, equal ones as they came. All but the last few lie in compressed blocks (pickle, zlib): a tenth
    of what they take as objects. Going through them unpacks a block at a time, and some more at once only where values
    were added far from their place."""

    __slots__ = ("_blocks", "_key", "_loose", "_packed")

    def __init__(self, key: Callable[[T], Any], values: Iterable[T] = ()) -> None:
        self._key = key
        self._blocks: list[tuple[Any, bytes | list[T]]] = []  # lowest key, packed values (or what cannot be packed)
        self._packed = 0
        self._loose: list[T] = []
        for value in values:
            self.add(value)

    def add(self, value: T) -> None:
        self._loose.append(value)
        if len(self._loose) >= BLOCK:
            values = sorted(self._loose, key=self._key)
            self._blocks.append((self._key(values[0]), _packed(values)))
            self._packed += len(values)
            self._loose = []

    def __len__(self) -> int:
        return self._packed + len(self._loose)

    def __contains__(self, value: object) -> bool:
        return any(value == each for each in self)

    def __iter__(self) -> Iterator[T]:
        loose = sorted(self._loose, key=self._key)
        if not self._blocks:
            return iter(loose)
        return self._merged(loose)

    def _merged(self, loose: list[T]) -> Iterator[T]:
        """By key; a block is unpacked when its first value is the next."""
        blocks = [*self._blocks]
        if loose:
            blocks.append((self._key(loose[0]), loose))
        closed = sorted(range(len(blocks)), key=lambda number: (blocks[number][0], number), reverse=True)
        heads: list[tuple[Any, int, int]] = []  # of the blocks that are open: key of the next value, block, its place
        opened: dict[int, list[T]] = {}
        while heads or closed:
            while closed and (not heads or (blocks[closed[-1]][0], closed[-1]) <= heads[0][:2]):
                number = closed.pop()
                opened[number] = _unpacked(blocks[number][1])
                heapq.heappush(heads, (blocks[number][0], number, 0))
            _, number, place = heads[0]
            values = opened[number]
            yield values[place]
            if place + 1 < len(values):
                heapq.heapreplace(heads, (self._key(values[place + 1]), number, place + 1))
            else:
                heapq.heappop(heads)
                del opened[number]


def _packed(values: list[T]) -> bytes | list[T]:
    """Themselves where they hold what pickle does not take: a model may have said anything."""
    try:
        return zlib.compress(pickle.dumps(values, pickle.HIGHEST_PROTOCOL), 1)
    except Exception:  # noqa: BLE001 - of objects unknown to us
        return values


def _unpacked(values: bytes | list[T]) -> list[T]:
    if isinstance(values, list):
        return values
    unpacked: list[T] = pickle.loads(zlib.decompress(values))  # of our own memory
    return unpacked
