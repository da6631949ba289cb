"""Cutting a span out of a video: exactly the frames on screen in it, copied where the stream allows, with its sound.

What a player shows in `[start_us, end_us)` of the video is what it shows in the clip from 0 on. Groups of pictures that
lie whole in the span are copied; the frames at the edges, whose pictures refer to others outside, are encoded anew
("smart cut"). Where a codec does not let the two stand in one stream, all frames are encoded anew.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from heapq import merge
from pathlib import Path

import av

from pipeline.clips.plan import plan_cut
from pipeline.clips.sound import Sound
from pipeline.clips.video import Copied, Encoded, Picture, VideoPart
from pipeline.clock import format_time
from pipeline.decode import DecodeLimits
from pipeline.decode.source import PacketSource
from pipeline.errors import UsageError, VideoError
from pipeline.stills import opened

__all__ = ["Clip", "Picture", "clip"]

#: Containers that a clip can be written in.
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
_LIMITS = DecodeLimits()


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that was written: `[start_us, end_us)` of its video; of its `frames` so many were `copied` untouched."""

    path: Path
    start_us: int
    end_us: int
    frames: int
    copied: int
    size_bytes: int


def clip(
    uri: str,
    start_us: int,
    end_us: int,
    out: Path | str,
    *,
    overwrite: bool = False,
    edit: Callable[[Picture, int], Picture] | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Clip:
    """Writes `[start_us, end_us)` of the video at `uri` to `out` (.mp4, .mov, .mkv or .webm).

    The first frame is the one on screen at `start_us`, even where it was presented before; the last one ends at
    `end_us`, or at the end of the video. All sound tracks are kept, subtitles are not. `edit` changes every picture
    (uint8 [H, W, 3] RGB, upright; given with the time at which it is presented) before it is written; nothing is copied
    then. `out` appears whole or not at all. `is_wanted` is asked for every packet: False ends the work.

    Raises UsageError (an empty span, one beyond the video, nothing shown in it, `out` exists or cannot be written),
    VideoError (the video cannot be read; timeout: it is not wanted any more).
    """
    out = Path(out)
    _check_out(out, overwrite)
    video = opened(uri)
    if end_us <= start_us:
        raise UsageError(f"the span from {format_time(start_us)} to {format_time(end_us)} is empty")
    if not 0 <= start_us < video.duration_us:
        raise UsageError(
            f"{uri} is {format_time(video.duration_us)} long: no clip can begin at {format_time(start_us)}"
        )
    end_us = min(end_us, video.duration_us)
    part = _reserve(out)
    try:
        source = PacketSource(video, _LIMITS)
        try:
            frames, copied = _write(part, source, start_us, end_us, edit, is_wanted)
        finally:
            source.close()
        if not frames:
            raise UsageError(f"{uri} shows nothing from {format_time(start_us)} to {format_time(end_us)}")
        size = part.stat().st_size
        os.replace(part, out)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    return Clip(out, start_us, end_us, frames, copied, size)


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out}: a clip is written as one of {', '.join(SUFFIXES)}")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; name another file, or add --force to replace it")


def _reserve(out: Path) -> Path:
    """A file beside `out` to write to, so that nobody sees half a clip under its name."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose files are their owner's alone: the system itself takes the umask off these rights. A
        # process can read its umask only by setting it, for all of its threads.
        part = out.with_name(f".{out.stem[:40]}-{secrets.token_hex(8)}{out.suffix.lower()}")
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror})") from error
    return part


def _write(
    path: Path,
    source: PacketSource,
    start_us: int,
    end_us: int,
    edit: Callable[[Picture, int], Picture] | None,
    is_wanted: Callable[[], bool],
) -> tuple[int, int]:
    """Writes the clip; returns how many frames it has and how many of them were copied."""
    cut = plan_cut(source, start_us, end_us) if edit is None else None
    # The zero of the clip is that of the span, whatever comes first: muxers must not move it.
    options = {"avoid_negative_ts": "disabled"}
    if path.suffix in (".mp4", ".mov"):
        options["movflags"] = "+faststart"
    with _written(path):
        container = av.open(str(path), "w", container_options=options)
    with container:
        part: VideoPart | None = Copied.made(container, source, cut) if cut is not None else None
        part = part or Encoded(container, source, start_us, end_us, edit)
        sound = Sound(container, source.video, start_us, end_us)
        try:
            for _, packet in merge(part.packets(), sound.packets(), key=lambda timed: timed[0]):
                if not is_wanted():
                    raise VideoError(source.video.uri, "timeout", "nobody waits for its clip any more")
                with _written(path):
                    container.mux(packet)
            with _written(path):
                container.close()
        finally:
            sound.close()
    return part.frames, part.copied


class _written:
    """libav's errors while writing as a UsageError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, av.error.FFmpegError):
            raise UsageError(f"{self._path.parent}: the clip cannot be written there ({error.strerror})") from error
