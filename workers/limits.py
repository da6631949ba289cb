"""Limits on what one task may use of its process: bytes of private memory."""

from __future__ import annotations

import contextlib
import mmap
import resource
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def memory_limit(extra_bytes: int | None) -> Iterator[None]:
    """Let this process grow by at most `extra_bytes` of private memory while the block runs; None: no limit.

    Allocations beyond it fail (MemoryError in Python, ENOMEM in libav), instead of the machine running out. Sets
    RLIMIT_DATA, which counts private writable pages and so not the object store (setrlimit(2)); restores it after.
    """
    used = _data_bytes()
    if extra_bytes is None or used is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + extra_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def room_for(size: int) -> bool:
    """Whether this process may still get `size` bytes of private memory."""
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


def _data_bytes() -> int | None:
    """VmData of this process (proc(5)); None where there is no /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:")), None)
