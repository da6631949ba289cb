"""Things that took work to make, kept in memory; the ones used longest ago give way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Holding(Generic[T]):
    """At most `most_bytes` of things, `size` of each, and the newest one however large. Thread-safe."""

    def __init__(self, most_bytes: int, size: Callable[[T], int]) -> None:
        self._most_bytes, self._size = most_bytes, size
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._bytes = 0
        self._lock = Lock()

    def known(self, key: Hashable) -> T | None:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def take(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is held, else what `make` makes: once, however many ask for the same at the same time."""
        with self._lock:
            making = self._making.setdefault(key, Lock())
        try:
            with making:
                found = self.known(key)
                if found is None:
                    found = make()
                    self.hold(key, found)
                return found
        finally:
            with self._lock:
                if self._making.get(key) is making and not making.locked():
                    del self._making[key]

    def hold(self, key: Hashable, thing: T) -> None:
        with self._lock:
            if key in self._held:
                self._bytes -= self._size(self._held.pop(key))
            self._held[key] = thing
            self._bytes += self._size(thing)
            while self._bytes > self._most_bytes and len(self._held) > 1:
                self._bytes -= self._size(self._held.popitem(last=False)[1])
