"""Which index files a key may be in: Bloom filters, so that a lookup reads one bucket of one file.

A key's places come by double hashing (Kirsch and Mitzenmacher, 2006); keys of videos have more places than keys of
names, as a lookup of a video must not look in vain, and one of a name may.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

from pipeline.errors import LogError
from pipeline.log.entry import ENTRY, KEY
from pipeline.log.index import Pair

#: Places of a video's key and of a name's: with half of all bits set, 0.2 % and 25 % of the keys that are not there
#: seem to be.
VIDEO_PLACES, NAME_PLACES = 9, 2


def key_filter(pairs: Iterable[Pair]) -> bytes:
    """The filter of an index file's pairs."""
    import numpy as np

    keys: dict[int, list[bytes]] = {VIDEO_PLACES: [], NAME_PLACES: []}
    for key, blob in pairs:
        keys[VIDEO_PLACES if blob[:1] == ENTRY else NAME_PLACES].append(key)
    size = 1 + int(sum(places * len(of) for places, of in keys.items()) / log(2) / 8)
    marked = np.zeros(8 * size, bool)
    for places, of_kind in keys.items():
        words = np.frombuffer(b"".join(of_kind), ">u4").reshape(-1, KEY // 4).astype(np.uint64)
        for i in range(places):
            marked[(words[:, 1] + i * (words[:, 2] | 1)) % (8 * size)] = True
    return np.packbits(marked, bitorder="little").tobytes()


def may_hold(bits: bytes, key: bytes, places: int) -> bool:
    """Whether the file of a filter may have a key."""
    if len(key) != KEY:
        raise LogError(f"a key of {len(key)} bytes")
    first, step, size = int.from_bytes(key[4:8], "big"), int.from_bytes(key[8:12], "big") | 1, 8 * len(bits)
    at = ((first + i * step) % size for i in range(places))
    return all(bits[place >> 3] >> (place & 7) & 1 for place in at)
