"""Reading single bits of a codec's headers."""

from __future__ import annotations


class Bits:
    """Reads bits, most significant first. Raises IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def u(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._position >> 3] >> (7 - (self._position & 7)) & 1
            self._position += 1
        return value

    def ue(self) -> int:
        """Exponential-Golomb code (H.264 9.1)."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:
                raise IndexError("not an Exp-Golomb code")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        value = self.ue()
        return (value + 1) // 2 if value & 1 else -(value // 2)
