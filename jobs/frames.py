"""secondsight frames: the very stills that a model would see, as image files that carry their times."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.clock import format_time, parse_time
from pipeline.decode import DecodeLimits, decode_times, decode_windows
from pipeline.errors import UsageError, VideoError
from pipeline.plan import SECOND_US, Sampling, Window
from pipeline.probe import probe
from pipeline.redact import parse, redactor
from pipeline.redacted import Hiding
from pipeline.storage import open_object
from pipeline.video import Video

DESCRIPTION = """\
Write the stills that a model would see: for each wanted time the last frame presented at or before it, upright,
with square pixels, scaled, named by its own presentation time.

  secondsight frames match.mp4 --fps 2 --out stills
  secondsight frames match.mp4 --at 45 --at 1:02:45.5 --short-side 0 --out stills
  secondsight frames match.mp4 --start 10:00 --end 11:00 --fps 1/5 --out stills --format jsonl

Times are seconds (45, 45.5), m:ss or h:mm:ss (1:02:45.5) on the video's own timeline, as a player shows it. A frame
that stays on screen over several wanted times is written once. What could not be decoded is named on standard error,
and the exit status is then 1."""

_WINDOW_US = 10 * SECOND_US


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="path or fsspec URI")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the stills; made where missing")
    parser.add_argument("--fps", default="2", help="stills per second: 2, 0.5, 1/10, 30000/1001 (default: 2)")
    parser.add_argument("--at", metavar="T", action="append", help="only the still at T; several: give it again")
    parser.add_argument("--start", metavar="T", default="0", help="from T (default: 0)")
    parser.add_argument("--end", metavar="T", help="before T (default: the end of the video)")
    parser.add_argument("--short-side", metavar="PX", type=int, default=224, help="0: not scaled (default: 224)")
    parser.add_argument("--max-pixels", metavar="N", type=int, help="at most N pixels a still")
    parser.add_argument(
        "--tolerance", metavar="S", default="0", help="take a cheaper frame up to S seconds away (default: 0, exact)"
    )
    parser.add_argument("--decoder", choices=["pyav", "decord"], default="pyav", help="default: pyav")
    parser.add_argument("--redact", metavar="WHAT,...", help="hide it: text, codes, faces (see `run --redact`)")
    parser.add_argument("--stream", metavar="N", type=int, help="stream index, where a file holds several videos")
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="decoders in parallel (default: 1)")
    parser.add_argument("--image", choices=["png", "jpg"], default="png", help="kind of image file (default: png)")
    parser.add_argument(
        "--format",
        choices=["table", "jsonl"],
        default="table",
        help='jsonl prints {"time_us", "end_us", "file"} lines (default: table)',
    )


def main(args: argparse.Namespace) -> int:
    sampling = Sampling(
        fps=_fps(args.fps),
        tolerance_us=parse_time(args.tolerance),
        short_side=_side(args.short_side),
        max_pixels=args.max_pixels,
        decoder=args.decoder,
        redact=parse(args.redact) if args.redact is not None else (),
    )
    start_us, end_us = parse_time(args.start), parse_time(args.end) if args.end is not None else None
    if args.threads < 1:
        raise UsageError("--threads must be 1 or more")
    if end_us is not None and end_us <= start_us:
        raise UsageError(f"--end {args.end} is not after --start {args.start}")
    times = sorted({parse_time(t) for t in args.at}) if args.at else None
    limits = DecodeLimits(threads=args.threads)
    video = _probe(args.video, args.stream, limits)
    folder = _folder(args.out)
    if times is not None:
        frames = _at(video, times, sampling, limits)
    else:
        frames = _between(video, start_us, video.duration_us if end_us is None else end_us, sampling, limits)
    written = 0
    lost: list[tuple[int, int]] = []
    for time_us, frame_end_us, pixels in frames:
        if pixels is None:
            if not lost or lost[-1] != (time_us, frame_end_us):
                lost.append((time_us, frame_end_us))
            continue
        path = folder / f"{_name(time_us)}.{args.image}"
        _write(path, pixels)
        written += 1
        if args.format == "jsonl":
            print(json.dumps({"time_us": time_us, "end_us": frame_end_us, "file": str(path)}), flush=True)
        else:
            print(f"{format_time(time_us):>14}  {path}")
    if args.format == "table":
        print(f"{written} stills of {video.width}x{video.height} {video.codec}, {format_time(video.duration_us)} long")
    for a, b in lost:
        print(f"secondsight: {args.video}: {format_time(a)} to {format_time(b)} could not be decoded", file=sys.stderr)
    if times is not None and not written and not lost:
        print(f"secondsight: {args.video}: nothing is shown at the times asked for", file=sys.stderr)
    return 1 if lost else 0


def _fps(text: str) -> Fraction:
    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if not 0 < fps <= 1000:
        raise UsageError(f"--fps {text}: write a rate above 0 and up to 1000, as 2, 0.5 or 30000/1001")
    return fps


def _side(px: int) -> int | None:
    if px < 0 or px == 1:
        raise UsageError("--short-side is 2 px or more, or 0 for the picture's own size")
    return px or None


def _probe(uri: str, stream: int | None, limits: DecodeLimits) -> Video:
    source = open_object(uri)
    if isinstance(source, str):
        size = os.stat(source).st_size
    else:
        with source:
            size = source.seek(0, os.SEEK_END)
    video = probe(uri, size, "", (uri,), stream_index=stream, limits=limits)
    return replace(video, uris=(uri,))


def _folder(name: str) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {name}: {error.strerror}") from error
    return folder


def _at(video: Video, times: list[int], sampling: Sampling, limits: DecodeLimits) -> Iterator[tuple[int, int, Any]]:
    last: int | None = None
    hide = Hiding(video, sampling, redactor(sampling.redact)) if sampling.redact else None
    for answer in decode_times(video, times, replace(sampling, redact=()), limits):
        if answer.time_us != last:
            seen = answer.pixels
            if hide is not None and seen is not None:
                seen = hide(seen, answer.at_us, answer.time_us, answer.end_us)
            yield answer.time_us, answer.end_us, seen
        last = answer.time_us


def _between(
    video: Video, start_us: int, end_us: int, sampling: Sampling, limits: DecodeLimits
) -> Iterator[tuple[int, int, Any]]:
    windows = (
        Window(video.video_id, i, at, min(at + _WINDOW_US, end_us))
        for i, at in enumerate(range(start_us, end_us, _WINDOW_US))
    )
    last: int | None = None
    for _, frames in decode_windows(video, windows, sampling, limits):
        for a, b in frames.lost_us:
            yield a, b, None
        for time_us, frame_end_us, pixels in zip(
            frames.time_us.tolist(), frames.end_us.tolist(), frames.pixels, strict=True
        ):
            if last is None or time_us > last:  # a window begins with the frame that the one before ended with
                yield time_us, frame_end_us, pixels
                last = time_us


def _name(time_us: int) -> str:
    """A file name that sorts by time: seconds with microseconds."""
    seconds, micros = divmod(abs(time_us), SECOND_US)
    return f"{'-' if time_us < 0 else ''}{seconds:06d}.{micros:06d}"


def _write(path: Path, pixels: Any) -> None:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    done, data = cv2.imencode(path.suffix, pixels[..., ::-1], options)
    if not done:
        raise VideoError(str(path), "unsupported", f"no {path.suffix} image can be made of {pixels.shape}")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
