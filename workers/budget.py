"""How many bytes of frames may be in flight, and how many are."""

from __future__ import annotations


class Budget:
    """Two things count: frames `held` (they left a decoder, or are leaving it, and are not answered yet), and what is
    `reserved` for decoders that are open, for the parcels that they may hold. Both are upper bounds that are known
    before anything is decoded, from the sampling and the size of the picture."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self._held = self._reserved = 0
        self.peak = 0

    @property
    def in_flight(self) -> int:
        return self._held + self._reserved

    @property
    def holds(self) -> bool:
        """Whether any frames have left their decoder."""
        return self._held > 0

    def fits(self, size: int) -> bool:
        return self.in_flight + size <= self.limit

    def hold(self, size: int) -> None:
        """`size` bytes more (less, where negative) are held."""
        self._held += size
        self.peak = max(self.peak, self.in_flight)

    def reserve(self, size: int) -> None:
        """`size` bytes more (less, where negative) are reserved."""
        self._reserved += size
        self.peak = max(self.peak, self.in_flight)
