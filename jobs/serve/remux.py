"""The same pictures in a container that browsers play: streams are copied into MP4, not encoded again.

Times stay those of the video's own timeline, so that a second on the page is that second of the log.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock

import av

from pipeline.errors import VideoError
from pipeline.stills import opened
from pipeline.storage import open_object

#: Sound that MP4 players understand; other sound is left out.
SOUND = {"aac", "mp3", "opus", "flac", "ac3", "eac3"}


def remux(uri: str, out: Path, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Copy the picture and the first understood sound of `uri` into an MP4. Raises VideoError."""
    video = opened(uri)
    try:
        with (
            av.open(open_object(uri), "r", metadata_errors="replace") as source,
            av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as target,
        ):
            picture = source.streams[video.stream_index]
            sound = next((s for s in source.streams.audio if s.codec_context.name in SOUND), None)
            streams = {picture.index: target.add_stream_from_template(picture)}
            if picture.codec_context.name == "hevc":
                streams[picture.index].codec_context.codec_tag = "hvc1"  # what Safari asks for
            if sound is not None:
                streams[sound.index] = target.add_stream_from_template(sound)
            for packet in source.demux(*(s for s in (picture, sound) if s is not None)):
                if packet.dts is None or packet.pts is None:
                    continue
                if not is_wanted():
                    raise VideoError(uri, "timeout", "nobody waits for it any more")
                shift = round(video.offset_us / 1_000_000 / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise VideoError(uri, "unreadable", f"its streams cannot be put into MP4 ({said})") from error


class Remuxed:
    """Files in a temporary folder, by video; the ones used longest ago give way. Thread-safe."""

    def __init__(self, folder: str, most_bytes: int) -> None:
        self._folder, self._most_bytes = Path(folder), most_bytes
        self._lock = Lock()
        self._making: dict[str, Lock] = {}
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def open(self, video_id: str, uri: str) -> int:
        """A file descriptor of the video in MP4, made if need be. Raises VideoError."""
        with self._lock:
            making = self._making.setdefault(video_id, Lock())
        with making:  # who asks for the same meanwhile waits for the one that is being made
            path = self._folder / f"{video_id}.mp4"
            if video_id not in self._sizes:
                part = path.with_suffix(".part")
                try:
                    remux(uri, part, self._folder.exists)
                    os.replace(part, path)
                finally:
                    part.unlink(missing_ok=True)
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with self._lock:
                self._sizes[video_id] = os.fstat(handle).st_size
                self._sizes.move_to_end(video_id)
                while sum(self._sizes.values()) > self._most_bytes and len(self._sizes) > 1:
                    oldest, _ = self._sizes.popitem(last=False)
                    with suppress(OSError):  # whoever reads it has it open
                        (self._folder / f"{oldest}.mp4").unlink()
            return handle
