"""The picture that a player shows at a time of a video, as a JPEG: exact, upright, with square pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.clock import format_time
from pipeline.decode import DecodeLimits, decode_times
from pipeline.errors import UsageError, VideoError
from pipeline.plan import Sampling
from pipeline.probe import probe
from pipeline.storage import filesystem, local_path, object_info, stat_local
from pipeline.video import Video

QUALITY = 90  # of the JPEG
_LIMITS = DecodeLimits()


@dataclass(frozen=True, slots=True)
class Still:
    """One frame. `time_us`: when it is presented on the video's timeline, which can lie before the time asked for."""

    time_us: int
    jpeg: bytes
    width: int
    height: int


#: Changes a picture (uint8 [H, W, 3] RGB), given when it was asked for and when it is presented, from and to.
Edit = Callable[[npt.NDArray[np.uint8], int, int, int], npt.NDArray[np.uint8]]


def still(uri: str, time_us: int, *, height: int | None = None, edit: Edit | None = None) -> Still:
    """The frame at `time_us` of the video at `uri`: the last one presented at or before it.

    `height`: of the picture in px, rounded to an even number; a picture is never enlarged (default: its own size).
    `edit` changes the picture before anything else sees it (`pipeline.redacted.editor` gives that of a run).
    Seeks, so that it takes one group of pictures whatever the length of the video. Thread-safe. Raises UsageError (the
    video ends before, or nothing is shown yet), VideoError (it cannot be read or, there, not be decoded).
    """
    video = opened(uri)
    if not 0 <= time_us < video.duration_us:
        raise UsageError(f"{uri} is {format_time(video.duration_us)} long: nothing is shown at {format_time(time_us)}")
    for _, found in stills(uri, [time_us], height=height, edit=edit):
        if found is None:
            raise VideoError(uri, "corrupt", f"the picture shown at {format_time(time_us)} cannot be decoded")
        return found
    raise UsageError(f"{uri} shows nothing yet at {format_time(time_us)}: ask for a later time")


def stills(
    uri: str, times_us: Iterable[int], *, height: int | None = None, edit: Edit | None = None
) -> Iterator[tuple[int, Still | None]]:
    """(time asked for, its frame) for each of `times_us` (ascending) at which something is shown.

    None where it cannot be decoded. One pass over the file, which seeks where that is shorter. Raises VideoError.
    """
    for at_us, time_us, pixels in pictures(uri, times_us, height=height, edit=edit):
        if pixels is None:
            yield at_us, None
        else:
            yield at_us, Still(time_us, as_jpeg(pixels), pixels.shape[1], pixels.shape[0])


def pictures(
    uri: str, times_us: Iterable[int], *, height: int | None = None, edit: Edit | None = None
) -> Iterator[tuple[int, int, npt.NDArray[np.uint8] | None]]:
    """As `stills`: (time asked for, time of the frame, its pixels, uint8 [H, W, 3] RGB, or None)."""
    if height is not None and height < 2:
        raise UsageError(f"a picture {height} px high: ask for 2 at least")
    sampling = Sampling(short_side=None) if height is None else _ToHeight(short_side=height)
    for answer in decode_times(opened(uri), times_us, sampling, _LIMITS):
        pixels = answer.pixels
        if edit is not None and pixels is not None:
            pixels = edit(pixels, answer.at_us, answer.time_us, answer.end_us)
        yield answer.at_us, answer.time_us, pixels


def opened(uri: str) -> Video:
    """What the video at `uri` is (without its fingerprint); remembered until the file changes. Raises VideoError."""
    path = local_path(uri)
    if path is not None:
        status = stat_local(uri, path)
        return _probed(uri, status.st_size, str(status.st_mtime_ns))
    info = object_info(uri, *filesystem(uri))
    stamp = next((str(info[k]) for k in ("ETag", "LastModified", "mtime", "created") if info.get(k)), "")
    return _probed(uri, int(info.get("size") or 0), stamp)


@lru_cache(maxsize=1024)
def _probed(uri: str, size_bytes: int, stamp: str) -> Video:
    return probe(uri, size_bytes, "", (uri,), limits=_LIMITS)


class _ToHeight(Sampling):
    """Scales to a height (`short_side`), not to a short side."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        high = max(2, round(min(self.short_side or height, height) / 2) * 2)
        return max(2, round(width * high / height / 2) * 2), high


def as_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A JPEG of uint8 [H, W, 3] RGB."""
    import cv2

    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ValueError(f"no JPEG can be made of a picture of {pixels.shape}")
    return bytes(data)
