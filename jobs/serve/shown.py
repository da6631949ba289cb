"""Which file stands for a video of the log: one that may be shown and holds the very content that was watched."""

from __future__ import annotations

from jobs.serve.reply import Problem
from jobs.serve.site import Site
from pipeline.clock import format_time
from pipeline.errors import VideoError
from pipeline.log.entry import Entry
from pipeline.redact import hidden_by


def shown(site: Site, video: str) -> tuple[Entry, str]:
    """A video, in any run, and the file or object whose pictures may be shown as its own.

    Raises Problem: unknown (404), redacted or outside the roots (403), gone (410), another content (409); VideoError.
    """
    video_id = site.archive.video_id(video)
    runs = site.archive.query.runs_of(video_id)
    if not runs:
        raise Problem(404, "unknown_video", f"no run has put {video[:200]!r} into the log")
    for entry in runs:
        if hidden := hidden_by(site.archive.uri, entry.run_id):
            what = ", ".join(str(one["what"]) for one in hidden)
            raise Problem(
                403,
                "redacted",
                f"run {entry.run_id} hid {what} in it from its model: no picture of it is shown here;"
                " `secondsight frame`, `clip` and `sheet` show it redacted",
            )
    first: Problem | VideoError | None = None
    for uri in site.rooted.names(runs[-1]):
        try:
            if site.contents.of(uri) == video_id:
                return runs[-1], uri
            raise Problem(
                409, "video_changed", f"{uri} is not the content that was watched: run it again, or restore it"
            )
        except (Problem, VideoError) as error:
            first = first or error
    assert first is not None
    raise first


def check_inside(entry: Entry, uri: str, time_us: int) -> None:
    """Raises Problem 422 for a time behind the video's end."""
    if entry.duration_us is not None and time_us >= entry.duration_us:
        length = format_time(entry.duration_us)
        raise Problem(422, "beyond_end", f"{uri} is {length} long: there is nothing at {format_time(time_us)}")
