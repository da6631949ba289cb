"""What a video of the archive is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """One object found in the archive, not yet decoded. `uri` is an fsspec URI or an absolute path."""

    uri: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Video:
    """One content of the archive, under all the names it was found by.

    `video_id` is the content fingerprint (32 hex digits): the same bytes under two names are one video.
    `duration_us` is the end of the last frame on the video's own timeline (DESIGN.md, "Time"); `offset_us` is what
    was subtracted from the raw timestamps to get there. `width` x `height` is the picture as a player shows it:
    after `rotation` (degrees clockwise a player turns the coded picture: 0, 90, 180, 270) and with square pixels.
    """

    video_id: str
    uris: tuple[str, ...]
    size_bytes: int
    duration_us: int
    offset_us: int
    width: int
    height: int
    rotation: int
    codec: str
    frame_rate: float
    stream_index: int

    @property
    def uri(self) -> str:
        """The name it is read by."""
        return self.uris[0]
