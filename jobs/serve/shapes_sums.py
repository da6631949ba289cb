"""The shapes of sums over videos, by pages."""

from __future__ import annotations

from pydantic import BaseModel, Field

from jobs.serve.shapes import LEFT, NEXT, Kind, Span


class OfVideo(BaseModel):
    video: str
    video_id: str
    run_id: str


class VideoKinds(OfVideo):
    kinds: list[Kind]


class Page(BaseModel):
    next: str | None = Field(description=NEXT)
    videos_left: int = Field(description=LEFT)


class Kinds(Page):
    videos: list[VideoKinds]


class VideoDensity(OfVideo):
    counts: list[int]


class Density(Page):
    step_us: int
    videos: list[VideoDensity]


class VideoGaps(OfVideo):
    gaps: list[Span]


class Gaps(Page):
    videos: list[VideoGaps]
