"""secondsight export: events in the formats that players and other tools read."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from jobs.kinds import hint
from jobs.output import text
from jobs.pictured import events_of, save
from pipeline.errors import UsageError
from pipeline.export import Exported, activitynet, fiftyone, short_names, srt, table, webvtt
from pipeline.query import Match, Query
from pipeline.storage import local_path

DESCRIPTION = """\
Write events in the formats of other tools.

  secondsight export LOG --format vtt --video match.mp4 --out match.vtt    subtitles: any player shows the events
  secondsight export LOG --format srt --out subtitles/                     a file for each video
  secondsight export LOG --format activitynet --out events.json            `secondsight evaluate` reads it too
  secondsight export LOG --format fiftyone --out dataset/                  a FiftyOneTemporalDetectionDataset
  secondsight export LOG --format csv --kind goal

Subtitles of several videos go to a folder, those of one to a file (or, --out subtitles/, to a folder too).
Without --video all videos of the log; of several runs over a video the newest that is done, or --run.
WebVTT holds a cue for each event; SRT, whose players cannot show two at once, has what goes on together in one."""

FORMATS = ("activitynet", "vtt", "srt", "csv", "fiftyone")

#: Of the formats that are one file, or one for each video.
SUFFIXES = {"activitynet": ".json", "vtt": ".vtt", "srt": ".srt", "csv": ".csv"}
ONE_FILE = ("activitynet", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="path or URI of the event log")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--video", metavar="NAME", action="append", help="the video; several: give it again")
    parser.add_argument("--kind", metavar="KIND", action="append", help="only events of this kind; may be repeated")
    parser.add_argument("--run", metavar="ID", help="as this run saw it (its id, or the beginning of one)")
    parser.add_argument("--out", metavar="PATH", help="a file, - for standard output (the default), or a folder/")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def main(args: argparse.Namespace) -> int:
    query = Query(args.log)
    matches = sorted(query.matches(args.video, args.run), key=lambda m: (m.name, m.entry.video_id))
    if not matches:
        raise UsageError(f"{args.log} holds no video" + (f" of run {args.run!r}" if args.run else " that is done"))
    in_folder = _in_folder(args, len(matches))
    films = _films(args.log, query, matches, args)
    if not any(film.events for film in films):
        hint(args.log, query, matches, args.kind)
    if args.format == "fiftyone":
        _write_all(args, fiftyone(films, lambda name: os.path.abspath(name) if local_path(name) else name))
    elif args.format in ("vtt", "srt"):
        subtitles = {film.video_id: (webvtt if args.format == "vtt" else srt)(film) for film in films}
        if in_folder:
            names = short_names(films, _file)
            _write_all(args, {f"{names[video_id]}.{args.format}": said for video_id, said in subtitles.items()})
        else:
            _write(args, subtitles[films[0].video_id])
    else:
        _write(args, activitynet(films, f"secondsight {args.log}") if args.format == "activitynet" else table(films))
    return 0


def _in_folder(args: argparse.Namespace, videos: int) -> bool:
    """Whether --out is a folder to write files into. Raises UsageError where it is not what the format needs."""
    out, fits = args.out, SUFFIXES.get(args.format)
    suffix = Path(out or "").suffix.lower()
    many = args.format not in ONE_FILE and (args.format not in SUFFIXES or videos != 1)
    what = f"the subtitles of {videos} videos are a file each" if fits else f"{args.format} is several files"
    if out is None or out == "-":
        if many:
            raise UsageError(f"--format {args.format} needs --out with a folder: {what}")
        return False
    if args.format in ONE_FILE:
        if out.endswith("/") or Path(out).is_dir():
            raise UsageError(f"{out} is a folder, and {args.format} is one file: name a {fits} file")
        if suffix != fits and suffix in SUFFIXES.values():
            raise UsageError(f"{out} is no name for {args.format}: name a {fits} file")
        return False
    if out.endswith("/") or Path(out).is_dir() or not suffix:
        return True
    if many:
        raise UsageError(f"{what}, and {out} looks like one file: name a folder (where it is meant as one: {out}/)")
    if suffix != fits:
        raise UsageError(f"{out} is no name for {args.format}: name a {fits} file (where a folder is meant: {out}/)")
    return False


def _films(log: str, query: Query, matches: list[Match], args: argparse.Namespace) -> list[Exported]:
    from pipeline.log import EventLog

    rows = EventLog.open(log).snapshot().table("videos", ["video_id", "run_id", "width", "height"]).to_pylist()
    sizes = {(row["video_id"], row["run_id"]): (row["width"], row["height"]) for row in rows}
    films = []
    for match in matches:
        entry = match.entry
        events = [e for e in events_of(query, match) if not args.kind or e["kind"] in args.kind]
        width, height = sizes.get((entry.video_id, entry.run_id), (None, None))
        name = entry.uris[0] if match.name == entry.video_id and entry.uris else match.name
        films.append(Exported(entry.video_id, name, entry.duration_us, width, height, events))
    return films


def _write(args: argparse.Namespace, content: str) -> None:
    if args.out is None or args.out == "-":
        with text(None) as out:
            out.write(content)
    else:
        save(Path(args.out), content.encode(), args.force)


def _write_all(args: argparse.Namespace, files: dict[str, str]) -> None:
    folder = Path(args.out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    there = [name for name in files if (folder / name).exists()]
    if there and not args.force:
        raise UsageError(f"{folder / there[0]} exists already; name another folder, or add --force to replace it")
    for name, content in files.items():
        save(folder / name, content.encode(), args.force)
    print(json.dumps(str(folder))[1:-1], f" {len(files)} files")


def _file(name: str) -> str:
    """A name for a file, of whatever a video is called, of 200 bytes at most."""
    plain = "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in name)
    return plain.encode()[-200:].decode(errors="ignore") or "video"
