"""From a video and the times wanted of it to frames with their exact times."""

from __future__ import annotations

from pipeline.decode.limits import DecodeLimits
from pipeline.decode.windows import decode_times, decode_windows

__all__ = ["DecodeLimits", "decode_times", "decode_windows"]
