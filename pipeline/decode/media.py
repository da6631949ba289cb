"""Opening a container safely: known formats only, no stream but the one wanted, libav's errors as VideoErrors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from pipeline.decode.limits import DecodeLimits
from pipeline.errors import VideoError
from pipeline.storage import open_object
from pipeline.video import Video

#: libav's demuxers of moving pictures (and of sound, so that a sound file is named as what it is). Anything else is
#: refused: playlists (hls, dash, concat) open other addresses, and text or a still picture also "is" a video to libav.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,mpegvideo,flv,live_flv,avi,asf,ogg,mxf,mxf_opatom,gxf,dv,"
    "nut,ivf,obu,av1,h264,hevc,vvc,m4v,h263,vc1,vc1test,dirac,rm,wtv,nsv,gif,apng,yuv4mpegpipe,"
    "mp3,wav,flac,aac,ac3,eac3,aiff,ape,w64,amr,dts,truehd"
)

#: Containers whose own timeline has a zero; a late first frame stays late. All others begin at their start time.
_ZERO_FORMATS = frozenset({"mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "asf", "mxf"})


@contextmanager
def open_media(uri: str, limits: DecodeLimits, size_bytes: int | None = None) -> Iterator[InputContainer]:
    """The container at `uri`, opened for demuxing and closed on leaving. Nothing but `pipeline.storage` reads bytes.

    `size_bytes`: what the archive's listing said. Raises VideoError (what `open_object` raises; changed: another size;
    unreadable: not a container of moving pictures). libav's errors inside the `with` become VideoErrors too.
    """
    source = open_object(uri)
    try:
        _check_size(uri, source, size_bytes)
        options = {"max_pixels": str(limits.max_pixels), "threads": "1"}
        # "format_whitelist" is matched against every format that libav's probing finds, before it reads on.
        demuxing = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        with translated(uri):
            name = f"file:{source}" if isinstance(source, str) else source
            container = av.open(name, "r", options=options, container_options=demuxing, metadata_errors="replace")
        try:
            with container, translated(uri):
                yield container
        finally:  # a file that is being written breaks in many ways; what matters is that it changed
            _check_size(uri, source, size_bytes)
    finally:
        if not isinstance(source, str):
            source.close()


def _check_size(uri: str, source: Any, size_bytes: int | None) -> None:
    if size_bytes is None:
        return
    try:
        size = os.stat(source).st_size if isinstance(source, str) else getattr(source, "size", size_bytes)
    except OSError as error:
        raise VideoError(uri, "vanished", "it was removed while being read") from error
    if size != size_bytes:
        raise VideoError(
            uri, "changed", f"it had {size_bytes:,} bytes when listed and has {size:,} now: run again once it is whole"
        )


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """libav's exceptions as VideoErrors about `uri`."""
    try:
        yield
    except av.error.FileNotFoundError as error:
        raise VideoError(uri, "vanished", "it does not exist (any more)") from error
    except av.error.PermissionError as error:
        raise VideoError(uri, "denied", "no permission to read it") from error
    except av.error.MemoryError as error:
        raise VideoError(uri, "memory", "libav could not get the memory that it asks for") from error
    except (av.error.DecoderNotFoundError, av.error.PatchWelcomeError) as error:
        raise VideoError(uri, "unsupported", f"libav has no decoder for it ({error.strerror})") from error
    except av.error.FFmpegError as error:
        raise VideoError(
            uri,
            "unreadable",
            f"not a container of video that libav can read, or its index is missing ({error.strerror})",
        ) from error
    except OSError as error:
        raise VideoError(uri, "storage", f"reading failed ({error})") from error


def real_videos(container: InputContainer) -> list[VideoStream]:
    """The moving pictures of a container: no cover art, no thumbnails. Those marked as default come first."""
    no_video = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [s for s in container.streams.video if not s.disposition & no_video]
    return sorted(streams, key=lambda s: (not s.disposition & Disposition.default, s.index))


def select_stream(container: InputContainer, video: Video) -> VideoStream:
    """The stream that `video` names; every other stream is left out by the demuxer. Raises VideoError (changed)."""
    chosen = next((s for s in container.streams.video if s.index == video.stream_index), None)
    if chosen is None:
        raise VideoError(video.uri, "changed", f"stream {video.stream_index} is not there (any more)")
    if chosen.codec_context is None:
        raise VideoError(video.uri, "unsupported", "libav has no decoder for its codec")
    only(container, chosen)
    return chosen


def only(container: InputContainer, chosen: VideoStream) -> None:
    """Lets the demuxer pass over every stream but `chosen`."""
    for stream in container.streams:
        if stream.index != chosen.index:
            stream.discard = Discard.all


def has_own_zero(container: InputContainer) -> bool:
    """Whether the container defines the zero of its timeline (DESIGN.md, "Time")."""
    return not _ZERO_FORMATS.isdisjoint(container.format.name.split(","))
